"""Fine-tuning without a teacher: cross-entropy with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import check_problem_type
from kdzoo.losses.reduction import class_labels, masked_mean, shaped_labels, slot_mask
from kdzoo.losses.registry import register
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS, ModelShape
from kdzoo.objectives.registry import register_recipe
from kdzoo.tasks.pieces import IGNORED

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe


@register("ce")
class CrossEntropy(DistillationLoss):
    """Cross-entropy with the labels; of numbers the squared error to them, of several labels binary cross-entropy.

        1/B · Σ_i -log softmax(zs_i)[y_i]

    With several labels a row it is the binary cross-entropy of each label, and with numbers the squared error to each,
    mean over rows and labels, as transformers' heads have them.

    It takes no teacher: a teacher's logits may be passed and are ignored.

    Args:
        label_smoothing: ε of (1 - ε) · NLL + ε · mean over classes of -log p; from 0 to below 1 (Szegedy et al. 2016).
        problem_type: what the logits are, as transformers' configurations call it; an objective sets it. One logit is a
            number and more are classes when None.
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, C), or (B, S, C) with an optional mask (B, S).
        labels: (B,), or (B, S): integers from 0 to C - 1, or -100 for what is not to count; numbers where C is 1;
            (B, C) of several labels, as 0 and 1, or of several numbers.

    Raises:
        KdzooError: without labels, for labels of another shape or kind, or (on a CPU) a label out of range.

    See also:
        `KD`, which it is usually added to.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("ce")
        >>> round(loss(torch.zeros(8, 3), labels=torch.zeros(8, dtype=torch.long)).item(), 4)
        1.0986
    """

    features = ("logits",)
    needs = frozenset({"labels"})
    needs_teacher = False
    problem_types = (CLASSES, LABELS, NUMBERS)
    formula = r"\frac{1}{B} \sum_i - \log \mathrm{softmax}(z^s_i)_{y_i}"
    complexity = "O(B·C)"
    related = ("kd", "soft_ce")
    paper = "Fine-tuning on the labels"

    def __init__(
        self, *, label_smoothing: float = 0.0, problem_type: str | None = None, variant: str = "paper"
    ) -> None:
        super().__init__(variant=variant)
        if not 0 <= label_smoothing < 1:
            raise KdzooError(f"{self.label}: label_smoothing is {label_smoothing}; it must be at least 0 and under 1")
        self.label_smoothing = label_smoothing
        self.problem_type = check_problem_type(self.label, problem_type)
        if label_smoothing and self.problem_type not in (None, CLASSES):
            raise KdzooError(f"{self.label}: label_smoothing is for classes, and problem_type is {problem_type}")

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        if options.get("label_smoothing") and student.num_labels == 1:
            raise KdzooError(f"{cls.name}: label_smoothing is for classes, and a row has one number; leave it out")
        return options

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: None, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        if student.dim() not in (2, 3):
            raise KdzooError(f"{self.label} takes logits (B, C) or (B, S, C), got {tuple(student.shape)}")
        slots = slot_mask(self.label, student, mask)
        if student.shape[-1] > 1 and self.problem_type not in (LABELS, NUMBERS):
            labels = shaped_labels(self.label, student, labels)
            real = labels != IGNORED
            slots = real if slots is None else slots & real
        if slots is not None:  # what does not count may be no number, and would make the gradient none
            student = student.masked_fill(~slots.unsqueeze(-1), 0.0)
        if self.problem_type == LABELS or (self.problem_type == NUMBERS and student.shape[-1] > 1):
            return self._each(student, labels, slots)
        if student.shape[-1] == 1:
            if self.label_smoothing:
                raise KdzooError(f"{self.label}: label_smoothing is for classes, and one logit is a number")
            labels = shaped_labels(self.label, student, labels).to(student.dtype)
            labels = labels if slots is None else labels.masked_fill(~slots, 0.0)
            return masked_mean((student.squeeze(-1) - labels) ** 2, slots)
        labels = class_labels(self.label, student, labels, slots)
        losses = F.cross_entropy(
            student.flatten(0, -2), labels.flatten(), reduction="none", label_smoothing=self.label_smoothing
        )
        return masked_mean(losses.view(labels.shape), slots)

    def _each(self, student: Tensor, labels: Tensor, slots: Tensor | None) -> Tensor:
        """Several labels or numbers a row."""
        if labels.shape != student.shape:
            raise KdzooError(f"{self.label}: labels {tuple(labels.shape)} and logits {tuple(student.shape)} must agree")
        wanted = labels.to(student.dtype)
        if self.problem_type == NUMBERS:
            return masked_mean(((student - wanted) ** 2).mean(-1), slots)
        losses = F.binary_cross_entropy_with_logits(student, wanted, reduction="none")
        return masked_mean(losses.mean(-1), slots)


@register_recipe("none")
def none() -> Recipe:
    """Fine-tuning without a teacher: the floor of every comparison."""
    from kdzoo.objectives.recipe import Recipe, Source, Stage, TermSpec

    return Recipe(
        name="none",
        title="fine-tuning alone, the floor of every comparison",
        stages=(Stage(terms=(TermSpec(loss="ce"),)),),
        sources=(Source(origin="ours", where="the only term", of=("ce.weight",)),),
    )
