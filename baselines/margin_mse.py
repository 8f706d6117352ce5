"""Margin-MSE (Hofstätter et al. 2020): how much higher the relevant candidate scores than each other one."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import absent, masked_mean
from kdzoo.losses.registry import register


@register("margin_mse")
class MarginMSE(DistillationLoss):
    """Mean squared difference of the margins by which a query's relevant candidate outscores the others.

        1/(B·K) · Σ_ik ((s_i0 - s_ik) - (t_i0 - t_ik))²

    A row of logits holds the scores of 1 + K candidates of one query, the relevant one first; pairs of scores are rows
    with K = 1. What is added to all scores of a row changes nothing, so a student may score on another level than its
    teacher, though not on another scale.

    Classes are taken as candidates: each class's logit against that of class 0. That asks for the teacher's logits up
    to a constant a row, which softmax ignores, but weighs the error at class 0 K times as much as any other.

    A candidate at -inf on both sides is absent: its margin is left out of the row's mean, and where the first one is
    absent the row adds 0.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, 1 + K), or (B, S, 1 + K) with an optional mask (B, S).

    Raises:
        KdzooError: for unequal shapes, or one logit, which has nothing to be compared with.

    References:
        Hofstätter, Althammer, Schröder, Sertkan, Hanbury: Improving Efficient Neural Ranking Models with
        Cross-Architecture Knowledge Distillation. https://arxiv.org/abs/2010.02666

    See also:
        ``kd``, which compares all candidates of a row as one distribution; ``logit_mse``, the scores themselves.

    Examples:
        >>> import kdzoo, torch
        >>> student, teacher = torch.tensor([[2.0, 1.0]]), torch.tensor([[9.0, 6.0]])
        >>> kdzoo.create("margin_mse")(student, teacher).item()
        4.0
    """

    too_few = MappingProxyType(
        {
            1: "compares the first score of a row with its others, and there is one alone; use logit_mse, or put a "
            "query's candidates into one row"
        }
    )
    every_class = True
    formula = r"\frac{1}{BK} \sum_{ik} \left((s_{i0} - s_{ik}) - (t_{i0} - t_{ik})\right)^2"
    complexity = "O(B·K)"
    related = ("kd", "logit_mse")
    paper = (
        "Hofstätter et al. 2020, Improving Efficient Neural Ranking Models with Cross-Architecture Knowledge "
        "Distillation"
    )
    year = 2020
    url = "https://arxiv.org/abs/2010.02666"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        none = absent(student, teacher)
        gaps = student.masked_fill(none, 0.0) - teacher.masked_fill(none, 0.0)
        left_out = none[..., :1] | none[..., 1:]
        # Filled before the square, whose gradient at a gap of inf that does not count would be nan.
        squares = (gaps[..., :1] - gaps[..., 1:]).masked_fill(left_out, 0.0) ** 2
        # A mean within each row first, so that micro-batches, weighed by their rows, add up to the batch.
        return masked_mean(squares.sum(-1) / (~left_out).sum(-1).clamp_min(1), slots)
