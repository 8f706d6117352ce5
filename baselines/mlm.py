"""Masked language modelling (Devlin et al. 2019): cross-entropy with the words that were masked."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import class_labels, masked_mean, slot_mask
from kdzoo.losses.registry import register
from kdzoo.tasks.pieces import IGNORED


@register("mlm")
class MaskedLM(DistillationLoss):
    """Cross-entropy with the masked words, over the positions that have a label.

        1/N · Σ_n -log softmax(zs_n)[y_n]

    It takes no teacher, and is for text: ``kdzoo pretrain`` masks the words. A label of -100 says that a position has
    none.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, S, V) with an optional mask (B, S), V the size of the vocabulary; or (N, V).
        labels: (B, S), or (N,): integers from 0 to V - 1, or -100.

    Raises:
        KdzooError: without labels, for labels of another shape or kind, or (on a CPU) a label out of range.

    References:
        Devlin et al.: BERT: Pre-training of Deep Bidirectional Transformers for Language Understanding, section 3.1.
        https://arxiv.org/abs/1810.04805

    See also:
        ``ce``, with the labels of a task; ``kd``, with what the teacher says of each token; ``sop``, with the order of
        segments.

    Examples:
        >>> import kdzoo, torch
        >>> labels = torch.tensor([[3, -100, -100, 0]])
        >>> round(kdzoo.create("mlm")(torch.zeros(1, 4, 5), labels=labels).item(), 4)
        1.6094
    """

    features = ("logits",)
    needs = frozenset({"labels"})
    needs_teacher = False
    text_labels = "words"
    formula = r"\frac{1}{N} \sum_n - \log \mathrm{softmax}(z^s_n)_{y_n}"
    complexity = "O(B·S·V)"
    related = ("ce", "kd", "sop")
    paper = "Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers"
    year = 2019
    url = "https://arxiv.org/abs/1810.04805"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: None, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        slots = slot_mask(self.label, student, mask)
        counted = labels != IGNORED
        labels = class_labels(self.label, student, labels.masked_fill(~counted, 0), slots)
        counted = counted.reshape(labels.shape)
        if slots is not None:
            counted = counted & slots
        student = student.masked_fill(~counted.unsqueeze(-1), 0.0)
        losses = F.cross_entropy(student.flatten(0, -2), labels.flatten(), reduction="none")
        return masked_mean(losses.view(labels.shape), counted)
