"""InfoNCE among a batch's rows, or those and a queue: streamed over the keys against the matrix of all scores."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Missing, Workload
from kdzoo.kernels.info_nce import decision, info_nce, info_nce_reference

TEMPERATURE = 0.07
HEADS = (256, 128, 64, 32, 16)  # the widths that inf-cl multiplies at once


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    def vectors(rows: int) -> Tensor:
        return torch.randn(rows, sizes["D"], device=device).to(dtype)

    made: Inputs = {"student": vectors(sizes["B"]), "teacher": vectors(sizes["B"])}
    return {**made, "queue": vectors(sizes["N"])} if "N" in sizes else made


def naive(student: Tensor, teacher: Tensor, queue: Tensor | None = None) -> Tensor:
    """Cross entropy over the matrix of all scores, as it is usually written."""
    keys = teacher if queue is None else torch.cat([teacher, queue])
    scores = F.normalize(student.float(), dim=-1) @ F.normalize(keys.float(), dim=-1).T / TEMPERATURE
    return F.cross_entropy(scores, torch.arange(len(student), device=student.device))


def inf_cl(student: Tensor, teacher: Tensor, queue: Tensor | None = None) -> Any:
    """The inf-cl library's tiled loss, which takes unit vectors, scaled."""
    try:
        from inf_cl import cal_flash_loss
    except ImportError as error:
        raise Missing(f"inf_cl has no cal_flash_loss: {error}") from error
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
    read, product = (2 * rows + queue) * width * item, 2 * rows * (rows + queue) * width
    return Floor(read, product), Floor(read + rows * width * item, 2 * product)


WORKLOAD = Workload(
    axes=("BD", "BND"),
    shapes={
        "cpu": ("256x768", "1024x768", "4096x256", "64x16384x128"),
        "cuda": ("4096x768", "32768x256", "256x65536x128"),
    },
    inputs=inputs,
    gradient=("student",),
    kernel=info_nce,
    naive=naive,
    reference=info_nce_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
    peers={"inf-cl": inf_cl},
)
