"""Knowledge distillation of Hinton et al. 2015: the teacher's softened class probabilities."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdzoo.errors import unknown
from kdzoo.losses.divergence import Divergence, check_problem_type
from kdzoo.losses.registry import register
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

REDUCTIONS = ("batchmean", "mean")


@register("kd")
class KD(Divergence):
    """Kullback-Leibler divergence from the teacher's softened classes to the student's, times T².

        T²/B · Σ_i KL(softmax(zt_i / T) ‖ softmax(zs_i / T))

    A sum over classes and a mean over rows. Dividing by B·C instead is the most common mistake in public
    code, and makes the term C times too light; ``reduction="mean"`` does so on purpose, for weights that were found
    with such code. A one-logit (regression) task has no classes to soften: there it is the mean squared difference
    of the logits, without T².

    Of several labels a row each label is by itself: T² times the binary cross-entropy with the teacher's probability at
    temperature T, mean over rows and labels, which has KL's gradient. Several numbers are as one: the mean squared
    difference.

    Args:
        temperature: T, above 0.
        problem_type: what the logits are, as transformers' configurations call it; an objective sets it. One logit is a
            number and more are classes when None.
        reduction: ``"batchmean"``, the sum over classes and mean over rows; or ``"mean"``, over classes as well, C
            times less. The words are those of ``torch.nn.KLDivLoss``.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for a temperature that is not positive, an unknown reduction, or unequal shapes.

    References:
        Hinton, Vinyals, Dean: Distilling the Knowledge in a Neural Network, section 2.
        https://arxiv.org/abs/1503.02531

    See also:
        ``soft_ce`` has the same gradient at T = 1; ``logit_mse`` is its limit for a high temperature.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> loss = kdzoo.create("kd", temperature=2.0)
        >>> loss(student, torch.randn(8, 3)).backward()
    """

    problem_types = (CLASSES, LABELS, NUMBERS)
    kind = "kl"
    of_classes = ("temperature", "reduction")
    formula = (
        r"\frac{T^2}{B} \sum_i \mathrm{KL}\left(\mathrm{softmax}(z^t_i / T) \,\middle\|\, "
        r"\mathrm{softmax}(z^s_i / T)\right)"
    )
    complexity = "O(B·C)"
    related = ("soft_ce", "reverse_kl", "jsd", "dkd", "logit_mse")
    paper = "Hinton et al. 2015, Distilling the Knowledge in a Neural Network"
    year = 2015
    url = "https://arxiv.org/abs/1503.02531"

    def __init__(
        self,
        temperature: float = 1.0,
        *,
        reduction: str = "batchmean",
        problem_type: str | None = None,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, variant=variant, backend=backend)
        self.problem_type = check_problem_type(self.label, problem_type)
        if reduction not in REDUCTIONS:
            raise unknown(f"reduction of {self.label}", reduction, REDUCTIONS)
        self.reduction = reduction

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        value = super().compute(student, teacher, mask=mask, **context)
        classes = student.shape[-1]
        if classes == 1 or self.problem_type == NUMBERS:
            return value
        if self.problem_type == LABELS:  # a mean over labels already
            return self.temperature**2 * value
        factor = self.temperature**2 / (classes if self.reduction == "mean" else 1)
        return value if factor == 1 else factor * value


@register_recipe("kd")
def recipe() -> Recipe:
    """Softened classes and labels, half each, at the temperature the paper found best for speech."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="kd",
        title="the teacher's softened classes with the labels",
        citation=Citation(
            authors="Hinton, G., Vinyals, O., Dean, J.",
            title="Distilling the Knowledge in a Neural Network",
            venue="NIPS Deep Learning Workshop",
            year=2015,
            url="https://arxiv.org/abs/1503.02531",
        ),
        stages=(Stage(terms=(TermSpec(loss="kd", temperature=2.0, weight=0.5), TermSpec(loss="ce", weight=0.5))),),
        tunable={"kd.weight": (0.125, 1.167), "kd.temperature": (1.0, 20.0)},
        notes="The paper's relative weight of 0.5 on the labels is read as half of the whole; it may also mean half of "
        "the other term's (kd.weight=1). It is of no encoder: for those the authors of PKD report KD alone with 0.7 on "
        "the classes at T 20 on MRPC, RTE and QQP, 0.5 at 10 on MNLI, 0.7 at 5 on QNLI and CoLA and 0.2 at 20 on SST-2 "
        "(their kd_6layer_all.csv; their KD is a mean over classes, kd.reduction=mean). A tuning seeks within "
        "these, from the paper's T = 1 on: kd.weight from 0.125 to 1.167 beside the labels' 0.5 is their proportion of "
        "0.2 to 0.8 up to 0.7 to 0.3.",
        sources=(
            Source(
                origin="paper",
                where="section 4, speech: the best of 1, 2, 5, 10; relative weight of 0.5 on the labels",
                of=("kd.temperature", "kd.weight", "ce.weight"),
            ),
        ),
    )
