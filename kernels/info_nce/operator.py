"""The calls and the operators of `info_nce`."""

from __future__ import annotations

import math
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.backend import (
    PLAIN,
    Decision,
    KernelError,
    accumulator,
    check_kind,
    check_mask,
    choose,
    direct,
    plain,
    why_not_positive,
)
from kdzoo.kernels.info_nce import blocks, launch
from kdzoo.kernels.info_nce.reference import info_nce_reference
from kdzoo.kernels.layout import divisor
from kdzoo.kernels.operators import Operator, called, custom_op, gradient_room, without_autocast


@without_autocast
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
    with_gradient = student.requires_grad and torch.is_grad_enabled()
    among = mask is None and queue is None and count is None and not symmetric and student.shape == teacher.shape
    if among and student.dim() == 2 and len(student) and direct(student, backend):
        options = (None, None, None, None, len(student), 0, temperature, False, with_gradient, "torch")
        return _operator.direct(student, teacher.detach(), *options)
    if count is None and opposite is None and len(teacher) == len(student) and _plain(student, backend):
        return info_nce_reference(
            student, teacher, mask=mask, queue=queue, temperature=temperature, symmetric=symmetric
        )
    losses, sums = opposite if opposite is not None and symmetric else (None, None)
    own_mask = None if mask is None else mask[start : start + len(student)]
    return _operator(
        student,
        teacher.detach(),
        mask,
        None if queue is None else queue.detach(),
        losses,
        sums,
        divisor(student, own_mask, count),
        start,
        temperature,
        symmetric,
        with_gradient,
        backend,
    )


@without_autocast
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
    rows: tuple[Tensor, Tensor] = called(
        "info_nce_rows", anchors.detach(), keys.detach(), mask, start, temperature, backend
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
    wrong = why_not_positive(temperature)
    if wrong is not None:
        raise KernelError(f"info_nce: temperature is {wrong}")
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
    count: Tensor | int,
    start: int,
    temperature: float,
    symmetric: bool,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """What the operator of `info_nce` does: the value, and its gradient at the student where that is wanted."""
    if isinstance(count, int):
        if student.dtype == accumulator(student.dtype):
            found = blocks.alone(student, teacher, temperature, count, with_gradient)
            if found is not None:
                return found[0] / count, found[1]
        count = torch.full((), count, dtype=accumulator(student.dtype), device=student.device)
    gradient = gradient_room(student, with_gradient)
    if math.prod(student.shape[:-1]) == 0:
        return torch.zeros_like(count), gradient
    if queue is not None and len(queue) == 0:
        queue = None
    options = (count, start, temperature, symmetric, gradient if with_gradient else None)
    with torch.cuda.device_of(student):
        value = _form(student, backend).sweep(student, teacher, mask, queue, losses, sums, *options)
    return value / count, gradient


_operator = Operator(
    "info_nce",
    run,
    "Tensor student, Tensor teacher, Tensor? mask, Tensor? queue, Tensor? losses, Tensor? sums, Tensor count, "
    "SymInt start, float temperature, bool symmetric, bool with_gradient, str backend",
    wanted=10,
    count=6,
)


def run_rows(
    anchors: Tensor, keys: Tensor, mask: Tensor | None, start: int, temperature: float, backend: str
) -> tuple[Tensor, Tensor]:
    """What the operator of `info_nce_rows` does."""
    with torch.cuda.device_of(anchors):
        losses, sums = _form(anchors, backend).rows(anchors, keys, mask, start, temperature)
    return losses.T.reshape(anchors.shape[:-1]).clone(), sums.T.reshape(anchors.shape[:-1]).clone()


def _fake_rows(anchors: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    losses = anchors.new_empty(anchors.shape[:-1], dtype=accumulator(anchors.dtype))
    return losses, torch.empty_like(losses)


custom_op(
    "info_nce_rows",
    run_rows,
    "(Tensor anchors, Tensor keys, Tensor? mask, SymInt start, float temperature, str backend) -> (Tensor, Tensor)",
    _fake_rows,
)


def decision(tensor: Tensor, backend: str = "auto") -> Decision:
    """Which backend `info_nce` takes for a student, and why."""
    if _plain(tensor, backend):
        compared = f"{tensor.numel()} elements, under {PLAIN['info_nce']} the plain formula was measured faster"
        return Decision("torch", compared)
    return choose("info_nce", tensor, backend)


def _plain(student: Tensor, backend: str) -> bool:
    """Whether the reference is to be called in place of the operator: of few rows, whose scores are few."""
    return plain("info_nce", student, backend) and len(student) <= 256


def _form(tensor: Tensor, backend: str) -> ModuleType:
    # There is nothing to launch on where there are no elements.
    return launch if decision(tensor, backend).triton and tensor.numel() > 0 else blocks
