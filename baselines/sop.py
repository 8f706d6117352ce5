"""Sentence order (Lan et al. 2020): cross-entropy with whether two segments were exchanged."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import class_labels, masked_mean
from kdzoo.losses.registry import register
from kdzoo.tasks.pieces import IGNORED


@register("sop")
class SentenceOrder(DistillationLoss):
    """Cross-entropy with the order of two segments, over the rows that have two.

        1/N · Σ_n -log softmax(zs_n)[y_n]

    It takes no teacher, and is for text: ``kdzoo pretrain`` makes rows of two consecutive segments of a document and
    exchanges them in half of the rows. 0 is for segments in order, 1 for exchanged ones, and -100 says that a row has
    one segment alone.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, C), what the student's head on its pooled output makes of each row; C is 2.
        labels: (B,): integers from 0 to C - 1, or -100.

    Raises:
        KdzooError: without labels, for labels of another shape or kind, for a mask, or (on a CPU) a label out of range.

    References:
        Lan et al.: ALBERT: A Lite BERT for Self-supervised Learning of Language Representations, section 3.1.
        https://arxiv.org/abs/1909.11942

    See also:
        ``mlm``, which it is added to.

    Examples:
        >>> import kdzoo, torch
        >>> labels = torch.tensor([0, 1, -100])
        >>> round(kdzoo.create("sop")(torch.zeros(3, 2), labels=labels).item(), 4)
        0.6931
    """

    features = ("order",)
    needs = frozenset({"labels"})
    needs_teacher = False
    text_labels = "order"
    formula = r"\frac{1}{N} \sum_n - \log \mathrm{softmax}(z^s_n)_{y_n}"
    complexity = "O(B)"
    related = ("mlm",)
    paper = "Lan et al. 2020, ALBERT: A Lite BERT for Self-supervised Learning of Language Representations"
    year = 2020
    url = "https://arxiv.org/abs/1909.11942"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: None, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        if student.dim() != 2 or mask is not None:
            raise KdzooError(f"{self.label} takes logits of rows, (B, 2), and no mask; got {tuple(student.shape)}")
        counted = labels != IGNORED
        labels = class_labels(self.label, student, labels.masked_fill(~counted, 0), None)
        counted = counted.reshape(labels.shape)
        student = student.masked_fill(~counted.unsqueeze(-1), 0.0)
        return masked_mean(F.cross_entropy(student, labels, reduction="none"), counted)
