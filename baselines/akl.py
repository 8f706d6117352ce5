"""Adaptive Kullback-Leibler divergence (Wu et al. 2024): forward and reverse, weighed by where the sides differ."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.divergence import Divergence, kl, log_probabilities
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register


@register("akl")
class AKL(Divergence):
    """Forward and reverse KL, weighed by how much of the difference lies in the teacher's likely classes.

        1/B · Σ_i [ g_head KL(t_i ‖ s_i) + g_tail KL(s_i ‖ t_i) ] / (g_head + g_tail)
        g_head = Σ_(c in head) |t_ic - s_ic|,   g_tail that of the other classes

    with t and s the softmax of the logits over T. A row's head is the fewest classes, the teacher's likeliest, that
    together hold a probability of μ. Early in a training, forward KL fits the head first, and reverse KL the tail. The
    weights have no gradient, as in the authors' code. There is no T². A one-logit task has no classes: there it is the
    mean squared difference of the logits, as in ``kd``.

    Args:
        head: μ, over 0 and under 1.
        temperature: T, above 0.
        variant: ``"paper"``; ``"released"`` is the authors' code, whose head ends before the class with which it would
            pass μ, unless that is the first. (At equal sides that code divides 0 by 0; here it is 0.)

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, or unequal shapes.

    References:
        Wu, Tao, Wang, Yang, Zhao, Wong: Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large
        Language Models, section 4. https://arxiv.org/abs/2404.02657

    See also:
        ``kd`` at T = 1 and ``reverse_kl``, the two alone; ``jsd`` and ``ab``, between them with fixed weights.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("akl")(student, torch.randn(8, 3)).backward()
    """

    fused = False
    of_classes = ("temperature", "head", "variant")
    variants = ("paper", "released")
    formula = (
        r"\frac{1}{B} \sum_i \frac{g_i}{g_i + h_i} \mathrm{KL}\left(p^t_i \,\middle\|\, p^s_i\right) + "
        r"\frac{h_i}{g_i + h_i} \mathrm{KL}\left(p^s_i \,\middle\|\, p^t_i\right), \quad "
        r"g_i = \sum_{c \in \mathrm{head}} \left| p^t_{ic} - p^s_{ic} \right|, \quad "
        r"h_i = \sum_{c \in \mathrm{tail}} \left| p^t_{ic} - p^s_{ic} \right|"
    )
    complexity = "O(B·C·log C)"
    related = ("kd", "reverse_kl", "jsd", "ab")
    paper = "Wu et al. 2024, Rethinking Kullback-Leibler Divergence in Knowledge Distillation for Large Language Models"
    year = 2024
    url = "https://arxiv.org/abs/2404.02657"

    def __init__(self, head: float = 0.5, temperature: float = 1.0, *, variant: str = "paper") -> None:
        super().__init__(temperature, variant=variant)
        if not 0 < head < 1:
            raise KdzooError(f"{self.label}: head is {head}; it must be over 0 and under 1")
        self.head = head

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if student.shape[-1] == 1:
            return super().compute(student, teacher, mask=mask)
        student, teacher, slots = self.logits(student, teacher, mask)
        log_s, log_t = (log_probabilities(side, self.temperature) for side in (student, teacher))
        forward = self._share_of_head(log_s.detach().exp(), log_t.exp())
        return masked_mean(forward * kl(log_t, log_s) + (1 - forward) * kl(log_s, log_t), slots)

    def _share_of_head(self, s: Tensor, t: Tensor) -> Tensor:
        """How much of the sides' difference lies in the head, (...); a half where there is none."""
        t, order = t.sort(dim=-1, descending=True, stable=True)  # of equal classes the first is first
        gaps = (t - s.gather(-1, order)).abs()
        reached = t.cumsum(-1)
        before = F.pad(reached[..., :-1], (1, 0))
        in_head = before < self.head
        if self.variant == "released":
            in_head = (reached <= self.head) | (torch.arange(t.shape[-1], device=t.device) == 0)
        head, whole = gaps.masked_fill(~in_head, 0.0).sum(-1), gaps.sum(-1)
        return torch.where(whole > 0, head / whole, 0.5)
