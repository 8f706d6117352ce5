"""DistilBERT (Sanh et al. 2019): hidden states that point the same way."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.loss import DistillationLoss, masked_mean, unit
from kdzoo.registry import register


@register("cosine")
class Cosine(DistillationLoss):
    """Mean of 1 - cosine between the student's and the teacher's hidden states.

        1/N · Σ_n (1 - cos(W hs_n, ht_n))

    over the N valid positions. A zero vector has cosine 0 with everything.

    Args:
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are
            positions.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Sanh et al.: DistilBERT, a distilled version of BERT, section 3. https://arxiv.org/abs/1910.01108

    See also:
        ``pkd``: on unit vectors the squared distance is twice this; ``cos_nce`` pushes other rows away as
        well.

    Examples:
        >>> import kdzoo, torch
        >>> states = torch.randn(4, 7, 16)
        >>> round(kdzoo.create("cosine")(-states, states, mask=torch.ones(4, 7)).item(), 4)
        2.0
    """

    features = ("hidden", "cls")
    paper = "Sanh et al. 2019, DistilBERT, a distilled version of BERT"
    year = 2019
    url = "https://arxiv.org/abs/1910.01108"

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        return masked_mean(1 - (unit(student) * unit(teacher)).sum(-1), slots)
