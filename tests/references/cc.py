"""Peng et al. 2019, equations 6 and 11: the Taylor series of a Gaussian kernel of unit vectors, pair by pair."""

import math

from references import cos, mean, slots

AT_EQUAL = 0.0
SETTINGS = [{}, {"order": 1}, {"order": 4, "gamma": 0.9}]


def kernel(x, y, gamma, order):
    return math.exp(-2 * gamma) * sum((2 * gamma * cos(x, y)) ** p / math.factorial(p) for p in range(order + 1))


def reference(student, teacher, *, mask, gamma=0.4, order=2, **_):
    values = []
    for slot, rows in slots(student, mask):
        for i in rows:
            for j in rows:
                a, b = (kernel(side[(i, *slot)], side[(j, *slot)], gamma, order) for side in (student, teacher))
                values.append((a - b) ** 2)
    return mean(values)
