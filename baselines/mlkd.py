"""Multi-level logit distillation (Jin et al. 2023): predictions, and how rows and classes go together in them."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows
from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import kl, log_probabilities
from kdzoo.losses.options import check_not_negative, check_positive
from kdzoo.losses.registry import register


@register("mlkd")
class MLKD(DistillationLoss):
    """Predictions aligned by row, by pairs of rows and by pairs of classes, at several temperatures.

        Σ_T [ 1/B · Σ_i KL(p^t_i ‖ p^s_i) + β/B · ‖p^t p^tᵀ - p^s p^sᵀ‖² + γ/C · ‖p^tᵀ p^t - p^sᵀ p^s‖² ]

    with p (B, C) the softmax of the logits over T, and ‖·‖² the sum of the squared entries. The entries of p pᵀ say how
    likely two rows are of one class, those of pᵀ p how much two classes are taken for one another. The batch is the
    rows of all processes, or with positions all their valid tokens; the last part grows with it.

    Args:
        temperatures: the T, each above 0; those of the authors' code by default.
        beta: β, the weight of the pairs of rows, 0 or above. The paper adds the three parts up.
        gamma: γ, the weight of the pairs of classes, 0 or above.
        variant: ``"released"`` is the authors' code, which multiplies the first part by T². That code has two views of
            each image, and the first part of both, the others of one. A mask of the rows and classes of which the
            teacher is less sure multiplies what is a mean already, so that it halves: on two equal views, its weights
            are those of beta = gamma = 1/3.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S); at least two classes.

    Raises:
        KdzooError: for options out of range, unequal shapes, or one logit, which has no classes.

    References:
        Jin, Wang, Lin: Multi-Level Logit Distillation, section 3; its first part is a sum over the batch, and here, as
        in the authors' code, a mean.
        https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html

    See also:
        ``kd``, the first part at one temperature; ``dist``, which correlates over rows and classes; ``sp``, the second
        part's like for states.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("mlkd", temperatures=[1.0, 4.0])(student, torch.randn(8, 3)).backward()
    """

    contrastive = True
    too_few = MappingProxyType({1: "relates probabilities of classes, and one logit has none; use kd or dist"})
    every_class = True
    variants = ("paper", "released")
    formula = (
        r"\sum_T \frac{1}{B} \sum_i \mathrm{KL}\left(p^t_i \,\middle\|\, p^s_i\right) + "
        r"\frac{\beta}{B} \left\| p^t {p^t}^\top - p^s {p^s}^\top \right\|_F^2 + "
        r"\frac{\gamma}{C} \left\| {p^t}^\top p^t - {p^s}^\top p^s \right\|_F^2, \quad p = \mathrm{softmax}(z / T)"
    )
    complexity = "O(B·C·min(B, C)) a temperature, min(B, C)² memory"
    related = ("kd", "dist", "sp")
    paper = "Jin et al. 2023, Multi-Level Logit Distillation"
    year = 2023
    url = "https://openaccess.thecvf.com/content/CVPR2023/html/Jin_Multi-Level_Logit_Distillation_CVPR_2023_paper.html"

    def __init__(
        self,
        temperatures: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0),
        beta: float = 1.0,
        gamma: float = 1.0,
        *,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        if not isinstance(temperatures, (tuple, list)) or not temperatures:
            raise KdzooError(
                f"{self.label}: temperatures is {temperatures!r}; it must be a list of at least one, such as [2, 4]"
            )
        for temperature in temperatures:
            check_positive(self.label, temperatures=temperature)
        check_not_negative(self.label, beta=beta, gamma=gamma)
        self.temperatures = tuple(temperatures)
        self.beta = beta
        self.gamma = gamma

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        slots = student.new_ones(student.shape[:-1], dtype=torch.bool) if slots is None else slots
        # Flat before they are gathered, for other processes may have more positions. Each process has the whole value.
        student, teacher = (gather_rows(side.flatten(0, -2))[0] for side in (student, teacher))
        counted = gather_rows(slots.flatten().to(torch.uint8))[0].to(student.dtype)
        count = counted.sum().clamp_min(1)
        total = student.new_zeros(())
        for temperature in self.temperatures:
            log_s, log_t = (log_probabilities(side, temperature) for side in (student, teacher))
            ours, theirs = (side.exp() * counted.unsqueeze(-1) for side in (log_s, log_t))
            scale = temperature**2 if self.variant == "released" else 1.0
            total = total + scale * (kl(log_t, log_s) * counted).sum() / count
            total = total + self.beta * _apart(ours, theirs) / count
            total = total + self.gamma * _apart(ours.mT, theirs.mT) / student.shape[-1]
        return total


def _apart(a: Tensor, b: Tensor) -> Tensor:
    """‖a aᵀ - b bᵀ‖² of two (N, D), by matrices of the smaller of N and D."""
    # a aᵀ - b bᵀ = (d sᵀ + s dᵀ) / 2 of their difference and sum, which loses no digits where the two are close.
    d, s = a - b, a + b
    if len(a) <= a.shape[-1]:
        half = d @ s.mT
        return ((half + half.mT) ** 2).sum() / 4
    inner = d.mT @ s
    return ((d.mT @ d) * (s.mT @ s) + inner * inner.mT).sum() / 2
