"""COS-NCE with in-batch negatives: the linear form against the matrix of all cosines of each slot."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.workloads import Floor, Inputs, Workload
from kdzoo.kernels.cos_nce import cos_nce, cos_nce_reference, decision


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    student, teacher = (torch.randn(tuple(sizes.values()), device=device).to(dtype) for _ in range(2))
    return {"student": student, "teacher": teacher}


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss slot by slot from all cosines at once, as it is usually written."""
    values = []
    for s, t in zip(_slots(student), _slots(teacher), strict=True):
        cosines = F.normalize(s.float(), dim=-1) @ F.normalize(t.float(), dim=-1).T
        positive = cosines.diagonal()
        negative = (cosines.sum(1) - positive) / max(len(s) - 1, 1)
        values.append((2 - 1.5 * positive + 0.5 * negative).mean())
    return torch.stack(values).mean()


def _slots(vectors: Tensor) -> tuple[Tensor, ...]:
    return vectors.reshape(len(vectors), -1, vectors.shape[-1]).unbind(1)


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
    inputs=inputs,
    gradient=("student",),
    kernel=cos_nce,
    naive=naive,
    reference=cos_nce_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
)
