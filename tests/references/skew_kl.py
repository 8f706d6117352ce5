"""Ko et al. 2024: KL(t ‖ α t + (1 - α) s), or with the sides exchanged; released: without the teacher's entropy."""

import math

from references import log_softmax, mean, positions, softmax

SETTINGS = [{}, {"reverse": True}, {"alpha": 0.0}]


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def reference(student, teacher, *, mask, temperature, alpha=0.1, reverse=False, variant="paper", **_):
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        p, q = (teacher[i], student[i]) if not reverse else (student[i], teacher[i])
        log_p, log_q = log_softmax(p / temperature), log_softmax(q / temperature)
        p, q = softmax(p / temperature), softmax(q / temperature)
        value = 0.0
        for c in range(len(p)):
            log_mixed = math.log(alpha * p[c] + (1 - alpha) * q[c]) if alpha else log_q[c]
            value += p[c] * ((log_p[c] if reverse or variant == "paper" else 0.0) - log_mixed)
        values.append(value)
    return mean(values)
