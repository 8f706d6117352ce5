"""Relations without Triton: block by block of the scores, each small enough for the cache."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import accumulator, block_elements
from kdzoo.kernels.relation.sides import Masks, Pair, finite

BLOCK = 131072  # scores of a block that the CPU keeps in its cache, for each thread


def sweep(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
) -> Tensor:
    """The sum of the values; their gradients, times ``inverse``, are written to ``gradients``, or added up in one."""
    # Infinities, and NaN where nothing counts, are looked for once they show in the value; elsewhere than on a CPU,
    # asking for the value would cost more.
    careful = not backend.on_host(student[0].device)
    value = _swept(student, teacher, masks, kind, floor, inverse, gradients, careful)
    if not careful and not math.isfinite(value.item()):
        value = _swept(student, teacher, masks, kind, floor, inverse, gradients, True)
    return value


def _swept(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
    careful: bool,
) -> Tensor:
    queries, keys, pairs = masks
    rows, heads, length, _ = student[0].shape
    scales = [1 / math.sqrt(max(side[0].shape[-1], 1)) for side in (student, teacher)]
    (x_s, y_s), (x_t, y_t) = (
        [_flat(vectors, real, careful, side is teacher) for vectors, real in zip(side, (queries, keys), strict=True)]
        for side in (student, teacher)
    )
    blind, left_out = (None if m is None else ~m[:, None].expand(-1, heads, -1).flatten(0, 1) for m in (keys, queries))
    row = torch.arange(rows, device=x_s.device).repeat_interleave(heads)
    step = inverse * (scales[0] * (2 if kind == "mse" else 1))
    value = torch.zeros((), dtype=torch.float64, device=x_s.device)
    for slots, parts in _blocks(rows * heads, length, x_s.dtype, x_s.device):
        to_y: Tensor | None = None
        for part, room in parts:
            sides = ((x_s[slots, part], y_s[slots]), (x_t[slots, part], y_t[slots]))
            hidden = None if pairs is None else ~pairs[row[slots], part]
            if kind == "mse":
                sum_, slope = _squares(*sides, scales, hidden, floor, room)
            else:
                if hidden is None and blind is not None:
                    hidden = blind[slots, None]
                uncounted = None if left_out is None else left_out[slots, part]
                sum_, slope = _divergence(*sides, scales, hidden, uncounted, kind, room, gradients is not None)
            value += sum_
            if gradients is not None:
                torch.mul(torch.bmm(slope, y_s[slots]), step, out=gradients[0].flatten(0, 1)[slots, part])
                to_y = torch.bmm(slope.mT, sides[0][0]) if to_y is None else to_y.baddbmm_(slope.mT, sides[0][0])
        if gradients is not None and to_y is not None:
            if blind is not None:
                to_y.masked_fill_(blind[slots, :, None], 0.0)
            written = gradients[1].flatten(0, 1)[slots]
            if gradients[0] is gradients[1]:
                written += to_y.mul_(step)
            else:
                torch.mul(to_y, step, out=written)
    return value


def _flat(vectors: Tensor, real: Tensor | None, careful: bool, teacher: bool) -> Tensor:
    """(B·A, S, d) in the type of the sums; zero where not real, and where a teacher's entry is infinite."""
    dtype = accumulator(vectors.dtype)
    if careful and teacher:
        vectors = finite(vectors)
    if careful and real is not None:
        vectors = vectors.masked_fill(~real[:, None, :, None], 0.0)
    elif real is not None:
        room = torch.empty(vectors.shape, dtype=dtype, device=vectors.device)
        vectors = torch.mul(vectors, real[:, None, :, None].to(dtype), out=room)
    return vectors.to(dtype).flatten(0, 1)


def _blocks(slots: int, length: int, dtype: torch.dtype, device: torch.device) -> Iterator[tuple[slice, list[Any]]]:
    """The slots (a row's heads) of each block, the parts that their queries are taken in, and room for the scores.

    All blocks share the four buffers of a part: touching new memory would take longer than the arithmetic.
    """
    size = block_elements(device, BLOCK)
    across = max(1, min(slots, size // max(length * length, 1)))
    tall = max(1, min(length, size // max(length, 1)))
    space = torch.empty((4, across * tall * length), dtype=dtype, device=device)
    for slot in range(0, slots, across):
        number, parts = min(across, slots - slot), []
        for query in range(0, length, tall):
            shape = (number, min(tall, length - query), length)
            parts.append((slice(query, query + tall), [one[: math.prod(shape)].view(shape) for one in space]))
        yield slice(slot, slot + number), parts


def _squares(
    ours: Pair, theirs: Pair, scales: list[float], hidden: Tensor | None, floor: float | None, room: list[Tensor]
) -> Pair:
    """The sum of squared differences of the scores of a block, and half its gradient at the student's scores."""
    gap = room[0].baddbmm_(ours[0], ours[1].mT, beta=0, alpha=scales[0])
    low = None
    if floor is None:
        gap.baddbmm_(theirs[0], theirs[1].mT, alpha=-scales[1])
    else:
        low, other = gap <= floor, room[1].baddbmm_(theirs[0], theirs[1].mT, beta=0, alpha=scales[1])
        gap.masked_fill_(low, 0.0).sub_(other.masked_fill_(other <= floor, 0.0))
    if hidden is not None:
        gap.masked_fill_(hidden, 0.0)
    value = torch.dot(gap.view(-1), gap.view(-1))
    return value, gap if low is None else gap.masked_fill_(low, 0.0)


def _divergence(
    ours: Pair,
    theirs: Pair,
    scales: list[float],
    hidden: Tensor | None,
    left_out: Tensor | None,
    kind: str,
    room: list[Tensor],
    with_slope: bool,
) -> Pair:
    """The sum of the divergences of the queries of a block, and its gradient at the student's scores.

    The scores of a query that does not count are those of zero vectors on both sides, so that its divergence and its
    gradient are exactly zero; its cross-entropy is not, and is left out.
    """
    bias, beta = None, 0
    if hidden is not None:
        bias, beta = torch.zeros_like(hidden, dtype=room[0].dtype), 1
        bias.masked_fill_(hidden, torch.finfo(bias.dtype).min / 2)
    sums, ones = [], room[0].new_ones(room[0].shape[-1])
    for (x, y), scale, score, weight in zip((ours, theirs), scales, room[:2], room[2:], strict=True):
        torch.baddbmm(score if bias is None else bias, x, y.mT, beta=beta, alpha=scale, out=score)
        score.sub_(score.amax(-1, keepdim=True))
        # Far below what a sum of 1 or more can tell from zero; where it underflows, exp is slow.
        torch.clamp(score, min=-60.0, out=weight).exp_()
        sums.append((weight.view(-1, len(ones)) @ ones).view(weight.shape[:-1]))
    score, other, weight, targets = room
    targets.mul_(sums[1].reciprocal().unsqueeze(-1))
    if kind == "kl":
        gap, logs = other.sub_(score), (sums[0] / sums[1]).log()
    else:
        gap, logs = score.neg_(), sums[0].log()
        if hidden is not None:
            gap.masked_fill_(hidden, 0.0)
        if left_out is not None:
            logs.masked_fill_(left_out, 0.0)
    value = torch.dot(targets.view(-1), gap.view(-1)) + logs.sum()
    return value, weight.mul_(sums[0].reciprocal().unsqueeze(-1)).sub_(targets) if with_slope else weight
