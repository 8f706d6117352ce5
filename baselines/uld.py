"""ULD, universal logit distillation (Boizard et al. 2024): sorted probabilities, whatever classes they are of."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import log_probabilities
from kdzoo.losses.options import check_positive
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register


@register("uld")
class ULD(DistillationLoss):
    """Difference of the sorted probabilities, for two sides whose classes or vocabularies are not the same.

        1/N · Σ_n Σ_r |t_n(r) - s_n(r)|

    over the N rows, or valid positions, with t and s the softmax of the logits over T, each sorted from its largest
    entry on: r is a rank and not a class. The side of fewer classes is filled up with zeros. Which class has which rank
    does not count, so that the loss is 0 where the student is as sure as the teacher of another class: it goes beside
    one on the labels (the authors add 1.5 of it to the cross-entropy). Position n of the student is compared with
    position n of the teacher. Where two tokenizers cut an answer differently, the authors compare the first positions
    of it up to the shorter one's end; that cut is the caller's.

    The paper calls the sum the Wasserstein distance of the two where each class costs the same to reach, and gives it
    this form. With a cost of 1 that distance, under the best matching of the classes, is half of it: what one side has
    too much at some ranks it lacks at the others. Here, as in the paper and the authors' code, there is no ½.

    Args:
        temperature: T, above 0; the authors' code has one for each side, and both are 1. There is no T².
        variant: ``"paper"``, the only one. The paper adds the positions up; the authors' code takes the mean over a
            row's positions and then over rows. Here it is over all that count in the batch.

    Shapes:
        student: (B, C), or (B, S, C) with an optional mask (B, S).
        teacher: (B, K), or (B, S, K): its classes may be others, and more or fewer.

    Raises:
        KdzooError: for a temperature that is not positive, unequal rows or positions, or one logit on either side.

    References:
        Boizard, El Haddad, Hudelot, Colombo: Towards Cross-Tokenizer Distillation: the Universal Logit Distillation
        Loss for LLMs, section 3. https://arxiv.org/abs/2402.12030

    See also:
        ``tvd``, half of the sum class by class, where the classes are the same.

    Examples:
        >>> import kdzoo, torch
        >>> student, teacher = torch.randn(2, 7, 50, requires_grad=True), torch.randn(2, 7, 80)
        >>> kdzoo.create("uld")(student, teacher, mask=torch.ones(2, 7)).backward()
    """

    own_classes = True
    too_few = MappingProxyType({1: "sorts probabilities of classes, and one logit has none; use kd or logit_mse"})
    formula = r"\frac{1}{N} \sum_n \sum_r \left| p^t_{n(r)} - p^s_{n(r)} \right|, \quad p_{n(1)} \ge p_{n(2)} \ge \dots"
    complexity = "O(B·C·log C)"
    related = ("tvd", "kd", "sinkhorn")
    paper = "Boizard et al. 2024, Towards Cross-Tokenizer Distillation: the Universal Logit Distillation Loss for LLMs"
    year = 2024
    url = "https://arxiv.org/abs/2402.12030"

    def __init__(self, temperature: float = 1.0, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        self.temperature = temperature

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        most = max(student.shape[-1], teacher.shape[-1])
        ours, theirs = (
            F.pad(log_probabilities(side, self.temperature).exp().sort(-1, descending=True).values, (0, most - count))
            for side, count in ((student, student.shape[-1]), (teacher, teacher.shape[-1]))
        )
        return masked_mean((ours - theirs).abs().sum(-1), slots)
