"""The sides of a relation, the checks of their inputs, and what of their pairs counts."""

from __future__ import annotations

import math
from typing import TypeAlias

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import KernelError, check_kind

Pair: TypeAlias = tuple[Tensor, Tensor]
Factors: TypeAlias = Tensor | Pair
Masks: TypeAlias = tuple[Tensor | None, Tensor | None, Tensor | None]

KINDS = ("mse", "kl", "ce")


def pair(side: Factors) -> Pair:
    return (side, side) if isinstance(side, Tensor) else side


def heads(vectors: Tensor) -> Tensor:
    """(B, A, S, d), with all axes between B and S as one."""
    rows, *between, length, width = vectors.shape
    return vectors if len(between) == 1 else vectors.reshape(rows, math.prod(between), length, width)


def finite(vectors: Tensor) -> Tensor:
    """A teacher's vectors, 0 where they are infinite."""
    return vectors if seen_finite(vectors) else vectors.nan_to_num(torch.nan, 0.0, 0.0)


def seen_finite(values: Tensor) -> bool:
    """Whether a look tells that all is finite: on a CPU a sum does, in a fraction of the time that filling takes."""
    return backend.values_at_hand(values) and math.isfinite(values.sum().item())


def check(student: Factors, teacher: Factors, mask: Tensor | None, kind: str, floor: float | None) -> None:
    """Refuse factors that do not go together, a mask that does not fit, and an unknown kind.

    Raises:
        KernelError: naming what was wrong.
    """
    (x_s, y_s), (x_t, y_t) = pair(student), pair(teacher)
    check_kind("relation", student=x_s, student_right=y_s, teacher=x_t, teacher_right=y_t)
    if kind not in KINDS:
        raise KernelError(f"relation: kind={kind!r} is not known; it is one of {', '.join(KINDS)}")
    if floor is not None and kind != "mse":
        raise KernelError(f"relation: floor={floor} is for kind='mse', not {kind!r}")
    for name, (x, y) in {"student": (x_s, y_s), "teacher": (x_t, y_t)}.items():
        if x.dim() < 3 or x.shape != y.shape:
            raise KernelError(
                f"relation: the {name}'s factors {tuple(x.shape)} and {tuple(y.shape)} must have one shape (B, A, S, d)"
            )
    if x_s.shape[:-1] != x_t.shape[:-1]:
        raise KernelError(
            f"relation: student {tuple(x_s.shape)} and teacher {tuple(x_t.shape)} must agree in all but the last axis, "
            "as (B, A, S, d)"
        )
    check_mask(mask, x_s)


def check_mask(mask: Tensor | None, left: Tensor) -> None:
    if mask is None:
        return
    rows, length = left.shape[0], left.shape[-2]
    if mask.shape not in ((rows, length), (rows, length, length)):
        raise KernelError(
            f"relation: a mask {tuple(mask.shape)} does not fit {tuple(left.shape)}; it is (B, S) or (B, S, S) for "
            "(B, A, S, d)"
        )
    if mask.device != left.device:
        raise KernelError(f"relation: the mask is on {mask.device} and the vectors are on {left.device}")


def counted(mask: Tensor | None, padded_queries: bool) -> Masks:
    """The queries (B, S) and the keys (B, S) that are in a pair that counts, and the pairs where these do not say."""
    if mask is None:
        return None, None, None
    mask = mask != 0
    if mask.dim() == 3:
        return mask.any(2), mask.any(1), mask
    # An operator's inputs must not share memory.
    return mask.any(1, keepdim=True).repeat(1, mask.shape[1]) if padded_queries else mask.clone(), mask, None


def count_pairs(queries: Tensor | None, keys: Tensor | None, pairs: Tensor | None, left: Tensor, kind: str) -> Tensor:
    rows, *between, length, _ = left.shape
    heads = math.prod(between)
    if queries is None or keys is None:
        number = rows * heads * length * (length if kind == "mse" else 1)
        # A tensor in each case, so that the number of rows is no constant of a compiled graph.
        return torch.full((), number, dtype=torch.float64, device=left.device)
    if kind != "mse":
        return queries.sum() * heads
    return ((queries.sum(1) * keys.sum(1)).sum() if pairs is None else pairs.sum()) * heads
