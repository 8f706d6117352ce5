"""Regression onto the teacher's logits, of Ba & Caruana 2014."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import masked_mean, squared_differences
from kdzoo.losses.registry import register
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS


@register("logit_mse")
class LogitMSE(DistillationLoss):
    """Mean squared difference of the logits.

        1/(B·C) · Σ_ic (zt_ic - zs_ic)²

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for unequal shapes.

    References:
        Ba, Caruana: Do Deep Nets Really Need to be Deep?, equation 1. https://arxiv.org/abs/1312.6184

    See also:
        ``kd``, whose gradient tends to this one's direction as its temperature grows.

    Examples:
        >>> import kdzoo, torch
        >>> kdzoo.create("logit_mse")(torch.zeros(8, 3), torch.full((8, 3), 2.0)).item()
        4.0
    """

    features = ("logits",)
    every_class = True
    problem_types = (CLASSES, LABELS, NUMBERS)
    formula = r"\frac{1}{BC} \sum_{ic} \left(z^t_{ic} - z^s_{ic}\right)^2"
    complexity = "O(B·C)"
    related = ("kd", "annealing")
    paper = "Ba & Caruana 2014, Do Deep Nets Really Need to be Deep?"
    year = 2014
    url = "https://arxiv.org/abs/1312.6184"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        return masked_mean(squared_differences(student, teacher), slots)
