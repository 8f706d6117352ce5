"""Park et al. 2019, equations 5 to 7: distances of all pairs over the mean of the positive ones, smooth-L1."""

import math

from references import mean, slots, smooth_l1

AT_EQUAL = 0.0


def scaled(vectors, rows, slot):
    table = {}
    for i in rows:
        for j in rows:
            square = math.fsum((vectors[(i, *slot)] - vectors[(j, *slot)]) ** 2)
            table[i, j] = 0.0 if i == j else math.sqrt(max(square, 1e-12))
    unit = mean([distance for distance in table.values() if distance > 0])
    return {pair: distance / unit if unit else 0.0 for pair, distance in table.items()}


def reference(student, teacher, *, mask, **_):
    values = []
    for slot, rows in slots(student, mask):
        ours, theirs = scaled(student, rows, slot), scaled(teacher, rows, slot)
        values += [smooth_l1(ours[pair], theirs[pair]) for pair in ours]
    return mean(values)
