"""Aguilar et al. 2020, equation 1: KL(teacher ‖ student) of every real query's attention over real keys."""

import math

from references import attention_scores, log_softmax, mean

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    ours, theirs = attention_scores(student), attention_scores(teacher)
    rows, heads, length, _ = ours.shape
    values = []
    for b in range(rows):
        valid = [k for k in range(length) if mask is None or mask[b, k]]
        for a in range(heads):
            for q in valid:
                log_p, log_q = log_softmax(theirs[b, a, q], valid), log_softmax(ours[b, a, q], valid)
                values.append(sum(math.exp(log_p[k]) * (log_p[k] - log_q[k]) for k in valid))
    return mean(values)
