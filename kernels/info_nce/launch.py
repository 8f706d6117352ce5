"""InfoNCE with Triton: norms, then the pass over the keys, one program for a tile of a slot's rows or for that and a
part of the keys. Where the keys are in one part, the pass writes the gradient as well; otherwise the parts are joined.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, dot_precision, power_of_2
from kdzoo.kernels.info_nce.tiling import PROGRAMS, held, tiling, writes
from kdzoo.kernels.layout import as_bytes, by_slot, four_axes

LOG2E = 1.4426950408889634


@dataclass(frozen=True)
class Normed:
    """Vectors as the kernels read them, (N, M, S, D), and their inverse norms, (slots, N)."""

    vectors: Tensor
    inverse: Tensor

    @property
    def steps(self) -> tuple[int, ...]:
        """Strides of rows, layers and positions; 0 for those of a queue, which is the same for all slots."""
        return tuple(
            step if size > 1 else 0 for step, size in zip(self.vectors.stride(), self.vectors.shape[:3], strict=False)
        )


@dataclass(frozen=True)
class Target:
    """Where the gradient goes, and what it is made with beside the keys that were added up."""

    gradient: Tensor
    start: int
    rate: float
    count: Tensor | None

    @property
    def steps(self) -> tuple[int, ...]:
        return self.gradient.stride()[:3]


@dataclass(frozen=True)
class Known:
    """Of anchors their log-sum-exps and what their own keys weigh, and the keys' log-sum-exps; all by slot."""

    sums: Tensor
    pull: Tensor
    opposite: Tensor


@dataclass(frozen=True)
class Parts:
    """What a pass over the keys found in each part of them, by part and slot; or, of one part, the losses alone."""

    logs: Tensor | None = None
    along: Tensor | None = None
    slopes: Tensor | None = None
    losses: Tensor | None = None


def sweep(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    queue: Tensor | None,
    losses: Tensor | None,
    sums: Tensor | None,
    count: Tensor,
    start: int,
    temperature: float,
    symmetric: bool,
    gradient: Tensor | None,
) -> Tensor:
    """As `blocks.sweep`."""
    rate = 1 / temperature
    keys, own, positive = _sides(teacher, student, mask, start, rate)
    sources = [(keys, start)]
    if queue is not None:
        # None of its rows is the own key of an anchor.
        sources.append((_norms(queue, None)[0], -len(student)))
    target = None
    if gradient is not None:
        # Float16 has no room for the quotients by a large n: there the backward pass divides.
        divided = None if student.dtype == torch.float16 else count
        target = Target(four_axes(gradient), start, rate, divided)
    if not symmetric:
        parts = _attend(own, sources, rate, positive, target)
        if parts.losses is not None:
            return parts.losses.sum()
        total, found, pull = _losses(parts, positive, own)
        if target is not None:
            _join(own, keys, positive, parts, found, pull, target)
        return total.sum()
    if losses is None or sums is None:
        others, opposite, _ = _losses(_attend(keys, [(own, 0)], rate), positive, keys)
    else:
        others, opposite = (by_slot(of.unsqueeze(-1)).squeeze(-1).contiguous() for of in (losses, sums))
    total, found, pull = _losses(_attend(own, sources, rate), positive, own, others)
    if target is not None:
        parts = _attend(own, sources, rate, positive, target, Known(found, pull, opposite))
        if parts.slopes is not None:
            _join(own, keys, positive, parts, None, pull, target)
    return total.sum()


def rows(anchors: Tensor, keys: Tensor, mask: Tensor | None, start: int, temperature: float) -> tuple[Tensor, Tensor]:
    """As `blocks.rows`."""
    others, own, positive = _sides(keys, anchors, mask, start, 1 / temperature)
    losses, sums, _ = _losses(_attend(own, [(others, start)], 1 / temperature), positive, own)
    return losses, sums


# The launches


def _readable(vectors: Tensor) -> Tensor:
    """(B, M, S, D) in whole loads of 16 columns: where they lie, or else a copy, filled up with zeros."""
    four = four_axes(vectors)
    width, steps = four.shape[3], [step for step, size in zip(four.stride(), four.shape, strict=True) if size > 1]
    if width % 16 == 0 and four.stride(3) == 1 and all(step % 16 == 0 for step in steps[:-1]):
        return four
    return F.pad(four, (0, -width % 16)).contiguous()


def _sides(
    keys: Tensor, anchors: Tensor, mask: Tensor | None, start: int, rate: float
) -> tuple[Normed, Normed, Tensor]:
    """Keys, anchors and the scores (slots, B) of these with their own keys."""
    others, own = _norms(keys, mask, anchors, start, rate)
    assert own is not None
    return others, *own


def _norms(
    keys: Tensor, mask: Tensor | None, anchors: Tensor | None = None, start: int = 0, rate: float = 1.0
) -> tuple[Normed, tuple[Normed, Tensor] | None]:
    """Keys and, where they are given, anchors with their scores."""
    from kdzoo.kernels.info_nce import triton_parts

    read = _readable(keys)
    number, layers, positions, width = read.shape
    others = Normed(read, read.new_empty((layers * positions, number), dtype=torch.float32))
    own, positive = None, None
    if anchors is not None:
        positive = others.inverse.new_empty((layers * positions, len(anchors)))
        own = Normed(_readable(anchors), torch.empty_like(positive))
    bytes_of = as_bytes(mask)
    block_d = min(power_of_2(width), 1024)
    block_m = max(1, 4096 // block_d) if width > 16 else 64
    lines = number * layers * positions
    triton_parts.norms_kernel[(-(-lines // block_m),)](
        others.vectors,
        None if own is None else own.vectors,
        bytes_of,
        others.inverse,
        None if own is None else own.inverse,
        positive,
        lines,
        layers,
        positions,
        number,
        0 if positive is None else positive.shape[1],
        start,
        width,
        rate,
        *others.vectors.stride()[:3],
        *(own.vectors.stride()[:3] if own is not None else (0, 0, 0)),
        *(bytes_of.stride() if bytes_of is not None else (0, 0)),
        EPSILON=EPSILON,
        NARROW=lines < 2**31 - block_m,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        num_warps=4,
    )
    return others, None if own is None or positive is None else (own, positive)


def _attend(
    own: Normed,
    sources: list[tuple[Normed, int]],
    rate: float,
    positive: Tensor | None = None,
    target: Target | None = None,
    known: Known | None = None,
) -> Parts:
    """The pass of the anchors over all sources of keys, each with the number of the first anchor's own key.

    Without a target, for log-sum-exps alone.
    """
    from kdzoo.kernels.info_nce import triton_kernels

    rows, layers, positions, width = own.vectors.shape
    slots, dtype = layers * positions, own.vectors.dtype
    tile = tiling(rows, slots, width, dtype)
    tiles = -(-rows // tile["block_m"]) * (1 if target is None else -(-width // tile["block_d"]))
    splits = [min(-(-keys.vectors.shape[0] // tile["block_n"]), -(-PROGRAMS // (tiles * slots))) for keys, _ in sources]
    number, new = sum(splits), own.inverse.new_empty
    logs = along = slopes = losses = None
    whole = held(tile, width, dtype)
    if target is not None and number == 1 and writes(tile, dtype):
        losses = new((slots, rows)) if known is None else None
    else:
        logs = new((number, slots, rows)) if known is None else None
        if target is not None:
            slopes = new((number, slots, rows, width))
            along = None if whole else new((number, slots, rows))
    written = None if slopes is not None or target is None else target
    first = 0
    for (keys, start), split in zip(sources, splits, strict=True):
        triton_kernels.attend_kernel[(tiles * slots * split,)](
            own.vectors,
            own.inverse,
            keys.vectors,
            keys.inverse,
            None if known is None else known.sums,
            None if known is None or keys is not sources[0][0] else known.opposite,
            positive,
            None if known is None else known.pull,
            None if written is None else written.count,
            None if logs is None else logs[first:],
            None if along is None else along[first:],
            None if slopes is None else slopes[first:],
            losses,
            None if written is None else written.gradient,
            tiles,
            slots,
            split,
            positions,
            rows,
            keys.vectors.shape[0],
            start,
            width,
            0 if written is None else written.gradient.shape[3],
            rate,
            *own.steps,
            *keys.steps,
            *((0, 0, 0) if written is None else written.steps),
            keys.vectors.shape[0] if len(keys.inverse) == slots else 0,
            LOG2E=LOG2E,
            EPSILON=EPSILON,
            HELD=whole,
            # The interpreter multiplies the bits of bfloat16 as if they were integers.
            HALVES=dtype != torch.float32 and own.vectors.device.type != "cpu",
            PRECISION=dot_precision(),
            **{f"BLOCK_{axis}": tile[f"block_{axis.lower()}"] for axis in "MNKD"},
            num_warps=tile["num_warps"],
            num_stages=tile["num_stages"],
        )
        first += split
    return Parts(logs, along, slopes, losses)


def _losses(
    parts: Parts, positive: Tensor, anchors: Normed, others: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Losses, with those of the other side, where they are given; log-sum-exps; and what the own keys weigh."""
    from kdzoo.kernels.info_nce import triton_parts

    assert parts.logs is not None
    losses, sums, pull = (torch.empty_like(positive) for _ in range(3))
    block = 256
    triton_parts.losses_kernel[(-(-positive.numel() // block),)](
        parts.logs,
        positive,
        anchors.inverse,
        others,
        sums,
        pull,
        losses,
        len(parts.logs),
        positive.numel(),
        BLOCK_M=block,
        num_warps=2,
    )
    return losses, sums, pull


def _join(
    own: Normed, keys: Normed, positive: Tensor, parts: Parts, sums: Tensor | None, pull: Tensor, target: Target
) -> None:
    """Write the gradient from the parts' means or, of what the log-sum-exps were known for, sums."""
    from kdzoo.kernels.info_nce import triton_parts

    assert parts.slopes is not None
    rows, layers, positions, width = own.vectors.shape
    # Without what they are along the anchors, whole rows.
    block_d = power_of_2(width) if parts.along is None else min(power_of_2(width), 256)
    block_m = max(1, 4096 // block_d) if width > 16 else 64
    tiles = -(-rows // block_m) * -(-width // block_d)
    triton_parts.join_kernel[(tiles * layers * positions,)](
        parts.logs,
        sums,
        parts.along,
        parts.slopes,
        pull,
        positive,
        own.vectors,
        own.inverse,
        keys.vectors,
        keys.inverse,
        target.gradient,
        target.count,
        len(parts.slopes),
        tiles,
        positions,
        positive.numel(),
        rows,
        keys.vectors.shape[0],
        target.start,
        width,
        target.gradient.shape[3],
        target.rate,
        *own.steps,
        *keys.steps,
        *target.steps,
        EPSILON=EPSILON,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        num_warps=4,
    )
