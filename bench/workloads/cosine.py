"""Mean of 1 - cosine of vectors: one pass with the gradient against cosine_similarity."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.workloads import Floor, Workload
from kdzoo.bench.workloads.cos_nce import inputs
from kdzoo.kernels.cosine import cosine, cosine_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Student and teacher read once; with the gradient, that written once. Three dot
    products; two products and a sum more for the gradient, and its scale."""
    elements = math.prod(sizes.values())
    return Floor(2 * elements * item, 6 * elements), Floor(3 * elements * item, 10 * elements)


WORKLOAD = Workload(
    axes=("BD", "BSD", "BMSD"),
    shapes={
        "cpu": ("1024x768", "32x128x768", "32x4x128x384"),
        "cuda": ("65536x768", "256x128x768", "64x12x128x768"),
    },
    inputs=inputs,
    gradient=("student",),
    kernel=cosine,
    naive=naive,
    reference=cosine_reference,
    floor=floor,
    decide=lambda given: operator.decision(given["student"]),
)
