"""What the attention losses share: scores of queries and keys, which pairs count, softmax over valid keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.activations import QKV
from kdzoo.errors import KdzooError


def attention_scores(label: str, student: Any, teacher: Any, pairs: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scores before the softmax of both sides, QKᵀ/√d with each side's own d, checked against each other.

    Args:
        label: the loss's name, for messages.
        student: `QKV` of (B, A, S, d) tensors, or scores (B, A, S, S).
        teacher: likewise; the two may differ in d and in kind.
        pairs: the pairs that count, from `valid_pairs`, or None. A query or key in no pair is set to
            zero, so that what lies in padding cannot reach a gradient; the scores are left for the caller to
            fill.

    Raises:
        KdzooError: for other shapes, unequal head counts, or a mask that does not fit.
    """
    ours, theirs = _shape(label, "student", student), _shape(label, "teacher", teacher)
    if ours[1] != theirs[1]:
        raise KdzooError(
            f"{label}: the student has {ours[1]} attention heads and the teacher {theirs[1]} (scores {ours} "
            f"and {theirs}); head counts must be equal"
        )
    if ours != theirs:
        raise KdzooError(f"{label}: student scores {ours} and teacher scores {theirs} must agree in shape")
    if pairs is not None and tuple(pairs.shape) != (ours[0], 1, *ours[2:]):
        raise KdzooError(f"{label}: the mask does not fit scores {ours}; it is (B, S) or (B, S, S)")
    return _scores(student, pairs), _scores(teacher, pairs)


def valid_pairs(mask: Tensor | None, *, padded_queries: bool = False) -> Tensor | None:
    """Which (query, key) pairs count, (B, 1, S, S).

    Args:
        mask: (B, S), True where a token is real, so that a pair counts when both are; or (B, S, S), True
            where the query may see the key; or None for all.
        padded_queries: let a query count that is not real itself.
    """
    if mask is None:
        return None
    if mask.dim() != 3:
        mask = mask.unsqueeze(1) & (mask.unsqueeze(2) | padded_queries)
    return mask.unsqueeze(1)


def log_attention(scores: Tensor, pairs: Tensor | None) -> Tensor:
    """Logarithms of the softmax over valid keys, (B, A, S, S); very negative, yet finite, at the others."""
    if pairs is not None:
        scores = scores.masked_fill(~pairs, torch.finfo(scores.dtype).min / 2)
    return scores.log_softmax(-1)


def check_heads(label: str, student: int, teacher: int) -> None:
    """Refuse models whose attention heads cannot be compared one by one."""
    if student != teacher:
        raise KdzooError(
            f"{label} compares heads one by one; the student has {student} and the teacher {teacher}, so "
            f"give the student {teacher} heads"
        )


def _shape(label: str, name: str, side: Any) -> tuple[int, ...]:
    if isinstance(side, QKV):
        query, key = tuple(side.query.shape), tuple(side.key.shape)
        if len(query) != 4 or query != key:
            raise KdzooError(f"{label}: the {name}'s query {query} and key {key} must both be (B, A, S, d)")
        return (*query[:3], query[2])
    shape = tuple(side.shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise KdzooError(f"{label}: the {name}'s {shape} must be a QKV, or attention scores (B, A, S, S)")
    return shape


def _scores(side: Any, pairs: Tensor | None) -> Tensor:
    if not isinstance(side, QKV):
        return side
    query, key = side.query, side.key
    if pairs is not None:
        query = query.masked_fill(~pairs.any(-1).unsqueeze(-1), 0.0)
        key = key.masked_fill(~pairs.any(-2).unsqueeze(-1), 0.0)
    return query @ key.mT / math.sqrt(query.shape[-1])
