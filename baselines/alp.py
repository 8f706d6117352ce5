"""ALP-KD (Passban et al. 2021): each student layer learns from an attention-weighted mix of all teacher layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Passban et al. 2021, ALP-KD: Attention-Based Layer Projection for Knowledge Distillation"
URL = "https://arxiv.org/abs/2012.14022"


@register("alp")
class ALP(DistillationLoss):
    """Squared distance of each student layer to the teacher's layers, mixed by their attention weights.

        Σ_m 1/(B·D) · Σ_i ‖W s_im - Σ_n α_imn t_in‖²,   α_im = softmax_n(⟨W s_im, t_in⟩)

    m runs over the student's layers and n over the teacher's; each row, and each position where there are any, has
    weights of its own. On positions the mean is over the valid ones. The weights depend on the student, and the
    gradient of the formula flows through them as well: the student can come closer by turning its weights towards
    the nearest teacher layer. ``detach_weights`` stops that part.

    Args:
        detach_weights: take the weights α as given, without their gradient.
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is none.
        bias: give W a bias.
        variant: ``"paper"``, the only one: the authors released no code.

    Shapes:
        student: (B, M, D_s) of M layers, or (B, M, S, D_s) with an optional mask (B, S).
        teacher: (B, N, D), or (B, N, S, D); N may differ from M.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Passban, Wu, Rezagholizadeh, Liu: ALP-KD: Attention-Based Layer Projection for Knowledge Distillation.
        https://arxiv.org/abs/2012.14022

    See also:
        ``pkd``, one teacher layer for each of the student's; ``bert_emd``, weights from a transport problem;
        ``rail``, teacher layers drawn at random.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(4, 2, 16, requires_grad=True)
        >>> kdzoo.create("alp")(student, torch.randn(4, 6, 16)).backward()
    """

    features = ("cls", "hidden")
    many_to_many = True
    formula = (
        r"\sum_m \frac{1}{BD} \sum_i \Big\| W s_{im} - \sum_n \alpha_{imn} t_{in} \Big\|^2, \quad "
        r"\alpha_{im} = \operatorname{softmax}_n \langle W s_{im}, t_{in} \rangle"
    )
    complexity = "O(B·M·N·D)"
    related = ("pkd", "bert_emd", "rail")
    paper, year, url = PAPER, 2021, URL

    def __init__(
        self,
        *,
        detach_weights: bool = False,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.detach_weights = detach_weights

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, mask = self.layered(student, teacher, mask)
        student = self.projected(student, teacher)
        # (B, ..., M, D) and (B, ..., N, D): the layers beside the width, for the products.
        student, teacher = student.movedim(1, -2), teacher.movedim(1, -2)
        weights = (student @ teacher.mT).softmax(-1)
        mixed = (weights.detach() if self.detach_weights else weights) @ teacher
        return masked_mean((student - mixed).square().mean(-1).sum(-1), mask)


@register_recipe("alp")
def recipe() -> Recipe:
    """Labels, softened classes and all CLS states, at 0.1, 0.7 and 0.2."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="alp",
        title="labels, softened classes, and CLS states against attention-weighted teacher layers",
        citation=Citation(
            authors="Passban, P., Wu, Y., Rezagholizadeh, M., Liu, Q.",
            title="ALP-KD: Attention-Based Layer Projection for Knowledge Distillation",
            venue="AAAI",
            year=2021,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="ce", weight=0.1),
                    TermSpec(loss="kd", temperature=20.0, weight=0.7),
                    TermSpec(loss="alp", layers="all", weight=0.2),
                )
            ),
        ),
        student="teacher:0,1,2,3",
        training=Training(learning_rate=2e-5, batch_size=32, epochs=3, max_length=128),
        notes="The paper weighs the three terms by β, η and λ and searches them for each task, and its "
        "authors released "
        "no code; these are GLMKD's. GLMKD takes the cross-entropy of the softened classes without T², which makes "
        "that term next to nothing (soft_ce in the place of kd would do so); here it has T². "
        "alp.detach_weights=true keeps the gradient out of the attention weights.",
        sources=(
            Source(
                origin="other",
                where="GLMKD's readme and logs",
                of=("ce.weight", "kd.weight", "kd.temperature", "alp.weight"),
            ),
            Source(origin="paper", where="section 3: every layer of both", of=("alp.layers",)),
            Source(origin="other", where="GLMKD's readme: the teacher's first layers", of=("student",)),
            Source(origin="paper", where="experiments", of=("training.batch_size",)),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning",
                of=("training.learning_rate", "training.epochs", "training.max_length"),
            ),
        ),
    )
