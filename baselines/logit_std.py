"""Logit standardisation (Sun et al. 2024): KD on z-scored logits."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.divergence import LIMIT
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import kl
from kdzoo.losses.options import check_positive
from kdzoo.losses.reduction import absent, masked_mean
from kdzoo.losses.registry import register

EPSILON = 1e-7


@register("logit_std")
class LogitStd(DistillationLoss):
    """KD on the z-scores of each row's logits, so that student and teacher may differ in their scale.

        T²/B · Σ_i KL(softmax(ẑt_i / T) ‖ softmax(ẑs_i / T)),   ẑ = (z - mean z) / (std z + 1e-7)

    with the unbiased standard deviation over the classes (C - 1 in its denominator). Two z-scored logits are always
    1/√2 and -1/√2, and one has none: both are refused.

    Args:
        temperature: T, above 0; the base temperature, for unit standard deviation.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S); at least three classes.

    Raises:
        KdzooError: for one logit or two classes, a temperature that is not positive, or unequal shapes.

    References:
        Sun, Ren, Li, Wang, Cao: Logit Standardization in Knowledge Distillation, algorithms 1 and 2.
        https://arxiv.org/abs/2403.01427

    See also:
        ``kd``, on the logits as they are; ``dist``, which is blind to the scale of the probabilities.

    Examples:
        >>> import kdzoo, torch
        >>> logits = torch.randn(8, 3)
        >>> abs(kdzoo.create("logit_std")(5 * logits + 1, logits).item()) < 1e-5
        True
    """

    too_few = MappingProxyType(
        {
            1: "compares z-scored logits, and one logit has no spread; use kd",
            2: "compares z-scored logits, and of two classes they are always 0.71 and -0.71; use kd",
        }
    )
    every_class = True
    formula = (
        r"\frac{T^2}{B} \sum_i \mathrm{KL}\left(\mathrm{softmax}(\hat z^t_i / T) \,\middle\|\, "
        r"\mathrm{softmax}(\hat z^s_i / T)\right), \quad \hat z = \frac{z - \bar z}{\sigma(z) + 10^{-7}}"
    )
    complexity = "O(B·C)"
    related = ("kd", "dkd", "dist")
    paper = "Sun et al. 2024, Logit Standardization in Knowledge Distillation"
    year = 2024
    url = "https://arxiv.org/abs/2403.01427"

    def __init__(self, temperature: float = 2.0, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        self.temperature = temperature

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        none = absent(student, teacher)
        log_student, log_teacher = (self._log_probabilities(side, none) for side in (student, teacher))
        return self.temperature**2 * masked_mean(kl(log_teacher, log_student), slots)

    def _log_probabilities(self, logits: Tensor, none: Tensor) -> Tensor:
        """Of the z-scores over the classes that are there; those that are not have a probability of zero."""
        count = (~none).sum(-1, keepdim=True)
        filled = logits.masked_fill(none, 0.0)
        apart = (filled - filled.sum(-1, keepdim=True) / count.clamp_min(1)).masked_fill(none, 0.0)
        # The deviation of a single class, or of equal logits, is 0, where the root has no gradient.
        variance = apart.square().sum(-1, keepdim=True) / (count - 1).clamp_min(1)
        spread = torch.where(variance > 0, variance, 1.0).sqrt() * (variance > 0)
        scores = (apart / (spread + EPSILON)).masked_fill(none, -LIMIT)
        return (scores / self.temperature).log_softmax(-1)
