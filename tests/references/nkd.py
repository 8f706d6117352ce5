"""Yang et al. 2023: -t_y log s_y, and γ λ² times the cross-entropy of the other classes, normalised among them."""

import math

from references import log_softmax, mean, positions


def draw_options(rng, student_width, teacher_width, rows):
    return {"gamma": float(rng.uniform(0, 4)), "temperature": float(rng.uniform(0.5, 5))}


def reference(student, teacher, *, mask, labels, gamma, temperature, **_):
    values = []
    for i in positions(student, mask):
        own = labels[i]
        rest = [c for c in range(student.shape[-1]) if c != own]
        log_s, log_t = log_softmax(student[i])[own], log_softmax(teacher[i])[own]
        among_s, among_t = (log_softmax(side[i] / temperature, rest) for side in (student, teacher))
        others = math.fsum(math.exp(among_t[c]) * among_s[c] for c in rest)
        values.append(-math.exp(log_t) * log_s - gamma * temperature**2 * others)
    return mean(values)
