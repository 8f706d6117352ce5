"""Divergences of classes from hidden states and their heads: the logits of a chunk of rows at a time, never all.

A chunk goes through the heads and through `divergence`'s operator, which gives the gradient at its logits, and that
goes back through the student's head there and then. Kept are the gradients at the hidden states and at the head.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import (
    Decision,
    KernelError,
    accumulator,
    block_elements,
    check_kind,
    check_mask,
    choose,
    on_host,
    text,
)
from kdzoo.kernels.divergence import checked, divergence_reference
from kdzoo.kernels.divergence import operator as rows_operator
from kdzoo.kernels.layout import counted, divisor, spread
from kdzoo.kernels.operators import Operator, gradient_room, without_autocast

BLOCK = 1 << 21  # logits of a chunk on a CPU, for each thread
LEAST = 16  # rows of a chunk, or reading the head would take longer than the product


@without_autocast
def linear_divergence_reference(
    student: Tensor,
    weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor | None = None,
    kind: str = "kl",
    *,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    places: Tensor | None = None,
    mixture: float = 0.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """The formula on all logits at once; see `linear_divergence`."""
    kind, mixture = checked("linear_divergence", kind, mixture, temperature)
    mask = _check(student, weight, bias, teacher, teacher_weight, teacher_bias, places, mask)
    dtype, real = accumulator(student.dtype), spread(mask, student)
    student, teacher = student.to(dtype), teacher.detach().to(dtype)
    if real is not None:
        student, teacher = (side.masked_fill(~real.unsqueeze(-1), 0.0) for side in (student, teacher))
    ours = F.linear(student, weight.to(dtype), None if bias is None else bias.to(dtype))
    if places is not None:
        teacher = spread_rest(teacher, places, len(weight))
    elif teacher_weight is not None:
        theirs = None if teacher_bias is None else teacher_bias.detach().to(dtype)
        teacher = F.linear(teacher, teacher_weight.detach().to(dtype), theirs)
    return divergence_reference(ours, teacher, kind, mixture=mixture, temperature=temperature, mask=mask, count=count)


@without_autocast
def linear_divergence(
    student: Tensor,
    weight: Tensor,
    teacher: Tensor,
    teacher_weight: Tensor | None = None,
    kind: str = "kl",
    *,
    bias: Tensor | None = None,
    teacher_bias: Tensor | None = None,
    places: Tensor | None = None,
    mixture: float = 0.0,
    temperature: float = 1.0,
    mask: Tensor | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mean divergence of two heads' logits, from hidden states, with its gradients at the student's side.

    It is ``divergence(student @ weight.T + bias, teacher @ teacher_weight.T + teacher_bias, ...)`` of
    `kdzoo.kernels.divergence.divergence`, whose kinds and options these are. Beyond the inputs and the gradients,
    memory is that of a chunk of rows' logits, however many rows there are. Logits and sums are in float32 for half
    precision. Inside autocast it computes in its inputs' types as outside: ``weight.to(student.dtype)`` is what
    autocast would make of a head, and passes the gradient on.

    Args:
        student: hidden states, float32, bfloat16, float16 or float64, of any strides.
        weight: of the student's head, of the same type, as all tensors here.
        teacher: its hidden states; or, without ``teacher_weight``, its logits; or, with ``places``, the
            log-probabilities of its largest classes followed by that of all others together. Without gradient.
        teacher_weight: of the teacher's head; without gradient.
        kind, mixture, temperature: as of `divergence`.
        bias: of the student's head.
        teacher_bias: of the teacher's head; without gradient.
        places: integers, the classes that the teacher's log-probabilities are of; each other class has an equal share
            of what is left.
        mask: 1 or True where a position is real. On a CPU the other rows are not multiplied at all.
        count: the number to divide by in place of the rows that count, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``, of the divergence; the products are torch's.

    Shapes:
        student: (B, D), (B, S, D) or (B, M, S, D); a mask (B, S) with the latter two.
        weight, bias: (C, D), (C,).
        teacher: (..., E) with teacher_weight (C, E) and teacher_bias (C,); (..., C); or (..., K + 1) with places
            (..., K).

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for an unknown kind, a number out of range, shapes, types or devices that do not go together, or a
            backend that is not there.

    References:
        Hsu et al. 2024, Liger Kernel: Efficient Triton Kernels for LLM Training, section 3.2 (a linear layer and its
        loss in chunks of rows). https://arxiv.org/abs/2410.10989

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.linear_divergence import linear_divergence
        >>> head, teacher_head = torch.nn.Linear(16, 1000), torch.nn.Linear(32, 1000)
        >>> student, teacher = torch.randn(4, 16, requires_grad=True), torch.randn(4, 32)
        >>> sides = (student, head.weight, teacher, teacher_head.weight)
        >>> linear_divergence(*sides, bias=head.bias, teacher_bias=teacher_head.bias, temperature=2.0).backward()
    """
    kind, mixture = checked("linear_divergence", kind, mixture, temperature)
    mask = _check(student, weight, bias, teacher, teacher_weight, teacher_bias, places, mask)
    enabled = torch.is_grad_enabled()
    return _operator(
        student,
        weight,
        bias,
        teacher.detach(),
        None if teacher_weight is None else teacher_weight.detach(),
        None if teacher_bias is None else teacher_bias.detach(),
        places,
        mask,
        divisor(student, mask, count),
        enabled and student.requires_grad,
        enabled and weight.requires_grad,
        enabled and bias is not None and bias.requires_grad,
        backend,
        kind,
        mixture,
        float(temperature),
    )


def spread_rest(kept: Tensor, places: Tensor, classes: int) -> Tensor:
    """Log-probabilities of all classes, out of those of some and of all others together, who share alike.

    Args:
        kept: (..., K + 1), the last of which is the others'.
        places: (..., K), the classes that the first K are of.
        classes: C, over K.

    Returns:
        (..., C).
    """
    others = kept[..., -1:] - math.log(classes - places.shape[-1])
    return others.expand(*others.shape[:-1], classes).scatter(-1, places.long(), kept[..., :-1])


def decision(student: Tensor, backend: str = "auto") -> Decision:
    """Which backend `linear_divergence` takes for a student, and why."""
    return choose("linear_divergence", student, backend)


def _check(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    places: Tensor | None,
    mask: Tensor | None,
) -> Tensor | None:
    """The mask as booleans, of inputs that go together."""
    own = {"student": student, "weight": weight, "bias": bias, "teacher": teacher}
    given = {**own, "teacher_weight": teacher_weight, "teacher_bias": teacher_bias}
    check_kind("linear_divergence", **given)
    wrong = places is not None and (places.is_floating_point() or places.dtype == torch.bool)
    if places is not None and (wrong or places.device != student.device):
        found = f"{text(places.dtype)} on {places.device}"
        raise KernelError(f"linear_divergence: places are {found}; they are integers on {student.device}")
    if teacher_weight is None and teacher_bias is not None:
        raise KernelError("linear_divergence: teacher_bias belongs to a teacher_weight; logits have neither")
    if teacher_weight is not None and places is not None:
        raise KernelError("linear_divergence: places belong to a teacher of log-probabilities, without teacher_weight")
    if not _fitting(student, weight, bias, teacher, teacher_weight, teacher_bias, places):
        told = {**given, "places": places}
        shapes = ", ".join(f"{name} {tuple(one.shape)}" for name, one in told.items() if one is not None)
        raise KernelError(
            f"linear_divergence: {shapes} do not fit; they are (B, D), (B, S, D) or (B, M, S, D) with weight (C, D), "
            "bias (C,), and teacher (..., E) with teacher_weight (C, E) and teacher_bias (C,), or logits (..., C), or "
            "(..., K + 1) with places (..., K), K below C"
        )
    # Elsewhere a look at the values would stop the host.
    if places is not None and places.device.type == "cpu" and not torch.compiler.is_compiling():
        ordered = places.sort(-1).values
        if (ordered[..., 1:] == ordered[..., :-1]).any():
            raise KernelError("linear_divergence: a row's places name a class twice; each is of a class of its own")
    return check_mask("linear_divergence", mask, student)


def _fitting(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    places: Tensor | None,
) -> bool:
    if student.dim() not in (2, 3, 4) or weight.dim() != 2 or teacher.shape[:-1] != student.shape[:-1]:
        return False
    classes, width = weight.shape
    if width != student.shape[-1] or any(one is not None and one.shape != (classes,) for one in (bias, teacher_bias)):
        return False
    if places is not None:
        kept = places.shape[-1] if places.dim() else classes
        return places.shape[:-1] == student.shape[:-1] and kept < classes and teacher.shape[-1] == kept + 1
    across = teacher.shape[-1]
    return across == classes if teacher_weight is None else teacher_weight.shape == (classes, across)


# The operator


def run(
    student: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: Tensor,
    teacher_weight: Tensor | None,
    teacher_bias: Tensor | None,
    places: Tensor | None,
    mask: Tensor | None,
    count: Tensor,
    with_student: bool,
    with_weight: bool,
    with_bias: bool,
    backend: str,
    kind: str,
    mixture: float,
    temperature: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """What the operator does: the value, and its gradients at student, weight and bias where they are wanted."""
    backend, dtype = decision(student, backend).backend, accumulator(student.dtype)
    narrow = _multiplied_in(student)
    gradient = with_student or with_weight or with_bias
    to_student = gradient_room(student, with_student, dtype)
    to_weight = gradient_room(weight, with_weight, dtype).zero_()
    to_bias = gradient_room(student if bias is None else bias, with_bias, dtype).zero_()
    head, teacher_head = weight.to(narrow), None if teacher_weight is None else teacher_weight.to(narrow)
    biases = [None if one is None else one.to(dtype) for one in (bias, teacher_bias)]
    own, other = student.flatten(0, -2), teacher.flatten(0, -2)
    classes = None if places is None else places.flatten(0, -2)
    real = None if mask is None else counted(mask, student)
    real, written = None if real is None else real.flatten(), to_student.flatten(0, -2)
    # Rows that do not count are left out on a CPU; elsewhere they are zeros, as asking how many count takes time.
    index = real.nonzero().squeeze(1) if real is not None and on_host(student.device) else None
    if index is not None:
        written.zero_()
    total, value = len(own) if index is None else len(index), torch.zeros_like(count)
    size = max(LEAST, block_elements(student.device, BLOCK) // max(len(weight), 1))
    for start in range(0, total, size):
        part = slice(start, start + size) if index is None else index[start : start + size]
        here = None if real is None or index is not None else real[part]
        x, y = own[part], other[part]
        if here is not None:
            x, y = (side.masked_fill(~here.unsqueeze(-1), 0.0) for side in (x, y))
        ours = _logits(x, head, biases[0], narrow)
        if classes is not None:
            theirs = spread_rest(y.to(dtype), classes[part], len(weight))
        else:
            theirs = y.to(dtype) if teacher_head is None else _logits(y, teacher_head, biases[1], narrow)
        chosen = None if here is None else here.unsqueeze(0)
        if chosen is not None:  # a mask is of (B, S, C)
            ours, theirs = ours.unsqueeze(0), theirs.unsqueeze(0)
        options = (count, gradient, backend, kind, mixture, temperature)
        added, slope = rows_operator.run(ours, theirs, chosen, *options)
        value += added
        slope = slope.view(-1, len(weight)) if gradient else slope
        if with_student:
            written[part] = _product(slope, head, narrow)
        if with_weight:
            _add_product(to_weight, slope.mT, x, narrow)
        if with_bias:
            to_bias += slope.sum(0)
    return value, to_student, to_weight, to_bias


def _multiplied_in(student: Tensor) -> torch.dtype:
    """The type of what is multiplied. What is summed up is float32 or float64, which torch gives of bfloat16 on CUDA.

    The gradient at the logits has no room in float16.
    """
    if student.dtype == torch.bfloat16 and student.is_cuda and not torch.version.hip:
        return student.dtype
    return accumulator(student.dtype)


def _product(left: Tensor, right: Tensor, narrow: torch.dtype) -> Tensor:
    """``left @ right`` of what is multiplied in a type and summed up in a wide one."""
    if narrow == torch.bfloat16:
        return torch.mm(left.to(narrow), right.to(narrow), out_dtype=torch.float32)
    return left.to(narrow) @ right.to(narrow)


def _add_product(to: Tensor, left: Tensor, right: Tensor, narrow: torch.dtype) -> None:
    if narrow == torch.bfloat16:
        to += _product(left, right, narrow)
    else:
        to.addmm_(left, right.to(narrow))


def _logits(hidden: Tensor, weight: Tensor, bias: Tensor | None, narrow: torch.dtype) -> Tensor:
    logits = _product(hidden, weight.mT, narrow)
    return logits if bias is None else logits.add_(bias)


_operator = Operator(
    "linear_divergence",
    run,
    "Tensor student, Tensor weight, Tensor? bias, Tensor teacher, Tensor? teacher_weight, Tensor? teacher_bias, "
    "Tensor? places, Tensor? mask, Tensor count, bool with_student, bool with_weight, bool with_bias, str backend, "
    "str kind, float mixture, float temperature",
    wanted=(9, 10, 11),
    sources=3,
    kept=accumulator,
)
