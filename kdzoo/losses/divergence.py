"""Divergence, the base of the losses between the student's and the teacher's class probabilities."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import unknown
from kdzoo.kernels.divergence import divergence, limited
from kdzoo.kernels.hidden_mse import hidden_mse
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend, check_positive
from kdzoo.losses.reduction import absent, masked_mean, mean_count
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS, ModelShape


class Divergence(DistillationLoss):
    """A divergence of the classes' probabilities, softened by a temperature, without T²; mean over rows.

    A subclass names the `kind` of `kdzoo.kernels.divergence.divergence` that it is, and may set its `mixture`. One
    logit has no classes: there it is the mean squared difference, as in ``kd``, and so it is of several numbers.

    Attributes:
        of_classes: the options that say how classes are compared, and do nothing for numbers; the temperature alone of
            them does something for several labels a row.
    """

    features = ("logits",)
    fused = True
    kind: str
    of_classes: ClassVar[tuple[str, ...]] = ("temperature",)

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
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
        self.problem_type: str | None = None  # what the logits are, where a subclass has forms for others than classes
        self.backend = check_backend(self.label, backend)

    def idle(self, student: ModelShape) -> dict[str, str]:
        if student.num_labels == 1 or self.problem_type == NUMBERS:
            return super().idle(student) | dict.fromkeys(self.of_classes, "numbers are compared as they are")
        if self.problem_type == LABELS:
            why = "each label is compared by itself"
            return super().idle(student) | {option: why for option in self.of_classes if option != "temperature"}
        return super().idle(student)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        count = mean_count(student, slots)
        if student.shape[-1] == 1 or self.problem_type == NUMBERS:
            return hidden_mse(student, teacher, mask=mask, count=count, backend=self.backend)
        if self.problem_type == LABELS:
            return label_ce(student, teacher, self.temperature, slots)
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


def label_ce(student: Tensor, teacher: Tensor, temperature: float, slots: Tensor | None) -> Tensor:
    """Binary cross-entropy of logits (..., C) with a teacher's probabilities, each label by itself; mean over them.

    It is KL between the two Bernoulli distributions plus the teacher's entropy, which has no gradient. Half precision
    becomes float32 before the temperature divides it; float64 stays. A label at -inf on both sides is left out.
    """
    none = absent(student, teacher)
    # Filled before anything else: what is masked may be no number, and then the gradient would be none either.
    filled = none if slots is None else none | ~slots.unsqueeze(-1)
    kind = torch.promote_types(student.dtype, torch.float32)
    student, teacher = (side.to(kind).masked_fill(filled, 0.0) / temperature for side in (student, teacher))
    losses = F.binary_cross_entropy_with_logits(student, teacher.sigmoid(), reduction="none")
    return masked_mean(losses.masked_fill(none, 0.0).sum(-1) / (~none).sum(-1).clamp_min(1), slots)


def check_problem_type(label: str, problem_type: str | None) -> str | None:
    """A problem type, refused where it is none.

    Raises:
        KdzooError: offers the nearest one.
    """
    if problem_type not in (None, CLASSES, LABELS, NUMBERS):
        raise unknown(f"problem_type of {label}", problem_type, (CLASSES, LABELS, NUMBERS))
    return problem_type


def log_probabilities(logits: Tensor, temperature: float = 1.0) -> Tensor:
    """The log-softmax over the last axis of logits over T, none of which counts as more than 1e30."""
    return limited(logits, temperature).log_softmax(-1)


def kl(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities, summed over the last axis."""
    return (log_p.exp() * (log_p - log_q)).sum(-1)
