"""InfoNCE among a batch's rows, or those and a queue: streamed over the keys against the matrix of all scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Missing, Workload, some
from kdzoo.kernels.info_nce import decision, info_nce, info_nce_reference

TEMPERATURE = 0.07
HEADS = (256, 128, 64, 32, 16)  # the widths that inf-cl multiplies at once


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    def vectors(rows: int) -> Tensor:
        between = [sizes[letter] for letter in "MS" if letter in sizes]
        return torch.randn(rows, *between, sizes["D"], device=device).to(dtype)

    made: Inputs = {"student": vectors(sizes["B"]), "teacher": vectors(sizes["B"])}
    return {**made, "queue": vectors(sizes["N"])} if "N" in sizes else made


def naive(student: Tensor, teacher: Tensor, queue: Tensor | None = None) -> Tensor:
    """Cross entropy over the matrix of all scores of each slot, multiplied in the inputs' type, as it is usually
    written."""
    keys = teacher if queue is None else torch.cat([teacher, queue])
    own, keys = (_slots(F.normalize(side.float(), dim=-1).to(side.dtype)) for side in (student, keys))
    scores = (own @ keys.mT).float() / TEMPERATURE
    places = torch.arange(len(student), device=student.device).repeat(len(scores))
    return F.cross_entropy(scores.flatten(0, 1), places)


def _slots(vectors: Tensor) -> Tensor:
    """(B, D) or (B, M, S, D) as (M·S, B, D)."""
    return vectors.reshape(len(vectors), -1, vectors.shape[-1]).transpose(0, 1)


def inf_cl(student: Tensor, teacher: Tensor, queue: Tensor | None = None) -> Any:
    """The inf-cl library's tiled loss, which takes unit vectors, scaled."""
    try:
        from inf_cl import cal_flash_loss
    except ImportError as error:
        raise Missing(f"inf_cl has no cal_flash_loss: {error}") from error
    if student.dim() > 2:
        raise Missing("inf-cl takes rows alone, without layers and positions")
    width = student.shape[-1]
    head = next((head for head in HEADS if width % head == 0), None)
    if head is None:
        raise Missing(f"inf-cl takes widths that 16 divides, not {width}")
    keys = teacher if queue is None else torch.cat([teacher, queue])
    own, keys = F.normalize(student, dim=-1) / TEMPERATURE, F.normalize(keys, dim=-1)
    return cal_flash_loss(own, keys, torch.arange(len(own), device=own.device), head_dim=head).mean()


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """Both sides and the queue read once, the gradient written once; a product of all rows with all keys and, for the
    gradient, one of the scores with the keys."""
    rows, queue, width = sizes["B"], sizes.get("N", 0), sizes["D"]
    slots = sizes.get("M", 1) * sizes.get("S", 1)
    read, product = slots * (2 * rows + queue) * width * item, slots * 2 * rows * (rows + queue) * width
    return Floor(read, product), Floor(read + slots * rows * width * item, 2 * product)


WORKLOAD = Workload(
    axes=("BD", "BND", "BMSD"),
    shapes={
        "cpu": ("256x768", "1024x768", "4096x256", "64x16384x128"),
        "cuda": ("4096x768", "32768x256", "256x65536x128", "256x4x128x768"),
    },
    inputs=inputs,
    gradient=("student",),
    kernel=info_nce,
    naive=naive,
    reference=info_nce_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
    odd=(
        ("5x37", {"temperature": 0.5}),
        ("70x129", {"symmetric": True}),
        ("33x70x100", {}),
        ("7x2x3x200", {"mask": some}),
    ),
    # None spills at 32768x256 on sm_90.
    candidates=(
        {"num_stages": 2},
        {"block_m": 64},
        {"block_m": 64, "block_n": 32},
        {"block_m": 64, "block_k": 128, "num_stages": 3},
    ),
    peers={"inf-cl": inf_cl},
)
