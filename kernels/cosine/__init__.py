"""Mean of 1 - cosine between vectors: norms, value and gradient in one pass, padding passed over."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels import rows
from kdzoo.kernels.backend import EPSILON, safe_norms, unit_gradient, unit_vectors
from kdzoo.kernels.operators import without_autocast
from kdzoo.kernels.rows import MAX_WIDTH


@without_autocast
def cosine_reference(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, count: Tensor | None = None
) -> Tensor:
    """The formula on all vectors at once; see `cosine`."""
    teacher, mask, number = rows.check("cosine", student, teacher, mask, count)
    student, teacher, real = rows.prepared(student, teacher, mask)
    return rows.total(1 - (unit_vectors(student) * unit_vectors(teacher)).sum(-1), real) / number


@without_autocast
def cosine(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The mean of 1 - cosine between two sets of vectors, with its gradient at the student.

        1/N · Σ_i [ 1 - cos(s_i, t_i) ]

    over the N vectors that the mask counts. A vector whose length is zero or infinite has cosine 0 with everything and
    no gradient. What lies where the mask is False is never looked at.

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
        >>> from kdzoo.kernels.cosine import cosine
        >>> vectors = torch.randn(4, 7, 37)
        >>> round(cosine(-vectors, vectors, mask=torch.ones(4, 7)).item(), 4)
        2.0
    """
    if operator.plain(student, backend):
        return cosine_reference(student, teacher, mask=mask, count=count)
    return operator(student, teacher, mask, count, backend)


def _block(
    student: Tensor, teacher: Tensor, buffers: rows.Buffers, gradient: Tensor | None, scale: Tensor | float
) -> Tensor:
    student, norm, one = rows.unit_block(student)
    teacher, _, other = rows.unit_block(teacher)
    both = one * other
    product = torch.mul(student, teacher, out=buffers[2] if gradient is None else gradient)
    cosines = product.sum(-1, keepdim=True).mul_(both)
    if gradient is not None:
        bend = cosines * one
        if norm is not None:  # below the clamp it is a constant, and bends nothing
            bend = torch.where(norm > EPSILON, bend, 0.0)
        torch.mul(teacher, both.mul_(-scale), out=gradient).addcmul_(student, bend.mul_(one).mul_(scale))
    return cosines.squeeze(-1).neg_().add_(1)


def _whole(student: Tensor, teacher: Tensor, scale: float) -> tuple[Tensor, Tensor] | None:
    norm, other = safe_norms(student), safe_norms(teacher)
    if norm is None or other is None:
        return None
    inverse = other.reciprocal_()
    gradient, along = unit_gradient(teacher, student, norm, inverse * -scale)
    return torch.rsub(along.mul_(inverse), 1).sum(), gradient


def _triton(student: Tensor, teacher: Tensor, mask: Tensor | None, inverse: Tensor, gradient: Tensor | None) -> Tensor:
    from kdzoo.kernels.cosine import triton_kernels

    program, tile = triton_kernels.rows_kernel, rows.unit_tiling(student)
    return rows.launch(program, student, teacher, mask, inverse, gradient, tile=tile, EPSILON=EPSILON)


operator = rows.Operator("cosine", "", _block, _triton, widest=MAX_WIDTH, whole=_whole)
