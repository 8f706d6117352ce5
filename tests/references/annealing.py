"""Jafari et al. 2021: regression onto φ zt, φ = 1 - (t - 1)/T for a temperature t that falls from T to 1."""

import math

from references import mean, positions


def draw_options(rng, student_width, teacher_width, rows):
    return {"max_temperature": int(rng.integers(1, 9))}


def draw_extras(rng, student, teacher, options):
    return {"progress": float(rng.choice([0.0, 1.0, rng.random()]))} if rng.random() < 0.8 else {}


def reference(student, teacher, *, mask, max_temperature, progress=1.0, **_):
    temperature = max(max_temperature - math.floor(progress * max_temperature), 1)
    phi = 1 - (temperature - 1) / max_temperature
    classes = range(student.shape[-1])
    return mean([(student[i][c] - phi * teacher[i][c]) ** 2 for i in positions(student, mask) for c in classes])
