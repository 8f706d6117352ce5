"""Distillation from internal representations (Aguilar et al. 2020): attention distributions."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.attention import attention_divergence, attention_scores, check_heads, valid_pairs
from kdzoo.loss import DistillationLoss, ModelShape
from kdzoo.registry import register


@register("attention_kl")
class AttentionKL(DistillationLoss):
    """Kullback-Leibler divergence from the teacher's attention to the student's.

        1/(A·N) · Σ_aq KL(At_aq ‖ As_aq),   A = softmax(QKᵀ / √d)

    A sum over keys, and a mean over the A heads and the N valid queries of the whole batch. The softmax is
    over valid keys alone.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors, or scores before the softmax (B, A, S, S), which
            may be off by a constant a row (logarithms of probabilities will do); mask (B, S), or (B, S, S).

    Raises:
        KdzooError: for unequal head counts, or shapes that do not fit.

    References:
        Aguilar et al.: Knowledge Distillation from Internal Representations, equation 1.
        https://arxiv.org/abs/1910.03723

    See also:
        ``attention_mse``, on the scores themselves.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(2, 4, 7, 7, requires_grad=True)
        >>> kdzoo.create("attention_kl")(student, torch.randn(2, 4, 7, 7), mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    paper = "Aguilar et al. 2020, Knowledge Distillation from Internal Representations"
    year = 2020
    url = "https://arxiv.org/abs/1910.03723"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        check_heads(cls.name, student.num_heads, teacher.num_heads)
        return options

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        pairs = valid_pairs(mask)
        return attention_divergence(*attention_scores(self.label, student, teacher, pairs), pairs)
