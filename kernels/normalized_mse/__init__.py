"""Squared distance between normalised vectors (PKD): norms, value and gradient in one pass, padding passed over."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels import rows
from kdzoo.kernels.backend import EPSILON, safe_norms, unit_gradient, unit_vectors
from kdzoo.kernels.operators import without_autocast
from kdzoo.kernels.rows import MAX_WIDTH


@without_autocast
def normalized_mse_reference(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """The formula on all vectors at once; see `normalized_mse`."""
    teacher, mask, number = rows.check("normalized_mse", student, teacher, mask, count)
    student, teacher, _ = rows.prepared(student, teacher, mask)
    return (unit_vectors(student) - unit_vectors(teacher)).square().sum() / number


@without_autocast
def normalized_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mean squared distance between two sets of normalised vectors, with its gradient at the student.

        1/N · Σ_i ‖ s_i / ‖s_i‖ - t_i / ‖t_i‖ ‖²

    over the N vectors that the mask counts; a sum over the width, so that it is 2 - 2 cos, without that difference's
    loss of digits where the two agree. A vector whose length is zero or infinite is taken for zero, and has no
    gradient. What lies where the mask is False is never looked at.

    Args:
        student: (B, ..., D), float32, bfloat16, float16 or float64, of any strides.
        teacher: of the same shape and type; without gradient.
        mask: (B, S), 1 or True where a position is real.
        count: the number to divide by in place of N, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) with S the last slot axis.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, or a backend that is not there.

    References:
        Sun et al. 2019, Patient Knowledge Distillation, equation 7. https://arxiv.org/abs/1908.09355

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.normalized_mse import normalized_mse
        >>> vectors = torch.randn(4, 3, 37)
        >>> round(normalized_mse(-vectors, vectors).item(), 4)
        4.0
    """
    if operator.plain(student, backend):
        return normalized_mse_reference(student, teacher, mask=mask, count=count)
    return operator(student, teacher, mask, count, backend)


def _block(
    student: Tensor, teacher: Tensor, buffers: rows.Buffers, gradient: Tensor | None, scale: Tensor | float
) -> Tensor:
    student, norm, one = rows.unit_block(student)
    teacher, norm_of_teacher, other = rows.unit_block(teacher)
    apart = torch.mul(student, one, out=buffers[2] if gradient is None else gradient)
    apart.addcmul_(teacher, other, value=-1)
    values = torch.linalg.vector_norm(apart, dim=-1).square_()
    if gradient is None:
        return values
    steps = one * (2 * scale)
    if norm is None and norm_of_teacher is None:
        # Of unit vectors, the student's share of the difference is half of its square.
        along = (values.unsqueeze(-1) / 2).mul_(one).mul_(steps)
        apart.mul_(steps).addcmul_(student, along, value=-1)
        return values
    # Exactly 0 beside a teacher's zero. A norm below the clamp is a constant, and bends nothing.
    bend = torch.mul(student, teacher, out=gradient).sum(-1, keepdim=True).mul_(one).mul_(other)
    bend = bend if norm is None else torch.where(norm > EPSILON, bend, 1.0)
    torch.mul(student, bend.mul_(one).mul_(steps), out=gradient).addcmul_(teacher, other.mul_(steps), value=-1)
    return values


def _whole(student: Tensor, teacher: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
    norm, other = safe_norms(student), safe_norms(teacher)
    if norm is None or other is None:
        return None
    inverse = other.reciprocal_()
    gradient, along = unit_gradient(teacher, student, norm, inverse * (-2 * scale))
    # 2 - 2 cos = sin² + (1 - cos)², which keeps its digits where the two agree; the gradient is as long as the sine.
    apart = torch.rsub(along.mul_(inverse), 1)
    sines = torch.linalg.vector_norm(gradient, dim=-1, keepdim=True).mul_(norm).div_(2 * scale)
    return sines.square_().addcmul_(apart, apart).sum(), gradient


def _triton(student: Tensor, teacher: Tensor, mask: Tensor | None, inverse: Tensor, gradient: Tensor | None) -> Tensor:
    from kdzoo.kernels.normalized_mse import triton_kernels

    program, tile = triton_kernels.rows_kernel, rows.unit_tiling(student)
    return rows.launch(program, student, teacher, mask, inverse, gradient, tile=tile, EPSILON=EPSILON)


operator = rows.Operator("normalized_mse", "", _block, _triton, widest=MAX_WIDTH, whole=_whole)
