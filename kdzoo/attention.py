"""What the attention losses share: scores and relations, which pairs count, softmax and divergence over valid keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.activations import QKV
from kdzoo.errors import KdzooError
from kdzoo.loss import ModelShape, masked_mean

PIECE = 2**19  # scores that a CPU works on at a time


def attention_scores(
    label: str, student: Any, teacher: Any, pairs: Tensor | None, *, advice: str = ""
) -> tuple[Tensor, Tensor]:
    """Scores before the softmax of both sides, QKᵀ/√d with each side's own d, checked against each other.

    Args:
        label: the loss's name, for messages.
        student: `QKV` of (B, A, S, d) tensors, or scores (B, A, S, S).
        teacher: likewise; the two may differ in d and in kind.
        pairs: the pairs that count, from `valid_pairs`, or None. A query or key in no pair is set to
            zero, so that what lies in padding cannot reach a gradient; the scores are left for the caller to
            fill.
        advice: what to do about unequal head counts, for the message.

    Raises:
        KdzooError: for other shapes, unequal head counts, or a mask that does not fit.
    """
    ours, theirs = check_attention(label, student, teacher, pairs)
    if ours[1] != theirs[1]:
        raise KdzooError(
            f"{label}: the student has {ours[1]} attention heads and the teacher {theirs[1]} (scores {ours} "
            f"and {theirs}); head counts must be equal{advice}"
        )
    return _scores(student, pairs), _scores(teacher, pairs)


def check_attention(
    label: str, student: Any, teacher: Any, pairs: Tensor | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes (B, A, S, S) of both sides' scores, which may differ in heads alone.

    Raises:
        KdzooError: for other shapes, or a mask that does not fit.
    """
    ours, theirs = _shape(label, "student", student), _shape(label, "teacher", teacher)
    if (ours[0], *ours[2:]) != (theirs[0], *theirs[2:]):
        raise KdzooError(f"{label}: student scores {ours} and teacher scores {theirs} must agree in shape")
    if pairs is not None and tuple(pairs.shape) != (ours[0], 1, *ours[2:]):
        raise KdzooError(f"{label}: the mask does not fit scores {ours}; it is (B, S) or (B, S, S)")
    return ours, theirs


def check_qkv(label: str, student: Any, teacher: Any) -> None:
    """Refuse attention scores where queries, keys and values themselves are needed."""
    for name, side in (("student", student), ("teacher", teacher)):
        if not isinstance(side, QKV):
            raise KdzooError(f"{label} needs a QKV of (B, A, S, d) tensors; the {name}'s is {tuple(side.shape)}")


def check_shows_qkv(label: str, student: ModelShape, teacher: ModelShape) -> None:
    """Refuse models that hide their queries, keys and values."""
    for name, shape in (("student", student), ("teacher", teacher)):
        if not shape.exact_scores:
            raise KdzooError(
                f"{label} needs queries, keys and values, and the {name} shows its attention probabilities only; "
                "use attention_kl"
            )


def relation(left: Tensor, right: Tensor, pairs: Tensor | None) -> Tensor:
    """Scaled dot products of vectors (B, A, S, d), (B, A, S, S): QKᵀ/√d, QQᵀ/√d, VVᵀ/√d.

    A vector in no pair that counts is set to zero first.
    """
    if pairs is not None:
        left = left.masked_fill(~pairs.any(-1).unsqueeze(-1), 0.0)
        right = right.masked_fill(~pairs.any(-2).unsqueeze(-1), 0.0)
    # Scaled before the product, which is the larger tensor.
    return (left / math.sqrt(left.shape[-1])) @ right.mT


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


def attention_divergence(student: Tensor, teacher: Tensor, pairs: Tensor | None, *, entropy: bool = True) -> Tensor:
    """Mean over valid queries and heads of KL(softmax(teacher) ‖ softmax(student)) over valid keys.

    Args:
        student: scores (B, A, S, S).
        teacher: likewise.
        pairs: the pairs that count, from `valid_pairs`, or None.
        entropy: False leaves out the teacher's entropy: the cross-entropy, with the same gradient.
    """

    def divergences(student: Tensor, teacher: Tensor, pairs: Tensor | None) -> Tensor:
        ours, theirs = log_attention(student, pairs), log_attention(teacher, pairs)
        # The logarithms are finite at keys that do not count, where the probability is exactly zero.
        return (theirs.exp() * (theirs - ours if entropy else -ours)).sum(-1)

    if student.device.type == "cpu" and not torch.compiler.is_compiling() and student.numel() > PIECE:
        # A few rows at a time stay in the processor's cache from one step to the next.
        rows = max(1, PIECE // student[0].numel())
        masks = [None] * len(student) if pairs is None else pairs.split(rows)
        pieces = zip(student.split(rows), teacher.split(rows), masks, strict=False)
        values = torch.cat([divergences(*piece) for piece in pieces])
    else:
        values = divergences(student, teacher, pairs)
    return masked_mean(values, None if pairs is None else pairs.any(-1))


def check_heads(label: str, student: int, teacher: int, *, advice: str = "") -> None:
    """Refuse models whose attention heads cannot be compared one by one."""
    if student != teacher:
        raise KdzooError(
            f"{label} compares heads one by one; the student has {student} and the teacher {teacher}, so "
            f"give the student {teacher} heads{advice}"
        )


def _shape(label: str, name: str, side: Any) -> tuple[int, ...]:
    if isinstance(side, QKV):
        query, key, value = (tuple(tensor.shape) for tensor in side)
        if len(query) != 4 or query != key or query[:3] != value[:3]:
            raise KdzooError(f"{label}: the {name}'s query {query}, key {key} and value {value} must be (B, A, S, d)")
        return (*query[:3], query[2])
    shape = tuple(side.shape)
    if len(shape) != 4 or shape[2] != shape[3]:
        raise KdzooError(f"{label}: the {name}'s {shape} must be a QKV, or attention scores (B, A, S, S)")
    return shape


def _scores(side: Any, pairs: Tensor | None) -> Tensor:
    return relation(side.query, side.key, pairs) if isinstance(side, QKV) else side
