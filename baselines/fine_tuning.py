"""Fine-tuning without a teacher: cross-entropy with the labels."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import class_labels, masked_mean, shaped_labels, slot_mask
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe


@register("ce")
class CrossEntropy(DistillationLoss):
    """Cross-entropy with the labels; on one logit, the squared error to the label.

        1/B · Σ_i -log softmax(zs_i)[y_i]

    It takes no teacher: a teacher's logits may be passed and are ignored.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, C), or (B, S, C) with an optional mask (B, S).
        labels: (B,), or (B, S): integers from 0 to C - 1; numbers where C is 1.

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
    formula = r"\frac{1}{B} \sum_i - \log \mathrm{softmax}(z^s_i)_{y_i}"
    complexity = "O(B·C)"
    related = ("kd", "soft_ce")
    paper = "Fine-tuning on the labels"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: None, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        if student.dim() not in (2, 3):
            raise KdzooError(f"{self.label} takes logits (B, C) or (B, S, C), got {tuple(student.shape)}")
        slots = slot_mask(self.label, student, mask)
        if slots is not None:
            student = student.masked_fill(~slots.unsqueeze(-1), 0.0)
        if student.shape[-1] == 1:
            labels = shaped_labels(self.label, student, labels).to(student.dtype)
            labels = labels if slots is None else labels.masked_fill(~slots, 0.0)
            return masked_mean((student.squeeze(-1) - labels) ** 2, slots)
        labels = class_labels(self.label, student, labels, slots)
        losses = F.cross_entropy(student.flatten(0, -2), labels.flatten(), reduction="none")
        return masked_mean(losses.view(labels.shape), slots)


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
