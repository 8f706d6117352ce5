"""Cui et al. 2024: the transport plan of Sinkhorn's iterations between the batch's predictions, times its costs.

The plan is that of plain sums and quotients. In float64 exp(-D/λ) is above 0 for the λ here.
"""

import math

from references import positions, softmax

SETTINGS = [{}, {"iterations": 1}, {"regularization": 0.5, "temperature": 1.0, "iterations": 3}]


def reference(student, teacher, *, mask, temperature=2.0, regularization=0.1, iterations=20, variant="paper", **_):
    where = list(positions(student, mask))
    if not where:
        return 0.0
    ours, theirs = ([softmax(side[i] / temperature) for i in where] for side in (student, teacher))
    costs = [[math.fsum(abs(s - t)) for t in theirs] for s in ours]
    plan = [[math.exp(-cost / regularization) for cost in row] for row in costs]
    for _iteration in range(iterations):
        plan = [[x / math.fsum(row) for x in row] for row in plan]
        sums = [math.fsum(column) for column in zip(*plan, strict=True)]
        plan = [[x / total for x, total in zip(row, sums, strict=True)] for row in plan]
    total = math.fsum(p * c for row, of in zip(plan, costs, strict=True) for p, c in zip(row, of, strict=True))
    return 0.001 * total if variant == "released" else total / len(where)
