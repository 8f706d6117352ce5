"""Mean squared difference of vectors: value and gradient in one pass, padding passed over."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels import rows
from kdzoo.kernels.operators import without_autocast

MOST = 2097152  # elements whose gradient is still in a cache when it has been written


@without_autocast
def hidden_mse_reference(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """The formula on all vectors at once; see `hidden_mse`."""
    teacher, mask, number = rows.check("hidden_mse", student, teacher, mask, count)
    student, teacher, _ = rows.prepared(student, teacher, mask)
    if isinstance(number, int) and student.numel():
        return F.mse_loss(student, teacher)
    return F.mse_loss(student, teacher, reduction="sum") / (number * max(student.shape[-1], 1))


@without_autocast
def hidden_mse(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mean squared difference of two sets of vectors, with its gradient at the student.

        1/(N·D) · Σ_i ‖s_i - t_i‖²

    over the N vectors that the mask counts. What lies where the mask is False is never looked at.

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

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.hidden_mse import hidden_mse
        >>> hidden_mse(torch.zeros(4, 7, 37), torch.ones(4, 7, 37), mask=torch.ones(4, 7)).item()
        1.0
    """
    if operator.plain(student, backend):
        return hidden_mse_reference(student, teacher, mask=mask, count=count)
    return operator(student, teacher, mask, count, backend)


def _block(
    student: Tensor, teacher: Tensor, buffers: rows.Buffers, gradient: Tensor | None, scale: Tensor | float
) -> Tensor:
    if gradient is None:
        return torch.linalg.vector_norm(torch.sub(student, teacher, out=buffers[2]), dim=-1).square_()
    if isinstance(scale, Tensor):
        values = torch.linalg.vector_norm(torch.sub(student, teacher, out=gradient), dim=-1).square_()
        gradient.mul_(2 * scale)
        return values
    _slope(student, teacher, gradient, scale)
    return torch.linalg.vector_norm(gradient, dim=-1).div_(2 * scale).square_()


def _slope(student: Tensor, teacher: Tensor, gradient: Tensor, scale: float) -> None:
    """Difference and scale in one step; the value then comes from the gradient, which is as long."""
    factor = torch.full((), scale, dtype=gradient.dtype, device=gradient.device)
    torch.ops.aten.mse_loss_backward.grad_input(factor, student, teacher, 2, grad_input=gradient)


def _whole(student: Tensor, teacher: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
    if student.numel() > MOST:
        return None
    gradient = torch.empty_like(student, memory_format=torch.contiguous_format)
    _slope(student, teacher, gradient, scale)
    # By rows: over all at once the sum would lose digits.
    return torch.linalg.vector_norm(gradient, dim=-1).div_(2 * scale).square_().sum(), gradient


def _triton(student: Tensor, teacher: Tensor, mask: Tensor | None, inverse: Tensor, gradient: Tensor | None) -> Tensor:
    from kdzoo.kernels.hidden_mse import triton_kernels

    program, tile = triton_kernels.rows_kernel, rows.tiling(student, most=4096, per_warp=512)
    return rows.launch(program, student, teacher, mask, inverse, gradient, tile=tile)


def _simple(student: Tensor, teacher: Tensor) -> Tensor | None:
    if student.dtype not in (torch.float32, torch.float64):
        return None
    return F.mse_loss(student, teacher)


operator = rows.Operator("hidden_mse", "", _block, _triton, of_entries=True, whole=_whole, simple=_simple, few=262144)
