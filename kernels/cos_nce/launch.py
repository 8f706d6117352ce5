"""COS-NCE with Triton: one program for a slot, or for a part of its rows."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, power_of_2
from kdzoo.kernels.layout import as_bytes, four_axes
from kdzoo.kernels.tuning import tuned


def _launch(rows: int, width: int, slots: int) -> tuple[int, int, int, int]:
    """Rows of a tile, its width, warps, and into how many programs the rows of a slot are split."""
    block_d = power_of_2(width)
    # Few programs, each with many loads in flight, keep the rows between their two readings in the L2 cache.
    many = slots >= 128 and rows * block_d >= 65536
    block_m = min(power_of_2(rows), max(1, (8192 if many else 4096) // block_d), 32)
    ours = {"block_m": block_m, "num_warps": min(16, max(1, block_m * block_d // 512))}
    constants = tuned("cos_nce", f"{'many' if many else 'few'}-{block_d}", ours)
    block_m, warps = min(power_of_2(rows), constants["block_m"]), constants["num_warps"]
    tiles = -(-rows // block_m)
    return block_m, block_d, warps, 1 if rows <= 64 or slots >= 128 else min(tiles, max(1, 512 // slots))


def totals(teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first two of `blocks.totals`."""
    return _sums(four_axes(teacher).unsqueeze(0), as_bytes(mask))


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return tensor.stride()[:axes] if tensor is not None else (0,) * axes


def _sums(vectors: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The unit vectors' sum over the rows R of (O, R, M, S, D), as (O·M·S, D), and how many they are, (O·M·S,)."""
    from kdzoo.kernels.cos_nce import triton_kernels

    outer, rows, layers, positions, width = vectors.shape
    slots = outer * layers * positions
    block_m, block_d, warps, splits = _launch(rows, width, slots)
    total = torch.empty((splits, slots, width), dtype=torch.float32, device=vectors.device)
    counts = torch.empty((splits, slots), dtype=torch.float32, device=vectors.device)
    triton_kernels.totals_kernel[(slots, splits)](
        vectors,
        mask,
        total,
        counts,
        rows,
        layers,
        positions,
        width,
        *vectors.stride(),
        *_strides(mask, 2),
        EPSILON=EPSILON,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        num_warps=warps,
    )
    return (total[0], counts[0]) if splits == 1 else (total.sum(0), counts.sum(0))


def sweep(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    scale: Tensor,
    gradient: Tensor | None,
) -> Tensor:
    """As `blocks.sweep`."""
    from kdzoo.kernels.cos_nce import triton_kernels

    s, t, mask = four_axes(student), four_axes(teacher), as_bytes(mask)
    written = None if gradient is None else four_axes(gradient)
    rows, layers, positions, width = s.shape
    slots = layers * positions
    block_m, block_d, warps, splits = _launch(rows, width, slots)
    towards: Tensor | None = total
    steps: tuple[int, ...] = (0, 0, 0)
    if negatives is not None:
        spread = four_axes(negatives, 5)
        shape = (rows, *spread.shape[2:])
        # Zero without any, where the mean of none would be 0 / 0.
        towards = _sums(spread, None)[0].view(shape) / max(negatives.shape[1], 1)
        steps = tuple(step if size > 1 else 0 for step, size in zip(towards.stride()[:3], shape[:3], strict=True))
    elif splits > 1 and total is None:
        towards, counts = _sums(t.unsqueeze(0), mask)
    values = torch.empty((splits, slots), dtype=torch.float32, device=s.device)
    triton_kernels.values_kernel[(slots, splits)](
        s,
        t,
        mask,
        None if towards is None else towards.contiguous(),
        None if counts is None else counts.contiguous(),
        scale,
        values,
        written,
        rows,
        positions,
        width,
        *s.stride(),
        *t.stride(),
        *_strides(mask, 2),
        *steps,
        *_strides(written, 3),
        EPSILON=EPSILON,
        PER_ROW=negatives is not None,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        num_warps=warps,
    )
    return values.sum()
