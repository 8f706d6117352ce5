"""Agarwal et al. 2024: β KL(t ‖ m) + (1 - β) KL(s ‖ m); the two KL themselves at the ends."""

import math

from references import mean, positions, softmax

AT_EQUAL = 0.0
SETTINGS = [{"beta": 0.0}, {}, {"beta": 0.2}, {"beta": 1.0}]


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def log_probability(logits, c, temperature):
    top = max(logits)
    return (logits[c] - top) / temperature - math.log(sum(math.exp((z - top) / temperature) for z in logits))


def reference(student, teacher, *, mask, temperature, beta=0.5, **_):
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        s, t = softmax(student[i] / temperature), softmax(teacher[i] / temperature)
        value = 0.0
        for c in range(len(s)):
            log_s, log_t = (log_probability(side[i], c, temperature) for side in (student, teacher))
            if beta == 0:
                value += t[c] * (log_t - log_s)
            elif beta == 1:
                value += s[c] * (log_s - log_t)
            else:
                mixed = beta * t[c] + (1 - beta) * s[c]
                value += beta * t[c] * (log_t - math.log(mixed)) + (1 - beta) * s[c] * (log_s - math.log(mixed))
        values.append(value)
    return mean(values)
