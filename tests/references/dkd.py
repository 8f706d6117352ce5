"""Zhao et al. 2022: T² (α KL of the labelled class against the rest + β KL within the rest)."""

import math

from references import log_softmax, mean, positions

AT_EQUAL = 0.0
FEWEST_CLASSES = 3


def draw_options(rng, student_width, teacher_width, rows):
    return {name: float(rng.uniform(0.5, 9)) for name in ("alpha", "beta", "temperature")}


def reference(student, teacher, *, mask, labels, alpha, beta, temperature, **_):
    values = []
    for i in positions(student, mask):
        rest = [c for c in range(student.shape[-1]) if c != labels[i]]
        log_s, log_t = log_softmax(student[i] / temperature), log_softmax(teacher[i] / temperature)
        binary = [[log[labels[i]], rest_of(log, rest)] for log in (log_s, log_t)]
        tckd = sum(math.exp(t) * (t - s) for s, t in zip(*binary, strict=True))
        within_s, within_t = log_softmax(student[i] / temperature, rest), log_softmax(teacher[i] / temperature, rest)
        nckd = sum(math.exp(within_t[c]) * (within_t[c] - within_s[c]) for c in rest)
        values.append(temperature**2 * (alpha * tckd + beta * nckd))
    return mean(values)


def rest_of(log_p, rest):
    highest = max(log_p[c] for c in rest)
    return highest + math.log(sum(math.exp(log_p[c] - highest) for c in rest))
