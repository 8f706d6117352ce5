"""InfoNCE in one operator: streamed over the keys with an online log-sum-exp; the gradient with the value.

The gradient at an anchor is the softmax's mean key less its own key, which is what attention computes with the keys as
values. So one pass over the keys takes scores, their log-sum-exp and the gradient together, two products of
rows × keys × width in all, and of the scores no more than a tile is ever held. The own key is left out of the
softmax and comes in at the end: value and gradient of an anchor that found its key keep all their digits.

The symmetric side is the same pass with sides exchanged, for its log-sum-exps; then both softmaxes weigh the keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import (
    EPSILON,
    Decision,
    KernelError,
    accumulator,
    check_kind,
    check_mask,
    choose,
    jit,
    load,
    power_of_2,
    register_value_and_gradient,
    unit,
)

if TYPE_CHECKING:
    import triton.language as tl

BLOCK, FEWEST = 2**18, 64  # scores of a block that a CPU keeps in its cache, and the fewest rows that multiply well
TALL = 64  # rows of a tile
PROGRAMS = 256  # where there are fewer tiles of rows, the keys are split as well
LOG2E = 1.4426950408889634


def info_nce_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    queue: Tensor | None = None,
    temperature: float = 0.07,
    symmetric: bool = False,
) -> Tensor:
    """The formula with the matrix of all scores, (B, B + N) in each slot; see `info_nce`."""
    if student.dtype in (torch.float16, torch.bfloat16):
        student, teacher = student.float(), teacher.float()
    real = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
    if mask is not None:
        real = (mask != 0).view(len(mask), *(1 for _ in student.shape[2:-1]), mask.shape[1]).expand_as(real)
    own = _by_slot(unit(student.masked_fill(~real.unsqueeze(-1), 0.0)))
    with torch.no_grad():
        keys = _by_slot(unit(teacher.masked_fill(~real.unsqueeze(-1), 0.0)))
        more = keys.new_zeros(0, keys.shape[-1]) if queue is None else unit(queue.to(keys.dtype))
    counted = _by_slot(real.unsqueeze(-1)).squeeze(-1)
    scores = (own @ keys.mT / temperature).masked_fill(~counted.unsqueeze(1), torch.finfo(own.dtype).min / 2)
    against = torch.cat([scores, own @ more.T / temperature], dim=-1)
    losses = against.logsumexp(-1) - scores.diagonal(dim1=1, dim2=2)
    if symmetric:
        scores = scores.masked_fill(~counted.unsqueeze(-1), torch.finfo(own.dtype).min / 2)
        losses = losses + scores.logsumexp(1) - scores.diagonal(dim1=1, dim2=2)
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)


def info_nce(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    queue: Tensor | None = None,
    temperature: float = 0.07,
    symmetric: bool = False,
    start: int = 0,
    opposite: tuple[Tensor, Tensor] | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """InfoNCE of a whole batch, with its gradient at the student.

        1/n · Σ_i -log( exp(cos(s_i, t_i) / τ) / Σ_j exp(cos(s_i, t_j) / τ) )

    over the n anchors that the mask counts in all slots. The keys j are the counted rows of the same slot and all
    of the ``queue``. ``symmetric`` adds the other side, each t_i among the counted s_j of its slot. A vector whose
    length is zero or infinite has cosine 0 with everything and no gradient. What lies where the mask is False is
    never looked at. Memory beyond the inputs' own size does not grow with B·N.

    Args:
        student: (B, ..., D), float32, bfloat16, float16 or float64, of any strides.
        teacher: (N, ..., D) of the same type, without gradient; N = B, or the rows of all processes.
        mask: of the teacher's rows, 1 or True where a position is real.
        queue: further keys for all slots alike; without gradient.
        temperature: τ, above 0.
        symmetric: add the other side.
        start: the student's row i belongs to the teacher's row ``start + i``.
        opposite: of the other side, the losses (B, ...) of the own rows and the log-sum-exps (N, ...) of all,
            both from `info_nce_rows`. Needed only where N is not B.
        count: the number to divide by in place of n, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (N, S) with S the last slot axis.
        queue: (Q, D).

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, a temperature that is not positive, or a
            backend that is not there.

    References:
        van den Oord, Li, Vinyals: Representation Learning with Contrastive Predictive Coding, equation 4.
        https://arxiv.org/abs/1807.03748
        Milakov, Gimelshein: Online normalizer calculation for softmax, algorithm 3. https://arxiv.org/abs/1805.02867

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.info_nce import info_nce
        >>> student, teacher = torch.randn(8, 37, requires_grad=True), torch.randn(8, 37)
        >>> info_nce(student, teacher, queue=torch.randn(100, 37), symmetric=True).backward()
    """
    mask = _check(student, teacher, mask, start, temperature, queue=queue)
    if queue is not None and (queue.dim() != 2 or queue.shape[1] != teacher.shape[-1]):
        shapes = f"queue {tuple(queue.shape)} and teacher {tuple(teacher.shape)}"
        raise KernelError(f"info_nce: {shapes} do not fit; a queue is (N, {teacher.shape[-1]})")
    if opposite is not None:
        _check_opposite(*opposite, student, teacher)
    elif symmetric and len(teacher) != len(student):
        raise KernelError(
            f"info_nce: a symmetric loss of {len(student)} of {len(teacher)} rows needs opposite=, from info_nce_rows"
        )
    if count is None:
        # A tensor in each case, so that the number of rows is no constant of a compiled graph.
        every = torch.full((), math.prod(student.shape[:-1]), dtype=torch.float64, device=student.device)
        layers = student.shape[1] if student.dim() == 4 else 1
        count = every if mask is None else mask[start : start + len(student)].sum() * layers
    value: Tensor
    value, _ = torch.ops.kdzoo.info_nce(
        student,
        teacher.detach(),
        mask,
        None if queue is None else queue.detach(),
        *(opposite if opposite is not None and symmetric else (None, None)),
        count.detach().to(accumulator(student.dtype)).clamp_min(EPSILON),
        start,
        temperature,
        symmetric,
        student.requires_grad and torch.is_grad_enabled(),
        backend,
    )
    return value


def info_nce_rows(
    anchors: Tensor,
    keys: Tensor,
    *,
    mask: Tensor | None = None,
    temperature: float = 0.07,
    start: int = 0,
    backend: str = "auto",
) -> tuple[Tensor, Tensor]:
    """Of every anchor its loss and its log-sum-exp alone, without gradient: what processes tell each other.

    Args:
        anchors: (B, ..., D).
        keys: (N, ..., D).
        mask: of the keys' rows, 1 or True where a position is real.
        temperature: τ, above 0.
        start: the anchor i belongs to the key ``start + i``.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        -log softmax at the own key, and log Σ_j exp(cos / τ), both (B, ...); of no meaning where not real.

    Raises:
        KernelError: as for `info_nce`.
    """
    mask = _check(anchors, keys, mask, start, temperature)
    rows: tuple[Tensor, Tensor] = torch.ops.kdzoo.info_nce_rows(
        anchors.detach(), keys.detach(), mask, start, temperature, backend
    )
    return rows


def _check(
    student: Tensor, teacher: Tensor, mask: Tensor | None, start: int, temperature: float, **more: Tensor | None
) -> Tensor | None:
    check_kind("info_nce", student=student, teacher=teacher, **more)
    if student.shape[1:] != teacher.shape[1:] or student.dim() not in (2, 3, 4):
        raise KernelError(
            f"info_nce: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree in all but the "
            "rows, as (B, D), (B, S, D), (B, M, D) or (B, M, S, D)"
        )
    if not 0 <= start <= len(teacher) - len(student):
        raise KernelError(
            f"info_nce: student {tuple(student.shape)} has no rows from {start} on in teacher {tuple(teacher.shape)}"
        )
    if not (math.isfinite(temperature) and temperature > 0):
        raise KernelError(f"info_nce: temperature is {temperature}; it must be a positive number")
    return check_mask("info_nce", mask, teacher)


def _check_opposite(losses: Tensor, sums: Tensor, student: Tensor, teacher: Tensor) -> None:
    if losses.shape != student.shape[:-1] or sums.shape != teacher.shape[:-1]:
        raise KernelError(
            f"info_nce: opposite {tuple(losses.shape)} and {tuple(sums.shape)} do not fit a student "
            f"{tuple(student.shape)} and a teacher {tuple(teacher.shape)}; they are {tuple(student.shape[:-1])} and "
            f"{tuple(teacher.shape[:-1])}, as info_nce_rows gives them"
        )


# The operators


def run(
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
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the operator of `info_nce` does: the value, and its gradient at the student where that is wanted."""
    attend, shape = _attention(student, backend), student.shape if with_gradient else (0, *student.shape[1:])
    if math.prod(student.shape[:-1]) == 0:
        return torch.zeros_like(count), student.new_empty(shape)
    own, keys = _Side(student, None if mask is None else mask.narrow(0, start, len(student))), _Side(teacher, mask)
    more = None if queue is None or len(queue) == 0 else _Side(queue, None)
    with torch.cuda.device_of(student):
        positive = _positive(own, keys, start, temperature)
        pull, opposite = torch.zeros_like(positive), None
        total = torch.zeros_like(positive)
        if losses is not None and sums is not None:
            total, opposite = (_by_slot(of.unsqueeze(-1)).squeeze(-1) for of in (losses, sums))
        elif symmetric:
            total, _ = attend(keys, own, None, 0, temperature, positive, None, False)
            opposite = positive + total
        pull = torch.expm1(-total)
        other, slopes = attend(own, keys, more, start, temperature, positive, opposite, with_gradient)
        if slopes is not None:
            pull += torch.expm1(-other)
            slopes.addcmul_(keys.units[:, start : start + len(student)], pull.unsqueeze(-1))
            # A norm below the clamp is a constant, and bends nothing.
            bend = (own.units * slopes).sum(-1).masked_fill_(own.inverse >= 1 / EPSILON, 0.0)
            slopes.addcmul_(own.units, bend.unsqueeze(-1), value=-1)
            # Float16 has no room for the quotients by a large n: there the backward pass divides.
            scale = 1 / temperature if student.dtype == torch.float16 else 1 / (temperature * count)
            slopes.mul_((own.inverse * scale).unsqueeze(-1))
            if own.real is not None:
                slopes.masked_fill_(~own.real.unsqueeze(-1), 0.0)
            gradient = slopes.transpose(0, 1).reshape(student.shape).to(student.dtype).contiguous()
        else:
            gradient = student.new_empty(shape)
        total = total + other
        value = total.sum() if own.real is None else torch.where(own.real, total, 0.0).sum()
    return value / count, gradient


_operator = torch.library.custom_op(
    "kdzoo::info_nce",
    run,
    mutates_args=(),
    schema="(Tensor student, Tensor teacher, Tensor? mask, Tensor? queue, Tensor? losses, Tensor? sums, Tensor count, "
    "int start, float temperature, bool symmetric, bool with_gradient, str backend) -> (Tensor, Tensor)",
)
register_value_and_gradient(_operator, "info_nce", count=6, wanted=10)


def run_rows(
    anchors: Tensor, keys: Tensor, mask: Tensor | None, start: int, temperature: float, backend: str
) -> tuple[Tensor, Tensor]:
    """What the operator of `info_nce_rows` does."""
    attend = _attention(anchors, backend)
    own, others = _Side(anchors, None if mask is None else mask.narrow(0, start, len(anchors))), _Side(keys, mask)
    with torch.cuda.device_of(anchors):
        positive = _positive(own, others, start, temperature)
        losses, _ = attend(own, others, None, start, temperature, positive, None, False)
    both = torch.stack([losses, positive + losses]).transpose(1, 2).reshape(2, *anchors.shape[:-1])
    return both[0].clone(), both[1].clone()


_rows_operator = torch.library.custom_op(
    "kdzoo::info_nce_rows",
    run_rows,
    mutates_args=(),
    schema="(Tensor anchors, Tensor keys, Tensor? mask, int start, float temperature, str backend) -> (Tensor, Tensor)",
)


@_rows_operator.register_fake
def _(anchors: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
    losses = anchors.new_empty(anchors.shape[:-1], dtype=accumulator(anchors.dtype))
    return losses, torch.empty_like(losses)


def decision(tensor: Tensor, backend: str = "auto") -> Decision:
    """Which backend `info_nce` takes for a student, and why."""
    return choose("info_nce", tensor, backend)


def _attention(tensor: Tensor, backend: str) -> Callable[..., tuple[Tensor, Tensor | None]]:
    # There is nothing to launch on where there are no elements.
    return _triton if decision(tensor, backend).triton and tensor.numel() > 0 else _torch


def _by_slot(vectors: Tensor) -> Tensor:
    """(B, D) or (B, ..., D) as (slots, B, D)."""
    return vectors.unsqueeze(1).flatten(1, -2).transpose(0, 1)


class _Side:
    """Vectors by slot.

    Attributes:
        vectors: (slots, B, D), as they are given.
        real: (slots, B), which of them count; None for all.
        inverse: (slots, B), their inverse norms: 0 for those whose norm is zero or infinite, or that do not count.
    """

    def __init__(self, vectors: Tensor, mask: Tensor | None) -> None:
        dtype = accumulator(vectors.dtype)
        if mask is not None and vectors.dim() == 4:
            mask = mask.unsqueeze(1).expand(vectors.shape[:-1])
        self.real = None if mask is None else _by_slot(mask.unsqueeze(-1)).squeeze(-1)
        self.vectors = _by_slot(vectors)
        norm = torch.linalg.vector_norm(self.vectors, dim=-1, dtype=dtype)
        none = (norm == 0) | (norm == torch.inf)
        if self.real is not None:
            none |= ~self.real
        self.inverse = norm.clamp_min_(EPSILON).reciprocal_().masked_fill_(none, 0.0)

    @cached_property
    def units(self) -> Tensor:
        """The vectors at length one, or zero where the inverse norm is."""
        inverse = self.inverse.unsqueeze(-1)
        return torch.mul(self.vectors, inverse).masked_fill_(inverse == 0, 0.0)


def _positive(own: _Side, keys: _Side, start: int, temperature: float) -> Tensor:
    """The scores (slots, B) of all anchors with their own keys."""
    rows = own.vectors.shape[1]
    return (own.units * keys.units[:, start : start + rows]).sum(-1).div_(temperature)


# What both backends do is one function, here without Triton: a block of rows against all keys, in the cache


def _torch(
    own: _Side,
    keys: _Side,
    queue: _Side | None,
    start: int,
    temperature: float,
    positive: Tensor,
    opposite: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """Losses (slots, B) of the anchors among the keys and a queue.

    With slopes, (slots, B, D), also the sum of the keys but the own one, each times its share of the anchor's softmax;
    and with ``opposite``, the keys' log-sum-exps over the anchors' side, times the anchor's share of the key's as well.
    """
    anchors, others = own.units, keys.units
    losses = torch.empty_like(positive)
    slopes = torch.empty_like(anchors) if with_slopes else None
    room = anchors.new_empty(0)
    slots, rows = positive.shape
    for m, r in _blocks(slots, rows, others.shape[1] + (0 if queue is None else queue.vectors.shape[1])):
        anchor = anchors[m, r]
        scores = room.resize_(*anchor.shape[:2], others.shape[1])
        torch.baddbmm(scores, anchor, others[m].mT, beta=0, alpha=1 / temperature, out=scores)
        scores.diagonal(start + r.start, 1, 2).fill_(-torch.inf)
        if keys.real is not None:
            scores.masked_fill_(~keys.real[m].unsqueeze(1), -torch.inf)
        across = (scores - opposite[m].unsqueeze(1)).exp_() if opposite is not None and with_slopes else None
        top = scores.amax(-1, keepdim=True)
        more = None if queue is None else (anchor @ queue.units.mT).div_(temperature)
        if more is not None:
            top = torch.maximum(top, more.amax(-1, keepdim=True))
        top.masked_fill_(top == -torch.inf, 0.0)
        total = scores.sub_(top).exp_().sum(-1, keepdim=True)
        if more is not None:
            total += more.sub_(top).exp_().sum(-1, keepdim=True)
        gap = top + total.log() - positive[m, r].unsqueeze(-1)
        losses[m, r] = -F.logsigmoid(-gap).squeeze(-1)
        if slopes is None:
            continue
        share = gap.sigmoid().div_(total.masked_fill_(total == 0, 1.0))
        slope = slopes[m, r]
        if across is None:
            torch.bmm(scores, others[m], out=slope).mul_(share)
        else:
            torch.bmm(across.addcmul_(scores, share), others[m], out=slope)
        if more is not None and queue is not None:
            slope.addcmul_(more @ queue.units, share)
    return losses, slopes


def _blocks(slots: int, rows: int, keys: int) -> Iterator[tuple[slice, slice]]:
    size = BLOCK * torch.get_num_threads()
    down = min(rows, max(FEWEST, size // max(keys, 1)))
    across = max(1, size // max(down * keys, 1))
    for slot in range(0, slots, across):
        for row in range(0, rows, down):
            yield slice(slot, slot + across), slice(row, row + down)


# With Triton: one program for a tile of a slot's rows, or for that and a part of the keys


def _triton(
    own: _Side,
    keys: _Side,
    queue: _Side | None,
    start: int,
    temperature: float,
    positive: Tensor,
    opposite: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """As `_torch`."""
    load(globals())
    sources = [(keys, start)] if queue is None else [(keys, start), (queue, -positive.shape[1])]
    at_once = with_slopes and opposite is None
    parts = [_launch(own, key, first, temperature, at_once) for key, first in sources]
    logs = torch.cat([found for found, _ in parts])
    losses = -F.logsigmoid(positive - logs.logsumexp(0))
    sums = positive + losses
    if not with_slopes:
        return losses, None
    if at_once:
        shares = (logs - sums).exp_().unsqueeze(-1)
        means = [mean for _, found in parts for mean in found]
        slopes = means[0].mul_(shares[0])
        for mean, share in zip(means[1:], shares[1:], strict=True):
            slopes.addcmul_(mean, share)
        return losses, slopes
    known = [(sums, opposite if key is keys else None) for key, _ in sources]
    found = [
        _launch(own, key, first, temperature, True, *sides)[1]
        for (key, first), sides in zip(sources, known, strict=True)
    ]
    return losses, sum((part.sum(0) for part in found[1:]), found[0].sum(0))


def _launch(
    own: _Side,
    keys: _Side,
    start: int,
    temperature: float,
    with_slopes: bool,
    sums: Tensor | None = None,
    opposite: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Of parts of the keys, without the own ones: their log-sum-exps (parts, slots, B) and means (parts, slots, B, D).

    With ``sums``, the log-sum-exps of the anchors and perhaps the keys, they weigh the keys, which are only added up.
    """
    (slots, rows, width), number = own.vectors.shape, keys.vectors.shape[1]
    piece, out, short, warps = _tuning(width, own.vectors.dtype)
    (anchors, own_inverses), (others, inverses) = (_filled(side, out) for side in (own, keys))
    _, padded, columns = anchors.shape
    tiles = padded // TALL * (columns // out if with_slopes else 1)
    splits = min(others.shape[1] // short, -(-PROGRAMS // (tiles * slots)))
    logs = own_inverses.new_empty((splits, slots, padded))
    slopes = logs.new_empty((splits, slots, padded, columns) if with_slopes else (0, 0, 0, 0))
    _attend[(tiles, slots, splits)](
        anchors,
        own_inverses,
        others,
        inverses,
        None if sums is None else F.pad(sums, (0, padded - rows)),
        None if opposite is None else F.pad(opposite, (0, others.shape[1] - number)),
        logs,
        slopes,
        padded,
        others.shape[1],
        start,
        width,
        columns,
        others.shape[1] if len(others) == slots else 0,
        LOG2E / temperature,
        LOG2E=LOG2E,
        KNOWN=sums is not None,
        OPPOSITE=opposite is not None,
        WITH_SLOPES=with_slopes,
        # In float32 there are no registers for it.
        HELD=width <= piece and own.vectors.dtype != torch.float32,
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        HALVES=own.vectors.dtype != torch.float32 and own.vectors.device.type != "cpu",
        PRECISION="ieee" if torch.get_float32_matmul_precision() == "highest" else "tf32",
        TALL=TALL,
        SHORT=short,
        PIECE=piece,
        OUT=out,
        num_warps=warps,
        num_stages=2,
    )
    return logs[..., :rows], slopes[..., :rows, :width]


def _filled(side: _Side, out: int) -> tuple[Tensor, Tensor]:
    """Vectors and inverse norms filled up to whole tiles, so that no program has to look where they end.

    Vectors are zero where they are not to be looked at; inverse norms are negative where they do not count.
    """
    missing = -side.vectors.shape[1] % TALL
    vectors = side.vectors.masked_fill((side.inverse == 0).unsqueeze(-1), 0.0)
    inverse = side.inverse if side.real is None else side.inverse.masked_fill(~side.real, -1.0)
    vectors = F.pad(vectors, (0, -vectors.shape[-1] % out, 0, missing))
    return vectors.contiguous(), F.pad(inverse, (0, missing), value=-1.0)


def _tuning(width: int, dtype: torch.dtype) -> tuple[int, int, int, int]:
    """Columns multiplied at once, columns of the slopes that a program holds, keys of a tile, and warps."""
    wide, gfx = max(16, power_of_2(width)), backend.architecture().startswith("gfx")
    if dtype == torch.float32:
        return 64, 128, 32, 4
    return min(wide, 128), min(wide, 256), 32 if gfx else 64, 4 if gfx else 8


@jit
def _score(left, right, score, HALVES: tl.constexpr, PRECISION: tl.constexpr):  # type: ignore[no-untyped-def]
    if not HALVES:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, tl.trans(right), score, input_precision=PRECISION)


@jit
def _attend(  # type: ignore[no-untyped-def]
    anchors,
    own_inverses,
    keys,
    inverses,
    sums,
    opposite,
    logs,
    slopes,
    rows,
    number,
    start,
    width,
    columns,
    by_slot,
    scale,
    LOG2E: tl.constexpr,
    KNOWN: tl.constexpr,
    OPPOSITE: tl.constexpr,
    WITH_SLOPES: tl.constexpr,
    HELD: tl.constexpr,
    HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    TALL: tl.constexpr,
    SHORT: tl.constexpr,
    PIECE: tl.constexpr,
    OUT: tl.constexpr,
):
    """A tile of rows against a part of the keys, tile by tile, in logarithms of base two.

    The slopes of a tile's rows may be shared out to several programs by columns, which all find the same scores. A key
    whose inverse norm is negative does not count.
    """
    slot, split = tl.program_id(1).to(tl.int64), tl.program_id(2).to(tl.int64)
    row_tiles = rows // TALL
    row = tl.program_id(0) % row_tiles * TALL + tl.arange(0, TALL)
    out = tl.program_id(0) // row_tiles * OUT + tl.arange(0, OUT)
    column = tl.arange(0, PIECE)
    factor = tl.load(own_inverses + slot * rows + row) * scale
    from_row = anchors + (slot * rows + row)[:, None] * columns
    keys += slot * by_slot * columns
    inverses += slot * by_slot
    top = tl.full((TALL,), -1e30, tl.float32)
    total = tl.zeros((TALL,), tl.float32)
    slope = tl.zeros((TALL, OUT), tl.float32)
    if HELD:
        anchor = tl.load(from_row + column[None, :])
    if KNOWN:
        known = tl.load(sums + slot * rows + row) * LOG2E
    tiles = number // SHORT
    share = tl.cdiv(tiles, tl.num_programs(2))
    first = tl.program_id(2) * share
    for tile in range(first, tl.minimum(first + share, tiles)):
        key = tile * SHORT + tl.arange(0, SHORT)
        from_key = keys + key.to(tl.int64)[:, None] * columns
        score = tl.zeros((TALL, SHORT), tl.float32)
        if HELD:
            vector = tl.load(from_key + column[None, :])
            score = _score(anchor, vector, score, HALVES, PRECISION)
        else:
            for piece in range(0, width, PIECE):
                left = tl.load(from_row + (piece + column)[None, :])
                right = tl.load(from_key + (piece + column)[None, :])
                score = _score(left, right, score, HALVES, PRECISION)
        inverse = tl.load(inverses + key)
        score = score * factor[:, None] * inverse[None, :] + tl.where(inverse < 0, float("-inf"), 0.0)[None, :]
        # The own key comes in at the end.
        score = tl.where(key[None, :] == row[:, None] + start, float("-inf"), score)
        if KNOWN:
            weight = tl.exp2(score - known[:, None])
            if OPPOSITE:
                weight += tl.exp2(score - (tl.load(opposite + slot * number + key) * LOG2E)[None, :])
        else:
            highest = tl.maximum(top, tl.max(score, 1))
            fall = tl.exp2(top - highest)
            weight = tl.exp2(score - highest[:, None])
            total = total * fall + tl.sum(weight, 1)
            top = highest
            slope = slope * fall[:, None]
        if WITH_SLOPES:
            if not HELD:
                vector = tl.load(from_key + out[None, :])
            weight = weight * inverse[None, :]
            # Bfloat16 has room for any norm, float16 has not.
            if HALVES:
                slope = tl.dot(weight.to(tl.bfloat16), vector.to(tl.bfloat16), slope)
            else:
                slope = tl.dot(weight, vector.to(tl.float32), slope, input_precision=PRECISION)
    to = (split * tl.num_programs(1) + slot) * rows + row
    if not KNOWN:
        tl.store(logs + to, (top + tl.log2(total)) / LOG2E)
        slope = slope / tl.where(total == 0, 1.0, total)[:, None]
    if WITH_SLOPES:
        tl.store(slopes + to[:, None] * columns + out[None, :], slope)
