"""Passalis & Tefas 2018: divergence of the rows' neighbours; released: the mean over all pairs, other norms."""

import math

from references import cos, mean, slots


def neighbours(vectors, i, rows, slot, released):
    own = vectors[(i, *slot)]
    alike = []
    for j in rows:
        other = vectors[(j, *slot)]
        if released:
            lengths = (math.sqrt(math.fsum(own * own)) + 1e-7) * (math.sqrt(math.fsum(other * other)) + 1e-7)
            alike.append((1 + math.fsum(own * other) / lengths) / 2)
        else:
            alike.append((1 + cos(own, other)) / 2)
    return [x / math.fsum(alike) for x in alike]


def reference(student, teacher, *, mask, variant="paper", **_):
    values = []
    for slot, rows in slots(student, mask):
        for i in rows:
            q, p = (neighbours(side, i, rows, slot, variant == "released") for side in (student, teacher))
            terms = [x * math.log((x + 1e-7) / (y + 1e-7)) for x, y in zip(p, q, strict=True)]
            values += terms if variant == "released" else [math.fsum(terms)]
    return mean(values)
