"""Huang & Wang 2017, equations 4 to 6: the kernel of every pair of width columns, one row and layer at a time."""

import itertools

from references import mean, normalised

LAYOUTS = [("BSD", False), ("BSD", True), ("BMSD", False), ("BMSD", True)]
AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    values = []
    for index in itertools.product(*map(range, student.shape[:-2])):
        real = [s for s in range(student.shape[-2]) if mask is None or mask[index[0], s]]
        if not real:
            continue
        ours, theirs = ([normalised(column[real]) for column in side[index].T] for side in (student, teacher))
        own, other, cross = (
            mean([(x @ y) ** 2 for x in first for y in second])
            for first, second in ((ours, ours), (theirs, theirs), (ours, theirs))
        )
        values.append(own + other - 2 * cross)
    return mean(values)
