"""Fu et al. 2021, equations 3 to 5, one anchor and one negative at a time."""

import numpy as np
import torch

from references import cos, mean, positions

SETTINGS = [{}, {}]  # tried twice, with and without explicit negatives


def draw_extras(rng, student, teacher, options):
    if rng.random() < 0.5:
        return {}
    rows, *between, width = teacher.shape
    each = between if rng.random() < 0.5 else []
    return {"negatives": torch.from_numpy(rng.normal(size=(rows, int(rng.integers(0, 4)), *each, width)))}


def reference(student, teacher, *, mask, negatives=None, **_):
    values = []
    for i in positions(student, mask):
        row, slot = i[0], i[1:]
        if negatives is None:
            others = [teacher[(j, *slot)] for j in range(len(teacher)) if j != row and (mask is None or mask[j, i[-1]])]
        elif negatives.ndim == 3:
            others = list(negatives[row])
        else:
            others = [negatives[(row, k, *slot)] for k in range(negatives.shape[1])]
        positive_gap = 1 - cos(student[i], teacher[i])
        gaps = [1 - cos(student[i], other) for other in others]
        count = len(gaps)
        if count:
            values.append((2 * count - (np.sum(gaps) - count * positive_gap)) / (2 * count) + positive_gap)
        else:
            values.append(2 - 1.5 * (1 - positive_gap))
    return mean(values)
