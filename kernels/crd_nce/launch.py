"""CRD with Triton: one program for an anchor, or for that and a part of its negatives."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import power_of_2

PROGRAMS = 1024  # where there are fewer anchors, their negatives are split


def contrast(
    anchors: Tensor,
    bank: Tensor,
    ids: Tensor,
    shift: Tensor,
    temperature: float,
    with_slopes: bool,
    sums: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """As `blocks.contrast`; with ``sums``, the sum of exp(score / τ), where the shift is a Z that is not known."""
    from kdzoo.kernels.crd_nce import triton_kernels

    (rows, width), drawn = anchors.shape, ids.shape[1]
    block_d = power_of_2(width)
    block_n = max(1, min(4096 // block_d, 64))
    parts = max(1, min(-(-drawn // block_n), -(-PROGRAMS // rows)))
    values = torch.empty((parts, rows), dtype=torch.float32, device=anchors.device)
    slopes = values.new_empty((parts, rows, width)) if with_slopes else None
    triton_kernels.score_kernel[(rows, parts)](
        anchors.contiguous(),
        bank.contiguous(),
        ids.contiguous(),
        shift,
        values,
        slopes,
        drawn,
        width,
        1 / temperature,
        SUMS=sums,
        BLOCK_N=block_n,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return values.sum(), None if slopes is None else slopes.sum(0)


def update(bank: Tensor, new: Tensor, ids: Tensor, momentum: float) -> None:
    """Update the rows of a contiguous bank in place."""
    from kdzoo.kernels.crd_nce import triton_kernels

    rows, width = new.shape
    block_d = power_of_2(width)
    triton_kernels.update_kernel[(rows,)](
        bank, new.contiguous(), ids.contiguous(), rows, width, momentum, BLOCK_D=block_d, num_warps=4
    )
