"""DIST (Huang et al. 2022): correlation of the predictions over classes and over the batch."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows
from kdzoo.errors import KdzooWarning
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_not_negative, check_positive
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

EPSILON = 1e-8
PAPER = "Huang et al. 2022, Knowledge Distillation from A Stronger Teacher"
URL = "https://arxiv.org/abs/2205.10536"


@register("dist")
class DIST(DistillationLoss):
    """Pearson correlation of the probabilities, within each row (inter-class) and within each class (intra-class).

        T² · [ β/B · Σ_i (1 - ρ(p^s_i·, p^t_i·)) + γ/C · Σ_c (1 - ρ(p^s_·c, p^t_·c)) ]

    p is the softmax of the logits over T, ρ(a, b) = ā·b̄ / (‖ā‖ ‖b̄‖ + 1e-8) of the vectors less their means. The
    second sum correlates over the rows of the batch (of all processes), or with positions over all its valid tokens.
    One row alone correlates with nothing there and counts 1.

    With two classes p is (x, 1 - x): within a row ρ is 1 or -1 and has no gradient, so only the intra-class part
    teaches, and a `KdzooWarning` says so. One logit has no classes: there the loss is T² γ (1 - ρ) of the logits
    themselves over the batch, which leaves their scale to the other losses.

    Args:
        beta: β, the weight of the inter-class part, 0 or above.
        gamma: γ, the weight of the intra-class part, 0 or above.
        temperature: T, above 0.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, or unequal shapes.

    References:
        Huang, You, Wang, Qian, Xu: Knowledge Distillation from A Stronger Teacher, section 3.
        https://arxiv.org/abs/2205.10536

    See also:
        ``kd``, which asks for equal probabilities; ``logit_std``, which frees the logits of their scale alone.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("dist")(student, torch.randn(8, 3)).backward()
    """

    contrastive = True
    every_class = True
    formula = (
        r"T^2 \left[ \frac{\beta}{B} \sum_i \left(1 - \rho(p^s_{i\cdot}, p^t_{i\cdot})\right) + \frac{\gamma}{C} "
        r"\sum_c \left(1 - \rho(p^s_{\cdot c}, p^t_{\cdot c})\right) \right]"
    )
    complexity = "O(B·C)"
    related = ("kd", "dkd", "logit_std")
    paper, year, url = PAPER, 2022, URL

    def __init__(
        self, beta: float = 1.0, gamma: float = 1.0, temperature: float = 1.0, *, variant: str = "paper"
    ) -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature)
        check_not_negative(self.label, beta=beta, gamma=gamma)
        self.beta = beta
        self.gamma = gamma
        self.temperature = temperature

    @classmethod
    def fit(cls, options: dict[str, Any], *, student: ModelShape, **context: Any) -> dict[str, Any]:
        if student.num_labels == 2 and options.get("beta", 1.0):
            _warn_of_two_classes(cls.name)
        return options

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        classes = student.shape[-1]
        counted = student.new_ones(student.shape[:-1]) if slots is None else slots.to(student.dtype)
        value = student.new_zeros(())
        if classes > 1:
            student, teacher = ((side / self.temperature).softmax(-1) for side in (student, teacher))
            if classes == 2 and self.beta and not torch.compiler.is_compiling():
                _warn_of_two_classes(self.label)
            value = self.beta * masked_mean(1 - _inter(student, teacher), slots)
        return self.temperature**2 * (value + self.gamma * _intra(student, teacher, counted))


def _inter(student: Tensor, teacher: Tensor) -> Tensor:
    """The correlation within each row, (...) of (..., C)."""
    # Twice: what rounding leaves of a constant row would count against the 1e-8.
    student, teacher = (side - side.mean(-1, keepdim=True) for side in (student, teacher))
    student, teacher = (side - side.mean(-1, keepdim=True) for side in (student, teacher))
    norms = torch.linalg.vector_norm(student, dim=-1) * torch.linalg.vector_norm(teacher, dim=-1)
    return (student * teacher).sum(-1) / (norms + EPSILON)


def _intra(student: Tensor, teacher: Tensor, counted: Tensor) -> Tensor:
    """1 - the correlation within each class over what is counted in all processes, mean over classes; 0 of nothing."""
    weights = counted.flatten().unsqueeze(-1)
    count = _over_processes(weights)

    def centred(side: Tensor) -> Tensor:
        return (side - _over_processes(side * weights) / count.clamp_min(1)) * weights

    ours, theirs = (centred(centred(side.flatten(0, -2))) for side in (student, teacher))
    squares = [_over_processes(side * side) for side in (ours, theirs)]
    # The root's gradient at 0 is infinite.
    norms = [torch.where(square > 0, torch.where(square > 0, square, 1.0).sqrt(), 0.0) for square in squares]
    correlation = _over_processes(ours * theirs) / (norms[0] * norms[1] + EPSILON)
    return torch.where(count > 0, 1 - correlation, 0.0).mean()


def _over_processes(values: Tensor) -> Tensor:
    """The sum over the rows of all processes, with its gradient."""
    return gather_rows(values.sum(0, keepdim=True))[0].sum(0)


def _warn_of_two_classes(name: str) -> None:
    warnings.warn(
        f"{name}: the correlation within a row of two classes is 1 or -1 and has no gradient, so only the part over "
        "the batch teaches; kd compares the probabilities themselves",
        KdzooWarning,
        stacklevel=1,
    )


@register_recipe("dist")
def recipe() -> Recipe:
    """Labels and DIST with the weights of the paper's image classification."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="dist",
        title="labels, and the correlation with the teacher's probabilities over classes and over the batch",
        citation=Citation(
            authors="Huang, T., You, S., Wang, F., Qian, C., Xu, C.",
            title="Knowledge Distillation from A Stronger Teacher",
            venue="NeurIPS",
            year=2022,
            url=URL,
        ),
        stages=(Stage(terms=(TermSpec(loss="ce"), TermSpec(loss="dist", beta=2.0, gamma=2.0, temperature=1.0))),),
        notes="Weights 1, 2 and 2 at T = 1 are those of ImageNet. On two classes only the part over the batch teaches; "
        "on one logit it is the correlation of the scores.",
        sources=(
            Source(
                origin="paper",
                where="its ImageNet experiments",
                of=("ce.weight", "dist.weight", "dist.beta", "dist.gamma", "dist.temperature"),
            ),
        ),
    )
