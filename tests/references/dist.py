"""Huang et al. 2022: T² (β mean (1 - Pearson within a row) + γ mean (1 - Pearson within a class, over the batch))."""

import math
from fractions import Fraction

from references import mean, positions, softmax


def draw_options(rng, student_width, teacher_width, rows):
    return {name: float(rng.uniform(0.5, 4)) for name in ("beta", "gamma", "temperature")}


def pearson(a, b):
    a, b = centred(a), centred(b)
    norms = math.sqrt(math.fsum(x * x for x in a)) * math.sqrt(math.fsum(y * y for y in b))
    return math.fsum(x * y for x, y in zip(a, b, strict=True)) / (norms + 1e-8)


def centred(values):
    """In fractions: the rounding of a mean would not be small against 1e-8 when the values are all the same."""
    exact = [Fraction(float(value)) for value in values]
    return [float(value - sum(exact) / len(exact)) for value in exact]


def reference(student, teacher, *, mask, beta, gamma, temperature, **_):
    classes = student.shape[-1]
    where = list(positions(student, mask))
    if not where:
        return 0.0
    if classes == 1:
        return temperature**2 * gamma * (1 - pearson([student[i][0] for i in where], [teacher[i][0] for i in where]))
    ours, theirs = ([softmax(side[i] / temperature) for i in where] for side in (student, teacher))
    inter = mean([1 - pearson(s, t) for s, t in zip(ours, theirs, strict=True)])
    intra = mean([1 - pearson([s[c] for s in ours], [t[c] for t in theirs]) for c in range(classes)])
    return temperature**2 * (beta * inter + gamma * intra)
