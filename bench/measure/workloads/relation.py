"""KL of attention from queries and keys: tile by tile, against both sides' whole scores and their softmax."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Workload, some
from kdzoo.kernels.relation import decision, relation, relation_reference

NAMES = ("student_query", "student_key", "teacher_query", "teacher_key")


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    """Vectors that lie in memory as a model leaves them, (B, S, A, D)."""
    rows, heads, length, width = sizes.values()
    shape = (rows, length, heads, width)
    return {name: torch.randn(shape, device=device).to(dtype).transpose(1, 2) for name in NAMES}


def kernel(
    student_query: Tensor, student_key: Tensor, teacher_query: Tensor, teacher_key: Tensor, **options: Any
) -> Tensor:
    return relation((student_query, student_key), (teacher_query, teacher_key), **options)


def reference(
    student_query: Tensor, student_key: Tensor, teacher_query: Tensor, teacher_key: Tensor, **options: Any
) -> Tensor:
    return relation_reference((student_query, student_key), (teacher_query, teacher_key), **options)


def naive(student_query: Tensor, student_key: Tensor, teacher_query: Tensor, teacher_key: Tensor) -> Tensor:
    """As it is usually written: both sides' scores whole, and a softmax of each."""
    scale = math.sqrt(student_query.shape[-1])
    ours = (student_query @ student_key.mT / scale).float().log_softmax(-1)
    theirs = (teacher_query @ teacher_key.mT / scale).float().log_softmax(-1)
    return F.kl_div(ours.flatten(0, -2), theirs.flatten(0, -2), reduction="batchmean", log_target=True)


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Four factors read once; with the gradient, two written. A product a side, 12 operations a score; two products
    more for the gradient, and two operations."""
    vectors = math.prod(sizes.values())
    scores = vectors * sizes["S"] // sizes["D"]
    product = 2 * vectors * sizes["S"]
    return (
        Floor(4 * vectors * item, 2 * product + 12 * scores),
        Floor(6 * vectors * item, 4 * product + 14 * scores),
    )


WORKLOAD = Workload(
    axes=("BASD",),
    shapes={
        "cpu": ("32x12x32x32", "8x12x128x64", "32x12x128x64", "2x12x512x64"),
        "cuda": ("64x12x128x64", "16x12x512x64", "16x16x512x128", "4x12x4096x64"),
    },
    inputs=inputs,
    gradient=NAMES[:2],
    kernel=kernel,
    naive=naive,
    reference=reference,
    floor=floor,
    decide=lambda given: decision(given["student_query"]),
    odd=(
        ("1x2x5x16", {}),
        ("2x2x37x16", {}),
        ("1x3x70x37", {"kind": "mse", "mask": some}),
        ("2x1x33x64", {"kind": "ce", "mask": some}),
    ),
)
