"""Shing et al. 2025: KL(softmax((1 - t) zs + t zt) ‖ s), zs held fixed; t of a line or of the steps before."""

import math

from references import log_softmax, mean, positions, softmax

HOLDS = True  # the student's part of the target
SETTINGS = [{}, {"adaptive": False}]


def draw_options(rng, student_width, teacher_width, rows):
    start = float(rng.uniform(0, 0.9))
    return {
        "t_start": start,
        "t_end": float(rng.uniform(start, 1)),
        "alpha": float(rng.uniform(0, 1)),
        "beta": float(rng.uniform(0, 1)),
        "temperature": float(rng.uniform(0.5, 5)),
    }


def draw_extras(rng, student, teacher, options):
    return {"progress": float(rng.choice([0.0, 1.0, rng.random()]))} if rng.random() < 0.8 else {}


def reference(
    student,
    teacher,
    *,
    mask,
    state,
    t_start,
    t_end,
    temperature,
    adaptive=True,
    progress=1.0,
    variant="paper",
    held=None,
    **_,
):
    held = student if held is None else held
    t = t_start + (t_end - t_start) * progress
    t = min(t_end, max(t, state["t"].item())) if adaptive else t
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        target = ((1 - t) * held[i] + t * teacher[i]) / temperature
        p, log_p, log_s = softmax(target), log_softmax(target), log_softmax(student[i] / temperature)
        entropy = math.fsum(a * b for a, b in zip(p, log_p, strict=True)) if variant == "paper" else 0.0
        values.append(entropy - math.fsum(a * b for a, b in zip(p, log_s, strict=True)))
    return mean(values)
