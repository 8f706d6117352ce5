"""COS-NCE in one operator: all layers, positions and rows at once, linear in the rows; the gradient with the value.

With in-batch negatives the cosines of an anchor with all other rows of its slot (a layer and position) add up to one
dot product with the slot's total T = Σ_j t̂_j. So there are two passes: over the teacher for the totals, then over
student and teacher for value and gradient. Student and teacher are read once, the gradient is written once, and
the second pass takes the rows in reverse, so that what it reads of the teacher a second time is still in the cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdzoo.kernels.backend import (
    EPSILON,
    PLAIN,
    Decision,
    KernelError,
    accumulator,
    check_kind,
    check_mask,
    choose,
    jit,
    load,
    plain,
    power_of_2,
    register_value_and_gradient,
    text,
    unit,
)

if TYPE_CHECKING:
    import triton.language as tl

MAX_WIDTH = 8192  # one row is held in registers whole
BLOCK = 131072  # elements of a block that the CPU keeps in its cache, for each thread


def cos_nce_reference(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, negatives: Tensor | None = None
) -> Tensor:
    """The formula with every cosine written out: (B, B) of them in each slot; see `cos_nce`."""
    if student.dtype in (torch.float16, torch.bfloat16):
        student, teacher = student.float(), teacher.float()
        negatives = None if negatives is None else negatives.float()
    rows = len(student)
    slots = teacher.unsqueeze(0).shape[2:-1]
    real = torch.ones((rows, *slots), dtype=torch.bool, device=student.device)
    if mask is not None:
        real = (mask != 0).view(rows, *(1 for _ in slots[1:]), mask.shape[1]).expand(rows, *slots)
    own = unit(student.masked_fill(~real.unsqueeze(-1), 0.0))
    with torch.no_grad():
        other = unit(teacher.masked_fill(~real.unsqueeze(-1), 0.0))
    positive = (own * other).sum(-1)
    if negatives is None:
        cosines = torch.einsum("i...d,j...d->ij...", own, other)
        apart = ~torch.eye(rows, dtype=torch.bool, device=student.device).view(rows, rows, *(1 for _ in slots))
        counted = apart & real
    else:
        if negatives.dim() == 3:
            negatives = negatives.view(*negatives.shape[:2], *(1 for _ in slots), negatives.shape[-1])
        with torch.no_grad():
            negatives = unit(negatives.masked_fill(~real[:, None, ..., None], 0.0))
        cosines = (own.unsqueeze(1) * negatives).sum(-1)
        counted = real.unsqueeze(1).expand_as(cosines)
    negative = torch.where(counted, cosines, 0.0).sum(1) / counted.sum(1).clamp_min(1)
    values = torch.where(real, 2 - 1.5 * positive + 0.5 * negative, 0.0)
    return values.sum() / real.sum().clamp_min(1)


def cos_nce(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    negatives: Tensor | None = None,
    totals: tuple[Tensor, Tensor] | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """COS-NCE of a whole batch, with its gradient at the student.

        1/N · Σ_i [ 2 - 1.5 cos(s_i, t_i) + 0.5 · mean_k cos(s_i, t_k) ]

    over the N anchors that the mask counts in all slots. The negatives k are the other counted rows of the same
    slot, or ``negatives``; without one the last term is left out. A vector whose length is zero or infinite has
    cosine 0 with everything and no gradient. What lies where the mask is False is never looked at.

    Args:
        student: (B, ..., D), float32, bfloat16, float16 or float64, of any strides.
        teacher: (B, ..., D) of the same type; without gradient.
        mask: (B, S), 1 or True where a position is real.
        negatives: explicit negatives in place of the batch's rows; without gradient.
        totals: what `cos_nce_totals` gave, added up over processes; the own ones by default.
        count: the number to divide by in place of N, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) with S the last slot axis.
        negatives: (B, K, D) for all slots alike, or (B, K, ..., D) with those of each slot.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, or a backend that is not there.

    References:
        Fu et al. 2021, LRC-BERT, equations 3 to 5. https://arxiv.org/abs/2012.07335

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.cos_nce import cos_nce
        >>> student, teacher = torch.randn(8, 4, 37, requires_grad=True), torch.randn(8, 4, 37)
        >>> cos_nce(student, teacher, mask=torch.ones(8, 4)).backward()
    """
    check_kind("cos_nce", student=student, teacher=teacher, negatives=negatives)
    if student.shape != teacher.shape or student.dim() not in (2, 3, 4):
        raise KernelError(
            f"cos_nce: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape, (B, D), "
            "(B, S, D), (B, M, D) or (B, M, S, D)"
        )
    mask = check_mask("cos_nce", mask, student)
    if negatives is not None:
        _check_negatives(negatives, teacher)
        if totals is not None:
            raise KernelError("cos_nce: give negatives or totals, not both; totals are those of in-batch negatives")
        negatives = negatives.detach()
    if totals is not None:
        _check_totals(*totals, teacher)
    if count is None:
        # A tensor in each case, so that the number of rows is no constant of a compiled graph.
        every = torch.full((), math.prod(student.shape[:-1]), dtype=torch.float64, device=student.device)
        count = every if mask is None else mask.sum() * (student.shape[1] if student.dim() == 4 else 1)
    count = count.detach().to(accumulator(student.dtype)).clamp_min(EPSILON)
    if negatives is None and totals is None and plain("cos_nce", student, backend):
        return _plain(student, teacher.detach(), mask) / count
    value: Tensor
    value, _ = torch.ops.kdzoo.cos_nce(
        student,
        teacher.detach(),
        mask,
        negatives,
        *(totals or (None, None)),
        count,
        student.requires_grad and torch.is_grad_enabled(),
        backend,
    )
    return value


def _plain(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over the anchors from the slots' totals, with autograd: for batches that cost less than the operator."""
    dtype = accumulator(student.dtype)
    rows = torch.full((), len(student), dtype=dtype, device=student.device)
    student, teacher = student.to(dtype), teacher.to(dtype)
    if mask is not None:
        mask = mask if student.dim() == 3 else mask.unsqueeze(1).expand(student.shape[:-1])
        student, teacher = (side.masked_fill(~mask.unsqueeze(-1), 0.0) for side in (student, teacher))
        rows = mask.sum(0).unsqueeze(-1).to(dtype)
    other = unit(teacher)
    direction = (other.sum(0) - other) * (0.5 / (rows - 1).clamp_min(1)) - 1.5 * other
    values = 2 + (unit(student) * direction).sum(-1)
    return (values if mask is None else torch.where(mask, values, 0.0)).sum()


def cos_nce_totals(teacher: Tensor, *, mask: Tensor | None = None, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """The first pass alone: what the negatives of a slot add up to, to be summed over processes.

    Args:
        teacher: (B, ..., D).
        mask: (B, S), 1 or True where a position is real.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Returns:
        Σ_j t̂_j of each slot, (..., D), and the number of rows counted there, (...,).

    Raises:
        KernelError: as for `cos_nce`.
    """
    check_kind("cos_nce", teacher=teacher)
    if teacher.dim() not in (2, 3, 4):
        raise KernelError(f"cos_nce: teacher {tuple(teacher.shape)} must be (B, D), (B, S, D), (B, M, D), (B, M, S, D)")
    mask = check_mask("cos_nce", mask, teacher)
    totals: tuple[Tensor, Tensor] = torch.ops.kdzoo.cos_nce_totals(teacher.detach(), mask, backend)
    return totals


def _check_negatives(negatives: Tensor, teacher: Tensor) -> None:
    rows, *between, width = teacher.shape
    shape = tuple(negatives.shape)
    for_all = len(shape) == 3 and (shape[0], shape[2]) == (rows, width)
    for_each = len(shape) > 3 and (shape[0], *shape[2:]) == (rows, *between, width)
    if not (for_all or for_each):
        raise KernelError(
            f"cos_nce: negatives {shape} do not fit a teacher {tuple(teacher.shape)}; they are ({rows}, K, {width}), "
            "or (B, K, ..., D) with its layers and positions"
        )


def _check_totals(total: Tensor, counts: Tensor, teacher: Tensor) -> None:
    dtype, slots = accumulator(teacher.dtype), teacher.shape[1:]
    if total.shape != slots or counts.shape != slots[:-1] or total.dtype != dtype or counts.dtype != dtype:
        raise KernelError(
            f"cos_nce: totals {text(total.dtype)} {tuple(total.shape)} and {text(counts.dtype)} {tuple(counts.shape)} "
            f"do not fit a teacher {tuple(teacher.shape)}; they are {text(dtype)} {tuple(slots)} and "
            f"{tuple(slots[:-1])}, as cos_nce_totals gives them"
        )


# The operator


def run(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    count: Tensor,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the operator of `cos_nce` does: the value, and its gradient at the student where that is wanted."""
    gradient = student.new_empty(student.shape if with_gradient else (0, *student.shape[1:]))
    # Float16 has no room for the quotients by a large N: there the backward pass divides.
    scale = torch.ones_like(count) if student.dtype == torch.float16 else count.reciprocal()
    sweep = _triton if _on_triton(student, backend) else _torch
    with torch.cuda.device_of(student):
        value = sweep(student, teacher, mask, negatives, total, counts, scale, gradient if with_gradient else None)
    return value / count, gradient


_operator = torch.library.custom_op(
    "kdzoo::cos_nce",
    run,
    mutates_args=(),
    schema="(Tensor student, Tensor teacher, Tensor? mask, Tensor? negatives, Tensor? total, Tensor? counts, "
    "Tensor count, bool with_gradient, str backend) -> (Tensor, Tensor)",
)
register_value_and_gradient(_operator, "cos_nce", count=6, wanted=7)


def run_totals(teacher: Tensor, mask: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
    """What the operator of `cos_nce_totals` does."""
    with torch.cuda.device_of(teacher):
        total, counts, *_ = (_triton_totals if _on_triton(teacher, backend) else _torch_totals)(teacher, mask)
    return total.reshape(teacher.shape[1:]), counts.reshape(teacher.shape[1:-1])


_totals_operator = torch.library.custom_op(
    "kdzoo::cos_nce_totals",
    run_totals,
    mutates_args=(),
    schema="(Tensor teacher, Tensor? mask, str backend) -> (Tensor, Tensor)",
)


@_totals_operator.register_fake
def _(teacher: Tensor, mask: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
    total = teacher.new_empty(teacher.shape[1:], dtype=accumulator(teacher.dtype))
    return total, total.new_empty(teacher.shape[1:-1])


def decision(tensor: Tensor, backend: str = "auto") -> Decision:
    """The backend for a student or teacher, and why."""
    if plain("cos_nce", tensor, backend):
        compared = f"{tensor.numel()} elements, under {PLAIN['cos_nce']} plain PyTorch was measured faster"
        return Decision("torch", compared)
    width = tensor.shape[-1]
    unfit = f"a width of {width} is above {MAX_WIDTH}" if width > MAX_WIDTH else None
    return choose("cos_nce", tensor, backend, unfit)


def _on_triton(tensor: Tensor, backend: str) -> bool:
    """Whether Triton runs; it has nothing to launch on where there are no elements."""
    return decision(tensor, backend).triton and tensor.numel() > 0


# Without Triton: block by block, so that all but the first reading of a block comes from the cache


def _flat(vectors: Tensor) -> Tensor:
    """(B, D) or (B, ..., D) as (B, slots, D)."""
    return vectors.unsqueeze(1) if vectors.dim() == 2 else vectors.flatten(1, -2)


def _counted(mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """The mask (B, S) of (B, S, D) or (B, M, S, D), over the slots of `_flat`."""
    if mask is None or vectors.dim() == 3:
        return mask
    return mask.unsqueeze(1).expand(vectors.shape[:-1]).flatten(1)


def _blocks(rows: int, slots: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and slots of each block; a few rows at the least, over which a slot's total is added up in the cache."""
    size = BLOCK * torch.get_num_threads()
    across = max(1, min(slots, size // max(min(rows, 8) * width, 1)))
    down = max(1, size // max(across * width, 1))
    for slot in range(0, slots, across):
        for row in range(0, rows, down):
            yield slice(row, row + down), slice(slot, slot + across)


def _inverse_norms(vectors: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norms, and 1 / norm: 0 where the norm is zero or infinite or does not count."""
    norm = torch.linalg.vector_norm(vectors, dim=-1)
    inverse = norm.clamp_min(EPSILON).reciprocal_().mul_(norm != 0)
    return norm, inverse if real is None else inverse.masked_fill_(~real, 0.0)


def _finite(vectors: Tensor, inverse: Tensor) -> Tensor:
    """Zeros in place of the vectors whose inverse is 0, which may hold what 0 times it is not 0."""
    return vectors.masked_fill((inverse == 0).unsqueeze(-1), 0.0)


def _torch_totals(teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The unit vectors' sum in each slot, (slots, D), how many they are, (slots,), and 1 / norm of each, (B, slots)."""
    dtype, real, flat = accumulator(teacher.dtype), _counted(mask, teacher), _flat(teacher)
    rows, slots, width = flat.shape
    inverse = torch.empty((rows, slots), dtype=dtype, device=teacher.device)
    # Without looking for what is not finite; where the sum shows that there was some, once more with care.
    for careful in (False, True) if teacher.device.type == "cpu" else (True,):
        total = torch.zeros((slots, width), dtype=dtype, device=teacher.device)
        for r, m in _blocks(rows, slots, width):
            part = flat[r, m].to(dtype)
            _, one = _inverse_norms(part, None if real is None else real[r, m])
            part = _finite(part, one) if careful else part
            if part.shape[1] == 1:
                total[m] += one.T @ part.squeeze(1)
            else:
                total[m] += (part * one.unsqueeze(-1)).sum(0)
            inverse[r, m] = one
        if careful or total.isfinite().all():
            break
    if real is None:
        return total, torch.full((slots,), float(rows), dtype=dtype, device=teacher.device), inverse
    return total, real.sum(0).to(dtype), inverse


def _torch_centres(negatives: Tensor) -> Tensor:
    """The mean of each row's unit negatives: (B, K, D) to (B, 1, D), (B, K, ..., D) to (B, slots, D)."""
    negatives = negatives.unsqueeze(2) if negatives.dim() == 3 else negatives.flatten(2, -2)
    rows, number, slots, width = negatives.shape
    dtype = accumulator(negatives.dtype)
    centres = torch.zeros((rows, slots, width), dtype=dtype, device=negatives.device)
    for r, m in _blocks(rows, slots, number * width):
        part = negatives[r, :, m].to(dtype)
        _, one = _inverse_norms(part, None)
        centres[r, m] = (_finite(part, one) * one.unsqueeze(-1)).sum(1) / max(number, 1)
    return centres


def _torch(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    scale: Tensor,
    gradient: Tensor | None,
) -> Tensor:
    """The sum of the values; its gradient, times ``scale``, is written to ``gradient``."""
    dtype, real, others = accumulator(student.dtype), _counted(mask, student), None
    s, t, written = _flat(student), _flat(teacher), None if gradient is None else _flat(gradient)
    rows, slots, width = s.shape
    if negatives is not None:
        towards = _torch_centres(negatives)
        repel = torch.full((slots,), 0.5, dtype=dtype, device=s.device)
        attract = repel + 1
    else:
        if total is None or counts is None:
            total, counts, others = _torch_totals(teacher, mask)
        towards, counts = total.reshape(1, slots, width), counts.reshape(slots)
        repel = torch.where(counts > 1, 0.5 / (counts - 1).clamp_min(1), 0.0)
        attract = 1.5 + repel  # the own vector is in the total, and no negative
    room = torch.empty(0, dtype=dtype, device=s.device)
    for careful in (False, True) if s.device.type == "cpu" else (True,):
        pulled = torch.zeros((), dtype=dtype, device=s.device)
        for r, m in _blocks(rows, slots, width):
            counted = None if real is None else real[r, m]
            own, other = s[r, m].to(dtype), t[r, m].to(dtype)
            norm, one = _inverse_norms(own, counted)
            two = others[r, m] if others is not None else _inverse_norms(other, counted)[1]
            direction = towards[r if len(towards) > 1 else slice(None), m if towards.shape[1] > 1 else slice(None)]
            if careful:
                own, other = _finite(own, one), _finite(other, two)
                direction = _finite(direction, one) if negatives is not None and counted is not None else direction
            block = room.resize_(own.shape) if written is None or written.dtype != dtype else written[r, m]
            cosine = torch.mul(own, other, out=block).sum(-1).mul_(one).mul_(two)
            if direction.shape[:2] == (1, 1):
                along = (own @ direction[0, 0]).mul_(one)
            else:
                along = torch.mul(own, direction, out=block).sum(-1).mul_(one)
            repelled = along * repel[m]
            pull = repelled - cosine.mul_(attract[m])
            pulled += pull.sum()
            if written is not None:
                step = one * scale
                # A norm below the clamp is a constant, and bends nothing.
                bend = pull.mul_(one).mul_(norm > EPSILON).mul_(step)
                torch.mul(other, (two * step).mul_(-attract[m]).unsqueeze(-1), out=block)
                block.addcmul_((step * repel[m]).unsqueeze(-1), direction)
                block.addcmul_(bend.unsqueeze(-1), own, value=-1)
                if written.dtype != dtype:
                    written[r, m] = block
        if careful or pulled.isfinite():
            break
    return pulled + 2 * (rows * slots if real is None else real.sum())


# With Triton: one program for a slot, or for a part of its rows

_TOTALS_HERE, _TOTALS_GIVEN, _NEGATIVES = 0, 1, 2


def _spread(tensor: Tensor, axes: int = 4) -> Tensor:
    """(B, D), (B, S, D) or (B, M, S, D) as (B, M, S, D); with 5 axes, (B, K, ..., D) as (B, K, M, S, D)."""
    while tensor.dim() < axes:
        tensor = tensor.unsqueeze(axes - 3)
    return tensor


def _launch(rows: int, width: int, slots: int) -> tuple[int, int, int, int]:
    """Rows of a tile, its width, warps, and into how many programs the rows of a slot are split."""
    wide = power_of_2(width)
    # Few programs, each with many loads in flight, keep the rows between their two readings in the L2 cache.
    size = 8192 if slots >= 128 and rows * wide >= 65536 else 4096
    tall = min(power_of_2(rows), max(1, size // wide), 32)
    warps = min(16, max(1, tall * wide // 512))
    tiles = -(-rows // tall)
    return tall, wide, warps, 1 if rows <= 64 or slots >= 128 else min(tiles, max(1, 512 // slots))


def _triton_totals(teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The first two of `_torch_totals`."""
    load(globals())
    return _sums(_spread(teacher).unsqueeze(0), _bytes(mask))


def _bytes(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.view(torch.uint8)


def _strides(tensor: Tensor | None, axes: int) -> tuple[int, ...]:
    return tensor.stride()[:axes] if tensor is not None else (0,) * axes


def _sums(vectors: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The unit vectors' sum over the rows R of (O, R, M, S, D), as (O·M·S, D), and how many they are, (O·M·S,)."""
    outer, rows, layers, positions, width = vectors.shape
    slots = outer * layers * positions
    tall, wide, warps, splits = _launch(rows, width, slots)
    total = torch.empty((splits, slots, width), dtype=torch.float32, device=vectors.device)
    counts = torch.empty((splits, slots), dtype=torch.float32, device=vectors.device)
    _totals[(slots, splits)](
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
        HAS_MASK=mask is not None,
        TALL=tall,
        WIDE=wide,
        num_warps=warps,
    )
    return (total[0], counts[0]) if splits == 1 else (total.sum(0), counts.sum(0))


def _triton(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    scale: Tensor,
    gradient: Tensor | None,
) -> Tensor:
    """As `_torch`."""
    load(globals())
    s, t, mask = _spread(student), _spread(teacher), _bytes(mask)
    written = None if gradient is None else _spread(gradient)
    rows, layers, positions, width = s.shape
    slots = layers * positions
    tall, wide, warps, splits = _launch(rows, width, slots)
    towards: Tensor | None = total
    steps: tuple[int, ...] = (0, 0, 0)
    if negatives is not None:
        spread = _spread(negatives, 5)
        shape = (rows, *spread.shape[2:])
        # Zero without any, where the mean of none would be 0 / 0.
        towards = _sums(spread, None)[0].view(shape) / max(negatives.shape[1], 1)
        steps = tuple(step if size > 1 else 0 for step, size in zip(towards.stride()[:3], shape[:3], strict=True))
    elif splits > 1 and total is None:
        towards, counts = _sums(t.unsqueeze(0), mask)
    values = torch.empty((splits, slots), dtype=torch.float32, device=s.device)
    _values[(slots, splits)](
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
        HAS_MASK=mask is not None,
        HERE=towards is None,
        PER_ROW=negatives is not None,
        WITH_GRADIENT=written is not None,
        TALL=tall,
        WIDE=wide,
        num_warps=warps,
    )
    return values.sum()


@jit
def _tile(pointer, row, real, column, width, by_row, by_column, EPSILON: tl.constexpr):  # type: ignore[no-untyped-def]
    """A tile in float32, its rows' norms and their inverses; all zero where a norm is infinite or does not count."""
    at = pointer + row.to(tl.int64)[:, None] * by_row + column.to(tl.int64)[None, :] * by_column
    tile = tl.load(at, mask=real[:, None] & (column < width)[None, :], other=0.0).to(tl.float32)
    norm = tl.sqrt(tl.sum(tile * tile, 1))
    none = norm == float("inf")
    tile = tl.where(none[:, None], 0.0, tile)
    inverse = tl.where(none | (norm == 0), 0.0, 1 / tl.maximum(norm, EPSILON))
    return tile, norm, inverse


@jit
def _real(mask, row, rows, by_row, HAS_MASK: tl.constexpr):  # type: ignore[no-untyped-def]
    real = row < rows
    if HAS_MASK:
        real = tl.load(mask + row.to(tl.int64) * by_row, mask=real, other=0) != 0
    return real


@jit
def _sum_tiles(  # type: ignore[no-untyped-def]
    vectors,
    mask,
    first,
    last,
    rows,
    width,
    by_row,
    by_column,
    mask_by_row,
    EPSILON: tl.constexpr,
    HAS_MASK: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    column = tl.arange(0, WIDE)
    total = tl.zeros((TALL, WIDE), tl.float32)  # added up over its rows once, at the end
    count = tl.zeros((TALL,), tl.float32)
    for tile in range(first, last):
        row = tile * TALL + tl.arange(0, TALL)
        real = _real(mask, row, rows, mask_by_row, HAS_MASK)
        vector, _, inverse = _tile(vectors, row, real, column, width, by_row, by_column, EPSILON)
        total += vector * inverse[:, None]
        count += real.to(tl.float32)
    return tl.sum(total, 0), tl.sum(count, 0)


@jit
def _totals(  # type: ignore[no-untyped-def]
    vectors,
    mask,
    total,
    counts,
    rows,
    layers,
    positions,
    width,
    v_outer,
    v_row,
    v_layer,
    v_position,
    v_column,
    m_row,
    m_position,
    EPSILON: tl.constexpr,
    HAS_MASK: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """The sum of the unit vectors of a part of a slot's rows, and how many they are."""
    slot, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    outer, layer, position = slot // (layers * positions), slot // positions % layers, slot % positions
    vectors += outer * v_outer + layer * v_layer + position * v_position
    if HAS_MASK:
        mask += position * m_position
    tiles = tl.cdiv(rows, TALL)
    share = tl.cdiv(tiles, tl.num_programs(1))
    first, last = split * share, tl.minimum(split * share + share, tiles)
    summed, count = _sum_tiles(
        vectors, mask, first, last, rows, width, v_row, v_column, m_row, EPSILON, HAS_MASK, TALL, WIDE
    )
    column = tl.arange(0, WIDE)
    at = split.to(tl.int64) * tl.num_programs(0) + slot
    tl.store(total + at * width + column, summed, mask=column < width)
    tl.store(counts + at, count)


@jit
def _values(  # type: ignore[no-untyped-def]
    student,
    teacher,
    mask,
    towards,
    counts,
    scale,
    values,
    gradient,
    rows,
    positions,
    width,
    s_row,
    s_layer,
    s_position,
    s_column,
    t_row,
    t_layer,
    t_position,
    t_column,
    m_row,
    m_position,
    w_row,
    w_layer,
    w_position,
    g_row,
    g_layer,
    g_position,
    EPSILON: tl.constexpr,
    HAS_MASK: tl.constexpr,
    HERE: tl.constexpr,
    PER_ROW: tl.constexpr,
    WITH_GRADIENT: tl.constexpr,
    TALL: tl.constexpr,
    WIDE: tl.constexpr,
):
    """Value and gradient of a part of a slot's rows, from the slot's total or, PER_ROW, each row's mean negative."""
    slot, split = tl.program_id(0).to(tl.int64), tl.program_id(1)
    layer, position = slot // positions, slot % positions
    student += layer * s_layer + position * s_position
    teacher += layer * t_layer + position * t_position
    if HAS_MASK:
        mask += position * m_position
    tiles = tl.cdiv(rows, TALL)
    share = tl.cdiv(tiles, tl.num_programs(1))
    first, last = split * share, tl.minimum(split * share + share, tiles)
    column = tl.arange(0, WIDE)
    repel, attract = 0.5, 1.5
    if not PER_ROW:
        if HERE:
            total, count = _sum_tiles(
                teacher, mask, 0, tiles, rows, width, t_row, t_column, m_row, EPSILON, HAS_MASK, TALL, WIDE
            )
        else:
            total = tl.load(towards + slot * width + column, mask=column < width, other=0.0)
            count = tl.load(counts + slot)
        repel = tl.where(count > 1, 0.5 / tl.maximum(count - 1, 1), 0.0)
        attract = 1.5 + repel  # the own vector is in the total, and no negative
        direction = total[None, :]
    scale = tl.load(scale)
    value = tl.zeros((TALL,), tl.float32)
    for back in range(first, last):
        row = (first + last - 1 - back) * TALL + tl.arange(0, TALL)
        real = _real(mask, row, rows, m_row, HAS_MASK)
        inside = real[:, None] & (column < width)[None, :]
        s, norm, one = _tile(student, row, real, column, width, s_row, s_column, EPSILON)
        t, _, other = _tile(teacher, row, real, column, width, t_row, t_column, EPSILON)
        if PER_ROW:
            at = towards + row.to(tl.int64)[:, None] * w_row + layer * w_layer + position * w_position
            direction = tl.load(at + column[None, :], mask=inside, other=0.0)
        pull = repel * tl.sum(s * direction, 1) * one - attract * tl.sum(s * t, 1) * one * other
        value += tl.where(real, pull + 2, 0.0)
        if WITH_GRADIENT:
            step = one * scale
            # A norm below the clamp is a constant, and bends nothing.
            bend = tl.where(norm > EPSILON, pull * one, 0.0) * step
            slope = (repel * step)[:, None] * direction - (attract * step * other)[:, None] * t - bend[:, None] * s
            slope = tl.where(real[:, None], slope, 0.0)
            at = gradient + row.to(tl.int64)[:, None] * g_row + layer * g_layer + position * g_position
            written = (row < rows)[:, None] & (column < width)[None, :]
            tl.store(at + column[None, :], slope.to(gradient.dtype.element_ty), mask=written)
    tl.store(values + split.to(tl.int64) * tl.num_programs(0) + slot, tl.sum(value, 0))
