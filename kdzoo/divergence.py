"""Divergence, the base of the losses between the student's and the teacher's class probabilities."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.loss import DistillationLoss, check_positive, masked_mean


class Divergence(DistillationLoss):
    """A divergence of the classes' probabilities, softened by a temperature, without T²; mean over rows.

    A subclass implements `divergence`. One logit has no classes: there it is the mean squared difference, as in ``kd``.
    """

    features = ("logits",)

    def __init__(self, temperature: float = 1.0, *, variant: str = "paper") -> None:
        """
        Args:
            temperature: T, above 0; both sides' logits are divided by it.
            variant: one of the class's ``variants``.

        Raises:
            KdzooError: for a temperature that is not positive, or an unknown variant.
        """
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        self.temperature = temperature

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        if student.shape[-1] == 1:
            return masked_mean((student - teacher).squeeze(-1) ** 2, slots)
        log_student, log_teacher = ((side / self.temperature).log_softmax(-1) for side in (student, teacher))
        return masked_mean(self.divergence(log_student, log_teacher), slots)

    def divergence(self, log_student: Tensor, log_teacher: Tensor) -> Tensor:
        """Of log-probabilities (..., C), summed over the classes: (...)."""
        raise TypeError(f"{type(self).__name__} must implement divergence()")


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, summed over the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def log_mixture(log_p: Tensor, log_q: Tensor, weight: float) -> Tensor:
    """log(weight · p + (1 - weight) · q) for a weight between 0 and 1, finite where both probabilities underflow."""
    return torch.logaddexp(log_p + math.log(weight), log_q + math.log1p(-weight))
