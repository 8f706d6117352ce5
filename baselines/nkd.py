"""Normalised knowledge distillation, NKD (Yang et al. 2023)."""

from __future__ import annotations

from types import MappingProxyType

import torch
from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import log_probabilities
from kdzoo.losses.options import check_not_negative, check_positive
from kdzoo.losses.reduction import class_labels, masked_mean
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape


@register("nkd")
class NKD(DistillationLoss):
    """Cross-entropy of the labelled class, weighed as the teacher is sure of it, and of the others among themselves.

        -1/B · Σ_i [ t_y log s_y + γ λ² Σ_(c ≠ y) t̂_c log ŝ_c ]

    with t and s the softmax of the logits, y the label, and t̂ and ŝ the softmax, without y, of the logits over λ. Both
    parts are cross-entropies: the value is not 0 where the sides agree, and the first part raises s_y even there. The
    authors add it to the cross-entropy with the labels (``ce``). Two classes leave one besides the labelled one, and
    the second part is 0.

    Args:
        gamma: γ, the weight of the other classes, 0 or above. The authors take 1.5 on ImageNet; in their code 1 for
            vision transformers, and 3.5 at λ = 3 for CIFAR-100.
        temperature: λ, above 0; it softens the other classes alone.
        variant: ``"paper"``, the only one. The authors' code is the same since October 2023; before, it left the
            labelled class among the others.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S); at least two classes.
        labels: (B,), or (B, S): integers from 0 to C - 1.

    Raises:
        KdzooError: for one logit, options out of range, unequal shapes, or labels that are missing, no integers or (on
            a CPU) out of range.

    References:
        Yang, Zeng, Li, Zhang, Yuan, Li: From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach
        with Normalized Loss and Customized Soft Labels, section 3.1. https://arxiv.org/abs/2303.13005

    See also:
        ``dkd``, which takes the labelled class and the others apart as divergences; ``kd``, the undivided one.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("nkd")(student, torch.randn(8, 3), labels=torch.randint(3, (8,))).backward()
    """

    needs = frozenset({"labels"})
    too_few = MappingProxyType({1: "compares classes, and one logit has none; use kd"})
    every_class = True
    formula = (
        r"-\frac{1}{B} \sum_i p^t_{iy} \log p^s_{iy} + \gamma \lambda^2 \sum_{c \ne y} \hat p^t_{ic} \log \hat p^s_{ic}"
    )
    complexity = "O(B·C)"
    related = ("dkd", "kd", "ce")
    paper = (
        "Yang et al. 2023, From Knowledge Distillation to Self-Knowledge Distillation: A Unified Approach with "
        "Normalized Loss and Customized Soft Labels"
    )
    year = 2023
    url = "https://arxiv.org/abs/2303.13005"

    def __init__(self, gamma: float = 1.5, temperature: float = 1.0, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        check_not_negative(self.label, gamma=gamma)
        self.gamma = gamma
        self.temperature = temperature

    def idle(self, student: ModelShape) -> dict[str, str]:
        one = "of two classes, one is left besides the labelled one"
        none = {"temperature": "the other classes have no weight"} if self.gamma == 0 else {}
        two = dict.fromkeys(("gamma", "temperature"), one) if student.num_labels == 2 else {}
        return super().idle(student) | none | two

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        labels = class_labels(self.label, student, labels, slots).unsqueeze(-1)
        log_s, log_t = (log_probabilities(side).gather(-1, labels).squeeze(-1) for side in (student, teacher))
        own = labels == torch.arange(student.shape[-1], device=labels.device)
        among_s, among_t = (
            # The labelled class is at -inf and then at 0, with a probability of 0, so that it has no part in the sum.
            (log_probabilities(side) / self.temperature).masked_fill(own, -torch.inf).log_softmax(-1)
            for side in (student, teacher)
        )
        others = (among_t.exp() * among_s.masked_fill(own, 0.0)).sum(-1)
        return -masked_mean(log_t.exp() * log_s + self.gamma * self.temperature**2 * others, slots)
