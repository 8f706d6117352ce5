"""Jin et al. 2023: KL, and squared differences of the relations of rows and of classes, added up over temperatures."""

import math

import numpy as np

from references import log_softmax, mean, positions, softmax

AT_EQUAL = 0.0
SETTINGS = [{}, {"temperatures": (1.5,)}, {"temperatures": (1.0, 4.0), "beta": 0.0, "gamma": 3.0}]


def apart(ours, theirs):
    """Σ over pairs of vectors of the squared difference of their products on the two sides."""
    pairs = [(a, b) for a in range(len(ours)) for b in range(len(ours))]
    return math.fsum((math.fsum(theirs[a] * theirs[b]) - math.fsum(ours[a] * ours[b])) ** 2 for a, b in pairs)


def reference(
    student, teacher, *, mask, temperatures=(2.0, 3.0, 4.0, 5.0, 6.0), beta=1.0, gamma=1.0, variant="paper", **_
):
    where, total = list(positions(student, mask)), 0.0
    if not where:
        return total
    for temperature in temperatures:
        ours, theirs = ([softmax(side[i] / temperature) for i in where] for side in (student, teacher))
        logs = [(log_softmax(student[i] / temperature), log_softmax(teacher[i] / temperature)) for i in where]
        kl = mean([math.fsum(t * (log_t - log_s)) for t, (log_s, log_t) in zip(theirs, logs, strict=True)])
        total += kl * (temperature**2 if variant == "released" else 1)
        total += beta * apart(ours, theirs) / len(where)
        columns = (np.array(side).T for side in (ours, theirs))
        total += gamma * apart(*columns) / student.shape[-1]
    return total
