"""Squared distance of normalised vectors (PKD): one pass with the gradient against normalize and a difference."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.workloads import Floor, Workload
from kdzoo.bench.workloads.cos_nce import inputs
from kdzoo.kernels.normalized_mse import normalized_mse, normalized_mse_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return (F.normalize(student.float(), dim=-1) - F.normalize(teacher.float(), dim=-1)).square().sum(-1).mean()


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Student and teacher read once; with the gradient, that written once. Two norms, two
    products, and the difference's square and sum; for the gradient a product, a difference and two products more."""
    elements = math.prod(sizes.values())
    return Floor(2 * elements * item, 9 * elements), Floor(3 * elements * item, 13 * elements)


WORKLOAD = Workload(
    axes=("BD", "BSD", "BMSD"),
    shapes={
        "cpu": ("1024x768", "32x128x768", "32x4x128x384"),
        "cuda": ("65536x768", "256x128x768", "64x12x128x768"),
    },
    inputs=inputs,
    gradient=("student",),
    kernel=normalized_mse,
    naive=naive,
    reference=normalized_mse_reference,
    floor=floor,
    decide=lambda given: operator.decision(given["student"]),
)
