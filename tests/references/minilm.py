"""Wang et al. 2020, sections 3.1 and 3.2: KL of the attention and of the value relation, over real queries and keys."""

import math

import numpy as np

from references import attention_scores, log_softmax, mean

AT_EQUAL = 0.0
LAYOUTS = [("QKV", False), ("QKV", True)]


def divergences(ours, theirs, mask):
    """KL(teacher ‖ student) of every head and real query."""
    rows, heads, length, _ = ours.shape
    for b in range(rows):
        valid = [k for k in range(length) if mask is None or mask[b, k]]
        for a in range(heads):
            for q in valid:
                log_p, log_q = log_softmax(theirs[b, a, q], valid), log_softmax(ours[b, a, q], valid)
                yield sum(math.exp(log_p[k]) * (log_p[k] - log_q[k]) for k in valid)


def relation(vectors):
    rows, heads, length, width = vectors.shape
    scores = np.zeros((rows, heads, length, length))
    for b, a, i, j in np.ndindex(*scores.shape):
        scores[b, a, i, j] = math.fsum(vectors[b, a, i] * vectors[b, a, j]) / math.sqrt(width)
    return scores


def reference(student, teacher, *, mask, **_):
    attention = divergences(attention_scores(student), attention_scores(teacher), mask)
    values = divergences(relation(student.value), relation(teacher.value), mask)
    return mean(list(attention)) + mean(list(values))
