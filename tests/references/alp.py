"""Passban et al. 2021: each student vector against the teacher's layers, mixed by a softmax over dot products."""

import math

from references import mean, softmax

LAYOUTS = [("BMD", False), ("BMSD", False), ("BMSD", True)]


def reference(student, teacher, *, mask, **_):
    rows, layers = student.shape[:2]
    places = [()] if student.ndim == 3 else [(s,) for s in range(student.shape[2])]
    values = []
    for b in range(rows):
        for place in places:
            if mask is not None and not mask[(b, *place)]:
                continue
            candidates = [teacher[(b, n, *place)] for n in range(teacher.shape[1])]
            total = 0.0
            for m in range(layers):
                own = student[(b, m, *place)]
                weights = softmax([math.fsum(own * candidate) for candidate in candidates])
                mixed = sum(weight * candidate for weight, candidate in zip(weights, candidates, strict=True))
                total += math.fsum((own - mixed) ** 2) / len(own)
            values.append(total)
    return mean(values)
