"""Decoupled knowledge distillation (Zhao et al. 2022): the labelled class and the others, weighed apart."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import kl, log_probabilities
from kdzoo.losses.options import check_not_negative, check_positive
from kdzoo.losses.reduction import class_labels, masked_mean
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Zhao et al. 2022, Decoupled Knowledge Distillation"
URL = "https://arxiv.org/abs/2203.08679"


@register("dkd")
class DKD(DistillationLoss):
    """KL divergence taken apart: labelled class against the rest (TCKD), and within the rest (NCKD).

        T²/B · Σ_i [ α KL(b_t ‖ b_s) + β KL(p̂_t ‖ p̂_s) ]

    b = (p_y, 1 - p_y) with p the softmax of the logits over T and y the label; p̂ the softmax over the classes but y.
    ``kd`` is α = 1 with NCKD weighed by the teacher's 1 - p_y, which is small where the teacher is sure: DKD frees
    NCKD of it. Two classes leave one class but y, and NCKD empty.

    Args:
        alpha: α, the weight of TCKD, 0 or above.
        beta: β, the weight of NCKD, 0 or above. The authors take 0.5 to 8, more for a surer teacher.
        temperature: T, above 0.
        variant: ``"paper"``, the only one. The authors' code subtracts 1000 from the label's logit where this leaves
            the class out, which is the same but for logits that lie further apart.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S); at least three classes.
        labels: (B,), or (B, S): integers from 0 to C - 1.

    Raises:
        KdzooError: for one logit or two classes, options out of range, unequal shapes, or labels that are missing,
            no integers or (on a CPU) out of range.

    References:
        Zhao, Cui, Song, Qiu, Liang: Decoupled Knowledge Distillation, section 3.
        https://arxiv.org/abs/2203.08679

    See also:
        ``kd``, the undivided divergence; ``dist``, which works on two classes.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("dkd")(student, torch.randn(8, 3), labels=torch.randint(3, (8,))).backward()
    """

    needs = frozenset({"labels"})
    too_few = MappingProxyType(
        {
            1: "compares the classes besides the labelled one: one logit has no classes; use kd",
            2: "compares the classes besides the labelled one: two leave one besides the labelled class; use kd",
        }
    )
    every_class = True
    formula = (
        r"\frac{T^2}{B} \sum_i \alpha\, \mathrm{KL}\left(b^t_i \,\middle\|\, b^s_i\right) + \beta\, "
        r"\mathrm{KL}\left(\hat p^t_i \,\middle\|\, \hat p^s_i\right), \quad b = (p_y, 1 - p_y)"
    )
    complexity = "O(B·C)"
    related = ("kd", "logit_std", "dist")
    paper, year, url = PAPER, 2022, URL

    def __init__(
        self, alpha: float = 1.0, beta: float = 8.0, temperature: float = 4.0, *, variant: str = "paper"
    ) -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        check_not_negative(self.label, alpha=alpha, beta=beta)
        self.alpha = alpha
        self.beta = beta
        self.temperature = temperature

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, labels: Tensor
    ) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        labels = class_labels(self.label, student, labels, slots).unsqueeze(-1)
        own = labels == torch.arange(student.shape[-1], device=labels.device)
        (binary_s, others_s), (binary_t, others_t) = (self._apart(side, labels, own) for side in (student, teacher))
        # The labelled class is filled before the exponential, which might be infinite there.
        weights = others_t.masked_fill(own, -torch.inf).exp()
        nckd = (weights * (others_t - others_s).masked_fill(own, 0.0)).sum(-1)
        losses = self.alpha * kl(binary_t, binary_s) + self.beta * nckd
        return self.temperature**2 * masked_mean(losses, slots)

    def _apart(self, logits: Tensor, labels: Tensor, own: Tensor) -> tuple[Tensor, Tensor]:
        """log b (..., 2), and log p̂ (..., C), of which the labelled class's entry means nothing."""
        log_p = log_probabilities(logits, self.temperature)
        rest = log_p.masked_fill(own, -torch.inf).logsumexp(-1, keepdim=True)
        return torch.cat([log_p.gather(-1, labels), rest], dim=-1), log_p - rest


@register_recipe("dkd")
def recipe() -> Recipe:
    """Labels and DKD, which is phased in, with the authors' weights."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, WeightSchedule

    warmup = WeightSchedule(points=((0.0, 0.0), (0.083, 1.0), (1.0, 1.0)), interpolate=True)
    return Recipe(
        name="dkd",
        title="labels, and the labelled class and the others of the softened teacher apart",
        citation=Citation(
            authors="Zhao, B., Cui, Q., Song, R., Qiu, Y., Liang, J.",
            title="Decoupled Knowledge Distillation",
            venue="CVPR",
            year=2022,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(TermSpec(loss="ce"), TermSpec(loss="dkd", alpha=1.0, beta=8.0, temperature=4.0, weight=warmup))
            ),
        ),
        notes="For tasks of three classes or more (MNLI, of GLUE). Weights, temperature and the linear warm-up over 20 "
        "of 240 epochs are the authors' for CIFAR-100; from one teacher to another their β goes from 0.5 to 8.",
        sources=(
            Source(
                origin="authors",
                where="mdistiller/engine/cfg.py: CE 1, α 1, β 8, T 4, warm-up over 20 of 240 epochs",
                of=("ce.weight", "dkd.weight", "dkd.alpha", "dkd.beta", "dkd.temperature"),
            ),
        ),
    )
