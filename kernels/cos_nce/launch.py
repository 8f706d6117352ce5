"""COS-NCE with Triton: one program for a slot, or for a part of its rows; slots in groups that the L2 cache holds."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import EPSILON, power_of_2
from kdzoo.kernels.layout import as_bytes, four_axes
from kdzoo.kernels.tuning import tuned

PROGRAMS = 512  # a GPU's hundred multiprocessors with some programs each
LEAST = 16 * 2**20  # bytes of a group that are worth two launches
PARTS = 8  # of a total, that each program adds up itself
STAGED = 48 * 1024  # bytes of shared memory for loads ahead; with more, too few programs have room beside each other


@dataclass(frozen=True)
class Plan:
    """Rows of a tile, its width, warps, how many tiles are loaded at once, into how many programs the rows of a slot
    are split, and how many slots are gone over twice before the next ones are."""

    block_m: int
    block_d: int
    warps: int
    stages: int
    splits: int
    group: int


def plan(rows: int, width: int, slots: int, item: int) -> Plan:
    """How the slots' rows are gone over.

    Where the slots that run at a time are more than half of the L2 cache, through which the rest passes, they would be
    read from memory a second time. So a group of them that it holds is spread over all programs, and then the next. A
    small cache holds too few of them for the launches that this takes.
    """
    block_d, cache = power_of_2(width), backend.cache_bytes() // 2
    slot, group = max(1, rows * width * item), slots
    if cache >= LEAST and slot <= cache < min(slots, PROGRAMS) * slot * 8 // 9:
        group = -(-slots // -(-slots // (cache // slot)))
    ours = {"block_m": min(power_of_2(rows), max(1, (4096 if item < 4 else 2048) // block_d), 32)}
    # Of narrow rows a thread has many, each with an address; in float32 each load takes twice the registers.
    easy = block_d >= 512 and item < 4
    ours["num_warps"] = min(16, max(1, ours["block_m"] * block_d // (1024 if easy else 512)))
    # Two tensors' tiles are loaded ahead of what is computed.
    ours["num_stages"] = 2 if easy and 4 * ours["block_m"] * block_d * item <= STAGED else 1
    constants = tuned("cos_nce", f"{'whole' if group == slots else 'grouped'}-{block_d}", ours)
    block_m = min(power_of_2(rows), constants["block_m"])
    tiles = -(-rows // block_m)
    alone = group == slots and (rows <= 64 or slots >= 128)
    splits = 1 if alone else min(tiles, max(1, PROGRAMS // group))
    return Plan(block_m, block_d, constants["num_warps"], constants["num_stages"], splits, group)


def totals(teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first two of `blocks.totals`."""
    return _sums(four_axes(teacher).unsqueeze(0), as_bytes(mask))


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return tensor.stride()[:axes] if tensor is not None else (0,) * axes


def _sums(vectors: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The unit vectors' sum over the rows R of (O, R, M, S, D), as (O·M·S, D), and how many they are, (O·M·S,)."""
    outer, rows, layers, positions, width = vectors.shape
    slots = outer * layers * positions
    how = plan(rows, width, slots, vectors.element_size())
    total, counts = _parts(vectors, mask, how, 0, slots, most=1)
    return total[0], counts[0]


def _parts(
    vectors: Tensor, mask: Tensor | None, how: Plan, first: int, slots: int, most: int = PARTS
) -> tuple[Tensor, Tensor]:
    """Of some slots from the first on, what parts of their rows add up to, (parts, slots, D), and how many they are,
    (parts, slots); of more than some parts, the sum."""
    from kdzoo.kernels.cos_nce import triton_kernels

    _, rows, layers, positions, width = vectors.shape
    total = torch.empty((how.splits, slots, width), dtype=torch.float32, device=vectors.device)
    counts = torch.empty((how.splits, slots), dtype=torch.float32, device=vectors.device)
    triton_kernels.totals_kernel[(slots, how.splits)](
        vectors,
        mask,
        total,
        counts,
        first,
        rows,
        layers,
        positions,
        width,
        *vectors.stride(),
        *_strides(mask, 2),
        EPSILON=EPSILON,
        STAGES=how.stages,
        BLOCK_M=how.block_m,
        BLOCK_D=how.block_d,
        num_warps=how.warps,
    )
    return (total, counts) if how.splits <= most else (total.sum(0, keepdim=True), counts.sum(0, keepdim=True))


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
    how = plan(rows, width, slots, s.element_size())
    group = how.group
    towards: Tensor | None = None
    steps: tuple[int, ...] = (0, 0, 0)
    if negatives is not None:
        spread = four_axes(negatives, 5)
        shape = (rows, *spread.shape[2:])
        # Zero without any, where the mean of none would be 0 / 0.
        towards = _sums(spread, None)[0].view(shape) / max(negatives.shape[1], 1)
        steps = tuple(step if size > 1 else 0 for step, size in zip(towards.stride()[:3], shape[:3], strict=True))
    elif total is not None and counts is not None:
        towards, counts = total.reshape(1, slots, width).contiguous(), counts.reshape(1, slots).contiguous()
    if towards is not None:
        group = slots  # the teacher is read once
    values = torch.empty((how.splits, slots), dtype=torch.float32, device=s.device)
    for first in range(0, slots, group):
        some = min(group, slots - first)
        if negatives is None and total is None and how.splits > 1:
            towards, counts = _parts(t.unsqueeze(0), mask, how, first, some)
        triton_kernels.values_kernel[(some, how.splits)](
            s,
            t,
            mask,
            towards,
            counts,
            scale,
            values,
            written,
            first,
            slots,
            1 if counts is None else len(counts),
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
            STAGES=how.stages,
            BLOCK_M=how.block_m,
            BLOCK_D=how.block_d,
            num_warps=how.warps,
        )
    return values.sum()
