"""Jiao et al. 2020, equation 7: the mean squared difference of scores over real pairs; released: over all entries."""

import numpy as np

from references import attention_scores, mean

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, variant="paper", **_):
    ours, theirs = attention_scores(student), attention_scores(teacher)
    values = []
    for b, a, q, k in np.ndindex(*ours.shape):
        pair = [ours[b, a, q, k], theirs[b, a, q, k]]
        if variant == "released":
            # Their mask adds -10000, which no score makes up for, but one in thousands of those drawn here.
            masked = mask is not None and not mask[b, k]
            pair = [0.0 if masked or score <= -100 else score for score in pair]
        elif mask is not None and not (mask[b, q] and mask[b, k]):
            continue
        values.append((pair[0] - pair[1]) ** 2)
    return mean(values)
