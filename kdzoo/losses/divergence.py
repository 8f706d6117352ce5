"""Divergence, the base of the losses between the student's and the teacher's class probabilities."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.kernels.divergence import divergence
from kdzoo.kernels.hidden_mse import hidden_mse
from kdzoo.losses.base import DistillationLoss, check_backend, check_positive
from kdzoo.losses.reduction import mean_count


class Divergence(DistillationLoss):
    """A divergence of the classes' probabilities, softened by a temperature, without T²; mean over rows.

    A subclass names the `kind` of `kdzoo.kernels.divergence.divergence` that it is, and may set its `mixture`. One
    logit has no classes: there it is the mean squared difference, as in ``kd``.
    """

    features = ("logits",)
    fused = True
    kind: str

    def __init__(self, temperature: float = 1.0, *, variant: str = "paper", backend: str = "auto") -> None:
        """
        Args:
            temperature: T, above 0; both sides' logits are divided by it.
            variant: one of the class's ``variants``.
            backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

        Raises:
            KdzooError: for a temperature that is not positive, or an unknown variant or backend.
        """
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        self.temperature = temperature
        self.mixture = 0.0
        self.backend = check_backend(self.label, backend)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        count = mean_count(student, slots)
        if student.shape[-1] == 1:
            return hidden_mse(student, teacher, mask=mask, count=count, backend=self.backend)
        return divergence(
            student,
            teacher,
            self.kind,
            mixture=self.mixture,
            temperature=self.temperature,
            mask=mask,
            count=count,
            backend=self.backend,
        )


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, summed over the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
