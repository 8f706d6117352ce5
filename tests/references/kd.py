"""Hinton et al. 2015: T² KL(teacher ‖ student) of the softened classes."""

from references import log_softmax, mean, positions, softmax

AT_EQUAL = 0.0


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def reference(student, teacher, *, mask, temperature, **_):
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        p = softmax(teacher[i] / temperature)
        log_p, log_q = log_softmax(teacher[i] / temperature), log_softmax(student[i] / temperature)
        values.append(temperature**2 * sum(p[c] * (log_p[c] - log_q[c]) for c in range(len(p))))
    return mean(values)
