"""Mean squared difference of vectors: one pass with the gradient against mse_loss."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.workloads import Floor, Workload
from kdzoo.bench.workloads.cos_nce import inputs
from kdzoo.kernels.hidden_mse import hidden_mse, hidden_mse_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return F.mse_loss(student.float(), teacher.float())


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Student and teacher read once; with the gradient, that written once. Difference, square,
    sum; one product for the gradient."""
    elements = math.prod(sizes.values())
    return Floor(2 * elements * item, 3 * elements), Floor(3 * elements * item, 4 * elements)


WORKLOAD = Workload(
    axes=("BD", "BSD", "BMSD"),
    shapes={
        "cpu": ("1024x768", "32x128x768", "32x4x128x384"),
        "cuda": ("65536x768", "256x128x768", "64x12x128x768"),
    },
    inputs=inputs,
    gradient=("student",),
    kernel=hidden_mse,
    naive=naive,
    reference=hidden_mse_reference,
    floor=floor,
    decide=lambda given: operator.decision(given["student"]),
)
