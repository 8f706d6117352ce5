"""Romero et al. 2015, equation 3: half the squared distance after the regressor, which the suite has applied."""

from references import mean, positions


def draw_options(rng, student_width, teacher_width, rows):
    return {"student_dim": student_width, "teacher_dim": teacher_width, "bias": bool(rng.integers(2))}


def reference(student, teacher, *, mask, **_):
    return mean(
        [sum((s - t) ** 2 for s, t in zip(student[i], teacher[i], strict=True)) / 2 for i in positions(student, mask)]
    )
