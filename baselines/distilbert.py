"""DistilBERT (Sanh et al. 2019): hidden states that point the same way."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdzoo.kernels.cosine import cosine
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.reduction import mean_count
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe


@register("cosine")
class Cosine(DistillationLoss):
    """Mean of 1 - cosine between the student's and the teacher's hidden states.

        1/N · Σ_n (1 - cos(W hs_n, ht_n))

    over the N valid positions. A zero vector has cosine 0 with everything.

    Args:
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are
            positions.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Sanh et al.: DistilBERT, a distilled version of BERT, section 3. https://arxiv.org/abs/1910.01108

    See also:
        ``pkd``: on unit vectors the squared distance is twice this; ``cos_nce`` pushes other rows away as
        well.

    Examples:
        >>> import kdzoo, torch
        >>> states = torch.randn(4, 7, 16)
        >>> round(kdzoo.create("cosine")(-states, states, mask=torch.ones(4, 7)).item(), 4)
        2.0
    """

    features = ("hidden", "cls")
    fused = True
    formula = r"\frac{1}{N} \sum_n 1 - \cos(W h^s_n, h^t_n)"
    complexity = "O(B·S·D)"
    related = ("pkd", "cos_nce")
    paper = "Sanh et al. 2019, DistilBERT, a distilled version of BERT"
    year = 2019
    url = "https://arxiv.org/abs/1910.01108"

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        self.backend = check_backend(self.label, backend)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        count = mean_count(student, slots)
        return cosine(student, teacher.to(student.dtype), mask=mask, count=count, backend=self.backend)


@register_recipe("distilbert")
def recipe() -> Recipe:
    """The triple loss in its published proportions, with the labels in the place of masked words."""
    from kdzoo.objectives.recipe import Citation, General, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="distilbert",
        title="softened classes, labels, and the direction of the last hidden states",
        citation=Citation(
            authors="Sanh, V., Debut, L., Chaumond, J., Wolf, T.",
            title="DistilBERT, a distilled version of BERT: smaller, faster, cheaper and lighter",
            venue="NeurIPS EMC² Workshop",
            year=2019,
            url="https://arxiv.org/abs/1910.01108",
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="kd", temperature=2.0, weight=5.0),
                    TermSpec(loss="ce", weight=2.0),
                    TermSpec(loss="cosine", layers="uniform[-1]", weight=1.0),
                )
            ),
        ),
        general=General(
            terms=(
                TermSpec(loss="kd", temperature=2.0, weight=5.0),
                TermSpec(loss="mlm", weight=2.0),
                TermSpec(loss="cosine", layers="uniform[-1]", weight=1.0),
            ),
            training=Training(learning_rate=5e-4, epochs=3, warmup_ratio=0.05, max_length=512),
        ),
        student="teacher:0,2,4,7,9,11",
        training=Training(learning_rate=5e-5, batch_size=32, epochs=3, max_length=128),
        notes="Published for pre-training: KD, masked words and cosine at 5, 2 and 1 over every token, at temperature "
        "2: the general stage. On a task there are no masked words: the labels' cross-entropy stands in their place. "
        "The student starts from every other teacher layer, those that the authors' script takes of twelve. "
        "On one logit the temperature has no effect.",
        sources=(
            Source(
                origin="authors",
                where="their readme's command, and train.py's temperature",
                of=("kd.weight", "kd.temperature", "mlm.weight", "cosine.weight"),
            ),
            Source(origin="authors", where="distiller.py: the last hidden states", of=("cosine.layers",)),
            Source(
                origin="authors",
                where="train.py's defaults",
                of=("general.training.learning_rate", "general.training.epochs", "general.training.warmup_ratio"),
            ),
            Source(
                origin="authors", where="lm_seqs_dataset.py: the model's longest", of=("general.training.max_length",)
            ),
            Source(origin="authors", where="scripts/extract_distilbert.py", of=("student",)),
            Source(origin="ours", where="the labels in the place of the masked words", of=("ce.weight",)),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning",
                of=("training.learning_rate", "training.batch_size", "training.epochs", "training.max_length"),
            ),
        ),
    )
