"""Annealing-KD (Jafari et al. 2021): regression onto teacher logits that grow to their full size."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_progress
from kdzoo.losses.reduction import masked_mean, squared_differences
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Jafari et al. 2021, Annealing Knowledge Distillation"
URL = "https://arxiv.org/abs/2104.07163"


@register("annealing")
class Annealing(DistillationLoss):
    """Mean squared difference to the teacher's logits, scaled by a factor that rises to 1 as training goes on.

        1/(B·C) · Σ_ic (zs_ic - φ zt_ic)²,   φ = 1/T, 2/T, ... 1

    φ(t) = 1 - (t - 1)/T for a temperature t that falls from the T of ``max_temperature`` to 1 in T equal shares of the
    time that the loss has a weight. One logit is regressed onto like any other.

    Args:
        max_temperature: T, at least 1; 1 is ``logit_mse``.
        variant: ``"paper"``, the only one. The authors' code raises φ every ⌊epochs/T⌋ epochs, so that it passes 1
            where T does not divide the epochs; here it stops there.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).
        progress: a number from 0 to 1, how much of the loss's time is over; an objective gives it. 1 without it,
            where φ = 1.

    Raises:
        KdzooError: for a ``max_temperature`` under 1, a progress out of range, or unequal shapes.

    References:
        Jafari, Rezagholizadeh, Sharma, Ghodsi: Annealing Knowledge Distillation, section 3.
        https://arxiv.org/abs/2104.07163

    See also:
        ``logit_mse``, the same at φ = 1 throughout.

    Examples:
        >>> import kdzoo, torch
        >>> loss, logits = kdzoo.create("annealing", max_temperature=4), torch.ones(8, 3)
        >>> [loss(logits, 4 * logits, progress=progress).item() for progress in (0.0, 0.3, 1.0)]
        [0.0, 1.0, 9.0]
    """

    extras = frozenset({"progress"})
    every_class = True
    formula = r"\frac{1}{BC} \sum_{ic} \left(z^s_{ic} - \varphi z^t_{ic}\right)^2, \quad \varphi = \tfrac{1}{T} \dots 1"
    complexity = "O(B·C)"
    related = ("logit_mse", "kd")
    paper, year, url = PAPER, 2021, URL

    def __init__(self, max_temperature: int = 7, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        if max_temperature != int(max_temperature) or max_temperature < 1:
            raise KdzooError(
                f"{self.label}: max_temperature is {max_temperature}; it must be a whole number of 1 or more"
            )
        self.max_temperature = int(max_temperature)

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, progress: float = 1.0
    ) -> Tensor:
        check_progress(self.label, progress)
        student, teacher, slots = self.logits(student, teacher, mask)
        # On a tensor: of a number, torch.compile would make a new graph for every value.
        step = (student.new_ones(()) * progress * self.max_temperature).floor() + 1
        factor = (step / self.max_temperature).clamp_max(1.0)
        return masked_mean(squared_differences(student, teacher, factor), slots)


@register_recipe("annealing")
def recipe() -> Recipe:
    """Annealed regression, then the labels alone."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="annealing",
        title="regression onto teacher logits that grow in seven steps, then the labels alone",
        citation=Citation(
            authors="Jafari, A., Rezagholizadeh, M., Sharma, P., Ghodsi, A.",
            title="Annealing Knowledge Distillation",
            venue="EACL",
            year=2021,
            url=URL,
        ),
        stages=(
            Stage(fraction=0.78, terms=(TermSpec(loss="annealing", max_temperature=7),), lr_scheduler="linear"),
            Stage(fraction=0.22, terms=(TermSpec(loss="ce"),), lr_scheduler="linear"),
        ),
        student="distilbert/distilroberta-base",
        training=Training(learning_rate=2e-5, batch_size=32, epochs=18, max_length=128),
        notes="Fourteen epochs of the first stage and four of the second, as in the authors' script for GLUE. They go "
        "on from the first stage's best checkpoint with a new optimizer; here the second goes on from its last step. "
        "The student is one that was pre-trained by itself, beside a RoBERTa-large teacher.",
        sources=(
            Source(
                origin="authors",
                where="their script for GLUE: 14 epochs and 4",
                of=(
                    "stages.0.fraction",
                    "stages.1.fraction",
                    "annealing.max_temperature",
                    "training.learning_rate",
                    "training.batch_size",
                    "training.epochs",
                    "training.max_length",
                ),
            ),
            Source(
                origin="authors",
                where="their script: a linear rate in each phase",
                of=("stages.0.lr_scheduler", "stages.1.lr_scheduler"),
            ),
            Source(origin="paper", where="the only term of its stage", of=("annealing.weight", "ce.weight")),
            Source(origin="paper", where="its GLUE experiments: DistilRoBERTa", of=("student",)),
        ),
    )
