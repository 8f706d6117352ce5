"""How the kernels see a batch: (B, D), (B, S, D), (B, M, D) or (B, M, S, D) as rows and slots, or as four axes.

A slot is a layer and a position; a mask (B, S) says which positions of each row count.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, KernelError, accumulator

SHAPES = "(B, D), (B, S, D), (B, M, D) or (B, M, S, D)"


def by_row(vectors: Tensor) -> Tensor:
    """(B, D) or (B, ..., D) as (B, slots, D)."""
    return vectors.unsqueeze(1) if vectors.dim() == 2 else vectors.flatten(1, -2)


def by_slot(vectors: Tensor) -> Tensor:
    """(B, D) or (B, ..., D) as (slots, B, D)."""
    return by_row(vectors).transpose(0, 1)


def four_axes(vectors: Tensor, axes: int = 4) -> Tensor:
    """(B, D), (B, S, D) or (B, M, S, D) as (B, M, S, D); with 5 axes, (B, K, ..., D) as (B, K, M, S, D)."""
    while vectors.dim() < axes:
        vectors = vectors.unsqueeze(axes - 3)
    return vectors


def spread(mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """The mask (B, S) over the rows of (B, S, D) or (B, M, S, D)."""
    return mask if mask is None or vectors.dim() == 3 else mask.unsqueeze(1).expand(vectors.shape[:-1])


def counted(mask: Tensor | None, vectors: Tensor) -> Tensor | None:
    """The mask (B, S) over the slots of `by_row`."""
    mask = spread(mask, vectors)
    return None if mask is None else mask.flatten(1)


def as_bytes(mask: Tensor | None) -> Tensor | None:
    """Booleans as the bytes that Triton reads."""
    return None if mask is None else mask.view(torch.uint8)


def divisor(student: Tensor, mask: Tensor | None, count: Tensor | None) -> Tensor:
    """What a mean over the rows that count divides by, ``count`` where it is given, in the type that sums are taken in.

    Args:
        student: (B, ..., D).
        mask: (B, S) of the student's rows, as booleans.
        count: a tensor of one element.

    Raises:
        KernelError: the count has another number of elements.
    """
    dtype = accumulator(student.dtype)
    if count is not None:
        return given_divisor(count, dtype)
    if mask is not None:
        layers = student.shape[1] if student.dim() == 4 else 1
        return (mask.sum() * layers).to(dtype).clamp_min(EPSILON)
    # A tensor in each case, so that the number of rows is no constant of a compiled graph.
    return torch.full((), math.prod(student.shape[:-1]), dtype=dtype, device=student.device).clamp_min(EPSILON)


def given_divisor(count: Tensor, dtype: torch.dtype) -> Tensor:
    """A caller's number to divide by, as a scalar.

    Raises:
        KernelError: it has another number of elements than one.
    """
    if count.numel() != 1:
        raise KernelError(f"count is what is divided by, a tensor of one element; got {tuple(count.shape)}")
    return count.detach().to(dtype).reshape(()).clamp_min(EPSILON)
