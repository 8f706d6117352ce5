"""Kornblith et al. 2019, section 3: one minus the alignment of the centred features, by the features' products."""

import math

import numpy as np

from references import mean, slots

AT_EQUAL = 0.0


def product(x, y):
    return math.fsum(float(x[:, a] @ y[:, b]) ** 2 for a in range(x.shape[1]) for b in range(y.shape[1]))


def reference(student, teacher, *, mask, **_):
    values = []
    for slot, rows in slots(student, mask):
        if len(rows) < 2:
            continue
        x, y = (np.array([side[(i, *slot)] for i in rows]) for side in (student, teacher))
        x, y = x - x.sum(0) / len(rows), y - y.sum(0) / len(rows)
        own, other = product(x, x), product(y, y)
        values.append(1 - product(x, y) / math.sqrt(own * other) if own and other else 1.0)
    return mean(values)
