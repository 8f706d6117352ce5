"""Neuron selectivity transfer (Huang & Wang 2017): which positions each number of the width responds to."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import masked_mean, slot_mask, unit_vectors
from kdzoo.losses.registry import register


@register("nst")
class NST(DistillationLoss):
    """Squared MMD, with a degree-2 polynomial kernel, between the profiles of student and teacher over the positions.

        1/B · Σ_b [ mean_ij (s_bi · s_bj)² + mean_ij (t_bi · t_bj)² - 2 mean_ij (s_bi · t_bj)² ]

    s_bi is the i-th of the D_s columns of row b over its valid positions, scaled to length one, and t_bj of the D_t.
    With this kernel that is ‖ Σ_i s_bi s_biᵀ / D_s - Σ_j t_bj t_bjᵀ / D_t ‖², which is how it is computed: the cost
    does not grow with the product of the widths. The mean is over rows and layers with a valid position.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, S, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; an optional mask (B, S).

    Raises:
        KdzooError: for shapes that do not fit, vectors without positions among them.

    References:
        Huang, Wang: Like What You Like: Knowledge Distill via Neuron Selectivity Transfer, equations 4 to 6 with
        d = 2 and c = 0. https://arxiv.org/abs/1707.01219

    See also:
        ``attention_mse``, on the scores of a layer's own queries and keys.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> kdzoo.create("nst")(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden",)
    mean_over = "rows"
    formula = (
        r"\frac{1}{B} \sum_b \left\lVert \frac{1}{D_s} \sum_i \hat s_{bi} \hat s_{bi}^\top "
        r"- \frac{1}{D_t} \sum_j \hat t_{bj} \hat t_{bj}^\top \right\rVert_F^2"
    )
    complexity = "O(B·S²·D) a layer, B·S² memory"
    related = ("attention_mse", "sp", "cka")
    paper = "Huang & Wang 2017, Like What You Like: Knowledge Distill via Neuron Selectivity Transfer"
    year = 2017
    url = "https://arxiv.org/abs/1707.01219"

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    @classmethod
    def fit(cls, options: dict[str, Any], **context: Any) -> dict[str, Any]:
        return options  # the profiles of either side are as long as the text, whatever the widths

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if student.dim() not in (3, 4) or student.shape[:-1] != teacher.shape[:-1]:
            rule = "must agree in all but the last axis, as (B, S, D) or (B, M, S, D)"
            raise self._mismatch(student, teacher, rule)
        slots = slot_mask(self.label, student, mask)
        if slots is not None:
            student, teacher = (side.masked_fill(~slots.unsqueeze(-1), 0.0) for side in (student, teacher))
        gap = _selectivity(student) - _selectivity(teacher)
        return masked_mean((gap**2).sum((-2, -1)), None if slots is None else slots.any(-1))


def _selectivity(states: Tensor) -> Tensor:
    """(..., S, D) to (..., S, S): the mean outer product of the columns, each scaled to length one."""
    profiles = unit_vectors(states.mT)
    return profiles.mT @ profiles / states.shape[-1]
