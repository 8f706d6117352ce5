"""COS-NCE with in-batch negatives: the linear form against the matrix of all cosines of each slot."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import ODD_ROWS, Floor, Workload, pair
from kdzoo.kernels.cos_nce import cos_nce, cos_nce_reference, decision


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss from the matrix of all cosines of each slot, in the inputs' type, as it is usually written."""
    rows = len(student)
    s, t = (_slots(F.normalize(side.float(), dim=-1).to(side.dtype)) for side in (student, teacher))
    cosines = (s @ t.transpose(1, 2)).float()
    positive = cosines.diagonal(dim1=1, dim2=2)
    negative = (cosines.sum(2) - positive) / max(rows - 1, 1)
    return (2 - 1.5 * positive + 0.5 * negative).mean()


def _slots(vectors: Tensor) -> Tensor:
    return vectors.reshape(len(vectors), -1, vectors.shape[-1]).transpose(0, 1)


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Student and teacher read once; with the gradient, that written once. A dozen operations an element."""
    elements = math.prod(sizes.values())
    return Floor(2 * elements * item, 9 * elements), Floor(3 * elements * item, 15 * elements)


WORKLOAD = Workload(
    axes=("BD", "BSD", "BMSD"),
    shapes={
        "cpu": ("256x768", "1024x768", "4096x768", "64x4x64x384"),
        "cuda": ("4096x768", "65536x768", "256x4x128x768", "64x12x128x384"),
    },
    inputs=pair,
    gradient=("student",),
    kernel=cos_nce,
    naive=naive,
    reference=cos_nce_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
    odd=(*ODD_ROWS, ("70x100", {})),
    candidates=tuple(
        {"block_m": rows, "num_warps": warps, "num_stages": stages}
        for rows, warps, stages in ((4, 4, 1), (4, 4, 3), (4, 8, 2), (8, 8, 2), (8, 16, 1))
    ),
)
