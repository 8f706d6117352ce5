"""What the attention losses share: scores and relations, which pairs count, softmax and divergence over valid keys."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes, processes
from kdzoo.errors import KdzooError
from kdzoo.kernels.backend import accumulator
from kdzoo.kernels.relation import Factors, relation_count
from kdzoo.kernels.relation import relation as fused_relation
from kdzoo.losses.reduction import masked_mean
from kdzoo.models.activations import QKV
from kdzoo.models.masks import check_pairs
from kdzoo.models.masks import valid_pairs as valid_pairs
from kdzoo.models.shape import ModelShape

PIECE = 2**19  # scores that a CPU works on at a time


def attention_difference(
    label: str,
    student: Any,
    teacher: Any,
    mask: Tensor | None,
    kind: str,
    *,
    padded_queries: bool = False,
    floor: float | None = None,
    every: bool = False,
    cross: bool = False,
    backend: str = "auto",
    advice: str = "",
) -> Tensor:
    """How the attention of both sides differs, QKᵀ/√d with each side's own d; a kernel computes it of two `QKV`.

    Args:
        label: the loss's name, for messages.
        student: `QKV` of (B, A, S, d) tensors, or scores (B, A, S, S).
        teacher: likewise; the two may differ in d and in kind.
        mask: as `valid_pairs` takes it.
        kind: ``"mse"`` of the scores, or ``"kl"`` or ``"ce"`` of their softmax over valid keys.
        padded_queries: let a query count that is not real itself.
        floor: scores of ``floor`` or less become 0 on either side; for ``"mse"``.
        every: take the mean over all pairs, with zeros for those that do not count; for ``"mse"``.
        cross: the keys may be of another text than the queries, so that scores are (B, A, T, S) and a mask is of pairs
            (B, T, S). No kernel computes it of such.
        backend: what the kernel runs on.
        advice: what to do about unequal head counts, for the message.

    Raises:
        KdzooError: for other shapes, unequal head counts, or a mask that does not fit.
    """
    ours, theirs = check_attention(label, student, teacher, mask, cross=cross)
    if ours[1] != theirs[1]:
        raise KdzooError(
            f"{label}: the student has {ours[1]} attention heads and the teacher {theirs[1]} (scores {ours} "
            f"and {theirs}); head counts must be equal{advice}"
        )
    square = ours[2] == ours[3]
    if not square and backend == "triton":
        raise KdzooError(f"{label}: no Triton kernel takes {ours[2]} queries and {ours[3]} keys; leave out backend")
    if square and isinstance(student, QKV) and isinstance(teacher, QKV):
        options: dict[str, Any] = {"padded_queries": padded_queries, "floor": floor, "every": every}
        # Not by a slice, which torch 2.8 does not compile.
        factors = (student.query, student.key), (teacher.query, teacher.key)
        return relation_difference(*factors, mask, kind, backend=backend, **options)
    pairs = valid_pairs(mask, padded_queries=padded_queries)
    scores = [_scores(side, pairs) for side in (student, teacher)]
    if kind != "mse":
        return attention_divergence(scores[0], scores[1], pairs, entropy=kind == "kl")
    if pairs is not None:
        scores = [side.masked_fill(~pairs, 0.0) for side in scores]
    if floor is not None:
        scores = [side.masked_fill(side <= floor, 0.0) for side in scores]
    return masked_mean((scores[0] - scores[1]) ** 2, None if every else pairs)


def relation_difference(
    student: Factors, teacher: Factors, mask: Tensor | None, kind: str = "kl", *, every: bool = False, **options: Any
) -> Tensor:
    """`kdzoo.kernels.relation.relation`, with the mean over the batch of all processes.

    Args:
        student: the factors (X, Y) of the relation X Yᵀ/√d, (B, A, S, d), or X alone for X Xᵀ/√d.
        teacher: likewise.
        mask: as `valid_pairs` takes it.
        kind: as `attention_difference` takes it.
        every: likewise.
        options: the kernel's.
    """
    left = student if isinstance(student, Tensor) else student[0]
    count = None
    if every:
        count = torch.full((), float(math.prod(left.shape[:-1]) * left.shape[-2]), device=left.device)
    elif processes() > 1:
        count = relation_count(student, mask=mask, kind=kind, padded_queries=options.get("padded_queries", False))
    count = None if count is None else mean_over_processes(count)
    return fused_relation(student, teacher, mask=mask, kind=kind, count=count, **options)


def check_attention(
    label: str, student: Any, teacher: Any, mask: Tensor | None, *, cross: bool = False
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The shapes (B, A, S, S) of both sides' scores, which may differ in heads alone; (B, A, T, S) where ``cross``.

    Raises:
        KdzooError: for other shapes, or a mask that does not fit.
    """
    ours, theirs = _shape(label, "student", student, cross), _shape(label, "teacher", teacher, cross)
    if (ours[0], *ours[2:]) != (theirs[0], *theirs[2:]):
        raise KdzooError(f"{label}: student scores {ours} and teacher scores {theirs} must agree in shape")
    check_pairs(label, ours, mask)
    return ours, theirs


def check_qkv(label: str, student: Any, teacher: Any) -> None:
    """Refuse attention scores where queries, keys and values themselves are needed."""
    for name, side in (("student", student), ("teacher", teacher)):
        if not isinstance(side, QKV):
            raise KdzooError(f"{label} needs a QKV of (B, A, S, d) tensors; the {name}'s is {tuple(side.shape)}")


def check_shows_qkv(label: str, student: ModelShape, teacher: ModelShape, *, instead: str = "use attention_kl") -> None:
    """Refuse models that hide their queries, keys and values, or attend by more than these.

    Args:
        label: the loss.
        student, teacher: their shapes.
        instead: what to do in place of it.
    """
    for name, shape in (("student", student), ("teacher", teacher)):
        if shape.position_bias:
            why = "adds a bias to the scores that they give"
        elif not shape.shows_qkv:
            why = "shows its attention scores only"
        else:
            continue
        raise KdzooError(f"{label} compares queries, keys and values, and the {name} {why}; {instead}")


def relation(left: Tensor, right: Tensor, pairs: Tensor | None) -> Tensor:
    """Scaled dot products of vectors (B, A, S, d), (B, A, S, S): QKᵀ/√d, QQᵀ/√d, VVᵀ/√d; of T and S ones (B, A, T, S).

    A vector in no pair that counts is set to zero first.
    """
    if pairs is not None:
        left = left.masked_fill(~pairs.any(-1).unsqueeze(-1), 0.0)
        right = right.masked_fill(~pairs.any(-2).unsqueeze(-1), 0.0)
    # Scaled before the product, which is the larger tensor.
    return (left / math.sqrt(left.shape[-1])) @ right.mT


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


def check_heads(label: str, student: int | None, teacher: int | None, *, advice: str = "") -> None:
    """Refuse models whose attention heads cannot be compared one by one."""
    if student != teacher:
        raise KdzooError(
            f"{label} compares heads one by one; the student has {student} and the teacher {teacher}, so "
            f"give the student {teacher} heads{advice}"
        )


def _shape(label: str, name: str, side: Any, cross: bool) -> tuple[int, ...]:
    if isinstance(side, QKV):
        query, key, value = (tuple(tensor.shape) for tensor in side)
        asked = (*query[:2], *key[2:3], *query[3:]) if cross else query
        if len(query) != 4 or asked != key or key[:3] != value[:3]:
            raise KdzooError(f"{label}: the {name}'s query {query}, key {key} and value {value} must be (B, A, S, d)")
        return (*query[:3], key[2])
    shape = tuple(side.shape)
    if len(shape) != 4 or (shape[2] != shape[3] and not cross):
        raise KdzooError(f"{label}: the {name}'s {shape} must be a QKV, or attention scores (B, A, S, S)")
    return shape


def _scores(side: Any, pairs: Tensor | None) -> Tensor:
    """Scores in the type that sums are taken in; of a `QKV`, those of a query or key in no pair that counts are 0."""
    if isinstance(side, QKV):
        dtype = accumulator(side.query.dtype)
        return relation(side.query.to(dtype), side.key.to(dtype), pairs)
    wide: Tensor = side.to(accumulator(side.dtype))
    return wide
