"""The formula of `relation`, on whole (B, ..., S, S) scores."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import accumulator
from kdzoo.kernels.layout import given_divisor
from kdzoo.kernels.operators import without_autocast
from kdzoo.kernels.relation.sides import Factors, finite, pair, seen_finite


@without_autocast
def relation_reference(
    student: Factors,
    teacher: Factors,
    *,
    mask: Tensor | None = None,
    kind: str = "kl",
    padded_queries: bool = False,
    floor: float | None = None,
    count: Tensor | None = None,
) -> Tensor:
    """The formula on whole (B, ..., S, S) scores; see `relation`."""
    (x_s, y_s), (x_t, y_t) = pair(student), pair(teacher)
    pairs = mask
    if mask is not None and mask.dim() == 2:
        pairs = (mask != 0).unsqueeze(1) & ((mask != 0).unsqueeze(2) | padded_queries)
    padding = []
    if pairs is not None:
        pairs = pairs.view(len(pairs), *[1] * (x_s.dim() - 3), *pairs.shape[1:]) != 0
        padding = [~pairs.any(axis).unsqueeze(-1) for axis in (-1, -2)]

    def scores(x: Tensor, y: Tensor) -> Tensor:
        if padding:
            x, y = x.masked_fill(padding[0], 0.0), y.masked_fill(padding[1], 0.0)
        return x.to(accumulator(x.dtype)) @ y.to(accumulator(y.dtype)).mT / math.sqrt(max(x.shape[-1], 1))

    ours = scores(x_s, y_s)
    with torch.no_grad():
        theirs = scores(x_t, y_t)
        if not seen_finite(theirs):  # what is infinite in the factors shows in the scores
            theirs = scores(finite(x_t), finite(y_t))
    if kind == "mse":
        if floor is not None:
            ours, theirs = ours.masked_fill(ours <= floor, 0.0), theirs.masked_fill(theirs <= floor, 0.0)
        values = (ours - theirs) ** 2
    else:
        if pairs is not None:
            hidden, low = ~pairs, torch.finfo(ours.dtype).min / 2
            ours, theirs = ours.masked_fill(hidden, low), theirs.masked_fill(hidden, low)
        ours, theirs = ours.log_softmax(-1), theirs.log_softmax(-1)
        if kind == "kl" and pairs is None:  # in fewer steps
            total = F.kl_div(ours, theirs, reduction="sum", log_target=True)
            number = max(math.prod(ours.shape[:-1]), 1) if count is None else given_divisor(count, total.dtype)
            return total / number
        values = (theirs.exp() * (theirs - ours if kind == "kl" else -ours)).sum(-1)
        pairs = None if pairs is None else pairs.any(-1)
    if pairs is not None:
        values = torch.where(pairs, values, 0.0)
    if count is not None:
        return values.sum() / given_divisor(count, values.dtype)
    return values.sum() / (max(values.numel(), 1) if pairs is None else pairs.expand_as(values).sum().clamp_min(1))
