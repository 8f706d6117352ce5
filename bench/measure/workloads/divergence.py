"""KL of a vocabulary from logits: one operator against softmax, log-softmax and kl_div, one after another."""

from __future__ import annotations

import math

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Missing, Workload, pair, some
from kdzoo.kernels.divergence import divergence, divergence_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written; over (B·S, C), since batchmean divides by the first axis alone."""
    s, t = (side.float().flatten(0, -2) for side in (student, teacher))
    return F.kl_div(F.log_softmax(s, -1), F.softmax(t, -1), reduction="batchmean")


def liger(student: Tensor, teacher: Tensor) -> Tensor:
    """liger-kernel's KL, which starts from log-probabilities."""
    try:
        from liger_kernel.transformers import LigerKLDIVLoss
    except ImportError as error:
        raise Missing(f"liger_kernel has no LigerKLDIVLoss: {error}") from error
    s, t = (side.flatten(0, -2).log_softmax(-1) for side in (student, teacher))
    value: Tensor = LigerKLDIVLoss(reduction="batchmean", log_target=True)(s, t)
    return value


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Student and teacher read once; with the gradient, that written once. Of each side maximum, difference,
    exponential and sum, and four for the value; four more for the gradient."""
    elements = math.prod(sizes.values())
    return Floor(2 * elements * item, 12 * elements), Floor(3 * elements * item, 16 * elements)


WORKLOAD = Workload(
    axes=("BC", "BSC"),
    shapes={
        "cpu": ("256x1000", "64x30522", "16x128256", "8x32x30522"),
        "cuda": ("4096x30522", "4096x128256", "16x512x30522"),
    },
    inputs=pair,
    gradient=("student",),
    kernel=divergence,
    naive=naive,
    reference=divergence_reference,
    floor=floor,
    decide=lambda given: operator.decision(given["student"]),
    odd=(
        ("5x37", {}),
        ("3x7x8193", {"mask": some, "kind": "jsd", "mixture": 0.5}),
        ("9x1003", {"kind": "reverse_kl", "temperature": 2.5}),
        ("4x2049", {"kind": "cross_entropy", "mixture": 0.2}),
    ),
    peers={"liger-kernel": liger},
)
