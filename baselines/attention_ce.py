"""Cross-entropy of attention distributions, the attention loss of MobileBERT's code and of TextBrewer."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.losses.attention import attention_difference, check_heads
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape


@register("attention_ce")
class AttentionCE(DistillationLoss):
    """Cross-entropy of the student's attention with the teacher's.

        -1/(A·N) · Σ_aqk At_aqk · log As_aqk,   A = softmax(QKᵀ / √d)

    A sum over keys, and a mean over the A heads and the N valid queries of the whole batch. The softmax is
    over valid keys alone. It has the gradient of ``attention_kl`` and lies above it by the teacher's entropy, so
    that it is not zero where both agree.

    Args:
        variant: ``"paper"``, the only one. (TextBrewer's function without a mask takes the teacher's scores for
            probabilities and drops those below -1e-3, which is a mistake and not offered here.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it of a ``QKV``.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors, or scores before the softmax (B, A, S, S), which
            may be off by a constant a row; mask (B, S), or (B, S, S). Of a text's attention to another
            they are (B, A, T, S) and the mask (B, T, S).

    Raises:
        KdzooError: for unequal head counts, or shapes that do not fit.

    References:
        Yang et al.: TextBrewer: An Open-Source Knowledge Distillation Toolkit for NLP, its ``attention_ce``.
        https://arxiv.org/abs/2002.12620

    See also:
        ``attention_kl``, less the teacher's entropy; ``attention_mse``, on the scores themselves.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(2, 4, 7, 7, requires_grad=True)
        >>> kdzoo.create("attention_ce")(student, torch.randn(2, 4, 7, 7), mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    cross_attention = True
    fused = True
    formula = r"-\frac{1}{A N} \sum_{a=1}^{A} \sum_{q} \sum_{k} A^t_{aqk} \log A^s_{aqk}"
    complexity = "O(B·A·S²·d)"
    related = ("attention_kl", "attention_mse")
    paper = "Yang et al. 2020, TextBrewer: An Open-Source Knowledge Distillation Toolkit for NLP"
    year = 2020
    url = "https://arxiv.org/abs/2002.12620"

    def __init__(self, *, variant: str = "paper", backend: str = "auto") -> None:
        super().__init__(variant=variant)
        self.backend = check_backend(self.label, backend)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        check_heads(cls.name, student.num_heads, teacher.num_heads)
        return options

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        return attention_difference(self.label, student, teacher, mask, "ce", cross=True, backend=self.backend)
