"""RKD's angles: cosines from the rows' products, tile by tile, against the tensor of all B³ of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Workload
from kdzoo.kernels.gram import decision, gram, gram_reference


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    student, teacher = (torch.randn((sizes["B"], sizes["D"]), device=device).to(dtype) for _ in range(2))
    return {"student": student, "teacher": teacher, "relation": "angle"}


def naive(student: Tensor, teacher: Tensor, relation: str) -> Tensor:
    """All differences of rows, (B, B, D), normalised, and all products of those at each row, (B, B, B), multiplied in
    the inputs' type."""
    assert relation == "angle"
    ours, theirs = (
        F.normalize(side.float().unsqueeze(0) - side.float().unsqueeze(1), dim=-1).to(side.dtype)
        for side in (student, teacher)
    )
    return F.smooth_l1_loss((ours @ ours.mT).float(), (theirs @ theirs.mT).float(), reduction="sum")


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Both sides read once, the gradient written once. Products of half of the pairs of rows; of each side, six
    operations for each of the B²(B - 1)/2 cosines, and five to compare; with the gradient one more product and ten
    operations a cosine for what it gives to its three distances."""
    rows, width = sizes["B"], sizes["D"]
    cosines = rows * rows * (rows - 1) / 2
    forward = 2 * rows * rows * width + 17 * cosines
    return Floor(2 * rows * width * item, forward), Floor(
        3 * rows * width * item, forward + 2 * rows * rows * width + 10 * cosines
    )


WORKLOAD = Workload(
    axes=("BD",),
    shapes={"cpu": ("32x768", "128x768", "256x768"), "cuda": ("256x768", "512x768", "1024x768")},
    inputs=inputs,
    gradient=("student",),
    kernel=gram,
    naive=naive,
    reference=gram_reference,
    floor=floor,
    decide=lambda given: decision(given["student"], given["relation"]),
    odd=(
        ("7x37", {}),
        ("37x100", {"relation": "angle"}),
        ("37x100", {"relation": "distance"}),
        ("33x37", {"relation": "sp"}),
        ("33x37", {"relation": "pkt"}),
        ("33x37", {"relation": "cka"}),
    ),
)
