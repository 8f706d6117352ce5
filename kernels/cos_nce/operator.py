"""The calls and the operators of `cos_nce`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.backend import (
    Decision,
    KernelError,
    accumulator,
    check_kind,
    check_mask,
    choose,
    direct,
    plain,
    text,
    unit_vectors,
)
from kdzoo.kernels.cos_nce import blocks, launch
from kdzoo.kernels.layout import divisor, spread
from kdzoo.kernels.operators import Operator, called, custom_op, gradient_room, without_autocast

MAX_WIDTH = 8192  # in Triton one row is held in registers whole


@without_autocast
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
    with_gradient = student.requires_grad and torch.is_grad_enabled()
    teacher, (total, counts) = teacher.detach(), totals or (None, None)
    if mask is None and count is None and direct(student, backend):
        number = max(math.prod(student.shape[:-1]), 1)
        return _operator.direct(student, teacher, mask, negatives, total, counts, number, with_gradient, "torch")
    count = divisor(student, mask, count)
    if negatives is None and totals is None and plain("cos_nce", student, backend):
        return _plain(student, teacher, mask) / count
    return _operator(student, teacher, mask, negatives, total, counts, count, with_gradient, backend)


def _plain(student: Tensor, teacher: Tensor, mask: Tensor | None) -> Tensor:
    """The sum over the anchors from the slots' totals, with autograd, for a compiler to make one loop of."""
    dtype = accumulator(student.dtype)
    rows = torch.full((), len(student), dtype=dtype, device=student.device)
    student, teacher = student.to(dtype), teacher.to(dtype)
    mask = spread(mask, student)
    if mask is not None:
        student, teacher = (side.masked_fill(~mask.unsqueeze(-1), 0.0) for side in (student, teacher))
        rows = mask.sum(0).unsqueeze(-1).to(dtype)
    other = unit_vectors(teacher)
    direction = (other.sum(0) - other) * (0.5 / (rows - 1).clamp_min(1)) - 1.5 * other
    values = 2 + (unit_vectors(student) * direction).sum(-1)
    return (values if mask is None else torch.where(mask, values, 0.0)).sum()


@without_autocast
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
    totals: tuple[Tensor, Tensor] = called("cos_nce_totals", teacher.detach(), mask, backend)
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


# The operators


def run(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    count: Tensor | int,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the operator of `cos_nce` does: the value, and its gradient at the student where that is wanted."""
    if isinstance(count, int):
        found = blocks.alone(student, teacher, negatives, total, 1 / count)
        if found is not None:
            return found[0] / count, found[1]
        count = torch.full((), count, dtype=accumulator(student.dtype), device=student.device)
    gradient = gradient_room(student, with_gradient)
    written = gradient if with_gradient else None
    # Float16 has no room for the quotients by a large N: there the backward pass divides.
    scale = torch.ones_like(count) if student.dtype == torch.float16 else count.reciprocal()
    sweep = (launch if _on_triton(student, backend) else blocks).sweep
    with torch.cuda.device_of(student):
        value = sweep(student, teacher, mask, negatives, total, counts, scale, written)
    return value / count, gradient


_operator = Operator(
    "cos_nce",
    run,
    "Tensor student, Tensor teacher, Tensor? mask, Tensor? negatives, Tensor? total, Tensor? counts, Tensor count, "
    "bool with_gradient, str backend",
    wanted=7,
    count=6,
)


def run_totals(teacher: Tensor, mask: Tensor | None, backend: str) -> tuple[Tensor, Tensor]:
    """What the operator of `cos_nce_totals` does."""
    with torch.cuda.device_of(teacher):
        total, counts, *_ = (launch if _on_triton(teacher, backend) else blocks).totals(teacher, mask)
    return total.reshape(teacher.shape[1:]), counts.reshape(teacher.shape[1:-1])


def _fake_totals(teacher: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    total = teacher.new_empty(teacher.shape[1:], dtype=accumulator(teacher.dtype))
    return total, total.new_empty(teacher.shape[1:-1])


custom_op("cos_nce_totals", run_totals, "(Tensor teacher, Tensor? mask, str backend) -> (Tensor, Tensor)", _fake_totals)


def decision(tensor: Tensor, backend: str = "auto") -> Decision:
    """The backend for a student or teacher, and why."""
    if plain("cos_nce", tensor, backend):
        return Decision("torch", "inside torch.compile or torch.func the plain formula is what can be followed")
    width = tensor.shape[-1]
    unfit = f"a width of {width} is above {MAX_WIDTH}" if width > MAX_WIDTH else None
    return choose("cos_nce", tensor, backend, unfit)


def _on_triton(tensor: Tensor, backend: str) -> bool:
    """Whether Triton runs; it has nothing to launch on where there are no elements."""
    return decision(tensor, backend).triton and tensor.numel() > 0
