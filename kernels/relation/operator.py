"""The call and the operator of `relation`."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.backend import PLAIN, Decision, accumulator, choose, plain
from kdzoo.kernels.layout import given_divisor
from kdzoo.kernels.operators import Operator, gradient_room, without_autocast
from kdzoo.kernels.relation import blocks, launch
from kdzoo.kernels.relation.reference import relation_reference
from kdzoo.kernels.relation.sides import Factors, check, check_mask, count_pairs, counted, heads, pair


@without_autocast
def relation(
    student: Factors,
    teacher: Factors,
    *,
    mask: Tensor | None = None,
    kind: str = "kl",
    padded_queries: bool = False,
    floor: float | None = None,
    count: Tensor | None = None,
    backend: str = "auto",
) -> Tensor:
    """The difference of two sides' relations X Yᵀ / √d, with its gradient at the student's X and Y.

        mse:  1/(A·P) · Σ_a Σ_qk (s_aqk - t_aqk)²
        kl:   1/(A·N) · Σ_aq KL(softmax t_aq ‖ softmax s_aq)
        ce:  -1/(A·N) · Σ_aqk softmax(t_aq)_k · log softmax(s_aq)_k

    over the A heads and the P (query, key) pairs that count, or the N queries with such a pair; a softmax is over the
    keys that count. An infinite entry of the teacher's is taken for 0. What lies at a query or key that is in no pair
    that counts is never looked at.

    Args:
        student: the factors (X, Y), such as queries and keys; or X alone for X Xᵀ. Float32, bfloat16, float16 or
            float64, of any strides.
        teacher: likewise, of the same type and of its own width; without gradient.
        mask: (B, S), 1 or True where a position is real, so that a pair counts when both its positions are; or
            (B, S, S), where the query may see the key.
        kind: ``"mse"``, ``"kl"`` or ``"ce"``.
        padded_queries: let a query count that is not real itself; for a mask (B, S).
        floor: scores of ``floor`` or less become 0 on either side; for ``"mse"``.
        count: the number to divide by in place of `relation_count`, a tensor of one element.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``.

    Shapes:
        student, teacher: (B, A, S, d), two of the same shape on a side; d each side's own. There may be more axes
            than A, or none, between B and S.

    Returns:
        A scalar: float64 for float64 input, float32 for the rest.

    Raises:
        KernelError: for shapes, types or devices that do not go together, or a backend that is not there.

    References:
        Jiao et al. 2020, TinyBERT, equation 7. https://arxiv.org/abs/1909.10351
        Wang et al. 2020, MiniLM, sections 3.1 and 3.2. https://arxiv.org/abs/2002.10957
        Dao et al. 2022, FlashAttention, algorithms 1 and 4. https://arxiv.org/abs/2205.14135

    Examples:
        >>> import torch
        >>> from kdzoo.kernels.relation import relation
        >>> query, key = torch.randn(2, 2, 4, 7, 26, requires_grad=True).unbind()
        >>> teacher = torch.randn(2, 4, 7, 32), torch.randn(2, 4, 7, 32)
        >>> relation((query, key), teacher, mask=torch.ones(2, 7), kind="mse").backward()
    """
    (x_s, y_s), (x_t, y_t) = pair(student), pair(teacher)
    check(student, teacher, mask, kind, floor)
    if _small(x_s, mask, backend):
        options: dict[str, Any] = {"kind": kind, "padded_queries": padded_queries, "floor": floor, "count": count}
        return relation_reference(student, teacher, mask=mask, **options)
    queries, keys, pairs = counted(mask, padded_queries)
    if count is None:
        count = count_pairs(queries, keys, pairs, x_s, kind)
    # Scores that are symmetric, and so are the pairs that count.
    alone = x_s is y_s and x_t is y_t and pairs is None and not padded_queries
    return _operator(
        heads(x_s),
        None if alone else heads(y_s),
        heads(x_t).detach(),
        None if alone else heads(y_t).detach(),
        queries,
        keys,
        pairs,
        given_divisor(count, accumulator(x_s.dtype)),
        kind,
        floor,
        (x_s.requires_grad or y_s.requires_grad) and torch.is_grad_enabled(),
        backend,
    )


def relation_count(
    student: Factors, *, mask: Tensor | None = None, kind: str = "kl", padded_queries: bool = False
) -> Tensor:
    """What `relation` divides by: the pairs (of ``"mse"``) or the queries that count, in all heads.

    Raises:
        KernelError: for a mask that does not fit.
    """
    left = pair(student)[0]
    check_mask(mask, left)
    return count_pairs(*counted(mask, padded_queries), left, kind)


def decision(student: Factors, mask: Tensor | None = None, backend: str = "auto") -> Decision:
    """The backend that `relation` takes for a student and a mask, and why."""
    left = pair(student)[0]
    if _small(left, mask, backend):
        compared = f"{left.numel()} elements, under {PLAIN[_regime(mask)]} the plain formula was measured faster"
        return Decision("torch", compared)
    return choose("relation", left, backend)


def _small(left: Tensor, mask: Tensor | None, backend: str) -> bool:
    """Whether the reference is to be called in place of the operator; it holds no more scores than two blocks."""
    return plain(_regime(mask), left, backend) and math.prod(left.shape[:-1]) * left.shape[-2] <= 2 * blocks.BLOCK


def _regime(mask: Tensor | None) -> str:
    return "relation" if mask is None else "relation_masked"


# The operator


def run(
    x_s: Tensor,
    y_s: Tensor | None,
    x_t: Tensor,
    y_t: Tensor | None,
    queries: Tensor | None,
    keys: Tensor | None,
    pairs: Tensor | None,
    count: Tensor,
    kind: str,
    floor: float | None,
    with_gradient: bool,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the operator of `relation` does: the value, and its gradients at X and Y where they are wanted."""
    to_x, to_y = (gradient_room(x_s, with_gradient and x is not None, _kept(x_s.dtype)) for x in (x_s, y_s))
    # Triton has nothing to launch on where there are no elements.
    triton = choose("relation", x_s, backend).triton and x_s.numel() > 0 and x_t.numel() > 0
    with torch.cuda.device_of(x_s):
        value = (launch if triton else blocks).sweep(
            (x_s, x_s if y_s is None else y_s),
            (x_t, x_t if y_t is None else y_t),
            (queries, keys, pairs),
            kind,
            floor,
            count.reciprocal(),
            (to_x, to_x if y_s is None else to_y) if with_gradient else None,
        )
    return value.to(count.dtype) / count, to_x, to_y


def _kept(dtype: torch.dtype) -> torch.dtype:
    """The type of a gradient: float16 has no room for the quotients by a large count, which the backward pass makes."""
    return torch.float32 if dtype == torch.float16 else dtype


_operator = Operator(
    "relation",
    run,
    "Tensor x_s, Tensor? y_s, Tensor x_t, Tensor? y_t, Tensor? queries, Tensor? keys, Tensor? pairs, Tensor count, "
    "str kind, float? floor, bool with_gradient, str backend",
    wanted=10,
    sources=2,
    kept=_kept,
)
