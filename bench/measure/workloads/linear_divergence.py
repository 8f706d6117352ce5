"""KL of a vocabulary from hidden states and heads: a chunk of rows at a time against all logits at once."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Workload, some
from kdzoo.kernels.linear_divergence import decision, linear_divergence, linear_divergence_reference


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    def values(*shape: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(shape, device=device) * scale).to(dtype)

    rows, width, classes = [sizes[letter] for letter in "BS" if letter in sizes], sizes["D"], sizes["C"]
    # Hidden states of length one or so on each axis, and logits likewise.
    head = {name: values(classes, width, scale=width**-0.5) for name in ("weight", "teacher_weight")}
    return {"student": values(*rows, width), "teacher": values(*rows, width), **head}


def naive(student: Tensor, teacher: Tensor, weight: Tensor, teacher_weight: Tensor) -> Tensor:
    """As it is usually written: both heads' logits, then the divergence of all of them."""
    s, t = (F.linear(*side).float().flatten(0, -2) for side in ((student, weight), (teacher, teacher_weight)))
    return F.kl_div(F.log_softmax(s, -1), F.softmax(t, -1), reduction="batchmean")


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Hidden states and heads read once; with the gradient, the student's written once. A product for each side's
    logits, and one more for each of the two gradients."""
    rows, width, classes = sizes["B"] * sizes.get("S", 1), sizes["D"], sizes["C"]
    side, product = (rows + classes) * width * item, 2 * rows * width * classes
    return Floor(2 * side, 2 * product), Floor(3 * side, 4 * product)


WORKLOAD = Workload(
    axes=("BDC", "BSDC"),
    shapes={
        "cpu": ("256x312x30522", "1024x312x30522"),
        "cuda": ("4096x768x30522", "16384x768x30522", "4096x2048x128256"),
    },
    inputs=inputs,
    gradient=("student", "weight"),
    kernel=linear_divergence,
    naive=naive,
    reference=linear_divergence_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
    odd=(
        ("5x37x41", {}),
        ("3x7x33x1003", {"mask": some, "kind": "jsd", "mixture": 0.5}),
        ("40x29x8193", {"kind": "reverse_kl", "temperature": 2.5}),
    ),
)
