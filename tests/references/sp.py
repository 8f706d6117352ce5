"""Tung & Mori 2019, equations 1 to 4: Gram matrices, each row at length one, mean squared difference."""

import numpy as np

from references import mean, normalised, slots

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    values = []
    for slot, rows in slots(student, mask):
        for i in rows:
            a, b = (
                normalised(np.array([side[(i, *slot)] @ side[(j, *slot)] for j in rows])) for side in (student, teacher)
            )
            values += [(x - y) ** 2 for x, y in zip(a, b, strict=True)]
    return mean(values)
