"""Distillation from internal representations (Aguilar et al. 2020): attention and CLS states, in three schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from kdzoo.losses.attention import attention_difference, check_heads
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe, Source, Stage

SHARE = 6 / 7  # of the steps for the layers: a seventh for each of six, and one for the classes
MOVES = (
    " The paper goes on to the next layer at a threshold of the cosine loss or after a number of epochs, whichever "
    "comes first; here each layer gets an equal share of six sevenths of the steps, and the soft labels the rest."
)


@register("attention_kl")
class AttentionKL(DistillationLoss):
    """Kullback-Leibler divergence from the teacher's attention to the student's.

        1/(A·N) · Σ_aq KL(At_aq ‖ As_aq),   A = softmax(QKᵀ / √d)

    A sum over keys, and a mean over the A heads and the N valid queries of the whole batch. The softmax is
    over valid keys alone.

    Args:
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it of a ``QKV``.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors, or scores before the softmax (B, A, S, S), which
            may be off by a constant a row (logarithms of probabilities will do); mask (B, S), or (B, S, S).
            Of a text's attention to another they are (B, A, T, S) and the mask (B, T, S).

    Raises:
        KdzooError: for unequal head counts, or shapes that do not fit.

    References:
        Aguilar et al.: Knowledge Distillation from Internal Representations, equation 1.
        https://arxiv.org/abs/1910.03723

    See also:
        ``attention_mse``, on the scores themselves; ``attention_ce``, with the teacher's entropy left in; ``minilm``,
        with a relation of the values beside it.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(2, 4, 7, 7, requires_grad=True)
        >>> kdzoo.create("attention_kl")(student, torch.randn(2, 4, 7, 7), mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    cross_attention = True
    fused = True
    formula = r"\frac{1}{A N} \sum_{a=1}^{A} \sum_{q} D_{\mathrm{KL}}(A^t_{aq} \| A^s_{aq})"
    complexity = "O(B·A·S²·d)"
    related = ("attention_ce", "attention_mse", "minilm")
    paper = "Aguilar et al. 2020, Knowledge Distillation from Internal Representations"
    year = 2020
    url = "https://arxiv.org/abs/1910.03723"

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
        return attention_difference(self.label, student, teacher, mask, "kl", cross=True, backend=self.backend)


@register_recipe("ir_kd")
def recipe() -> Recipe:
    """All layers at once, with the soft labels."""
    return _recipe("ir_kd", "all layers at once", (_stage("together", classes=True),), "")


@register_recipe("ir_kd_progressive")
def progressive() -> Recipe:
    """One layer after the other, then the soft labels."""
    stages = (_stage("progressive", fraction=SHARE), _stage(classes=True, fraction=1 - SHARE))
    return _recipe("ir_kd_progressive", "one layer after the other", stages, MOVES, *_moves("progressive"))


@register_recipe("ir_kd_stacked")
def stacked() -> Recipe:
    """Layer upon layer, then the soft labels."""
    stages = (_stage("stacked", fraction=SHARE), _stage(classes=True, fraction=1 - SHARE))
    return _recipe("ir_kd_stacked", "layer upon layer", stages, MOVES, *_moves("stacked"))


def _moves(schedule: str) -> tuple[Source, ...]:
    from kdzoo.objectives.recipe import Source

    of = ("cosine.layer_schedule", "attention_kl.layer_schedule")
    return (
        Source(origin="paper", where=f"{schedule} internal distillation", of=of),
        Source(
            origin="other",
            where="GLMKD's sid_lim_e=avg: layers and classes get equal numbers of epochs",
            of=("stages.0.fraction", "stages.1.fraction"),
        ),
    )


def _stage(
    schedule: Literal["together", "progressive", "stacked"] | None = None,
    *,
    classes: bool = False,
    fraction: float = 1.0,
) -> Stage:
    from kdzoo.objectives.recipe import Stage, TermSpec

    layers = {"layers": "uniform", "layer_schedule": schedule}
    terms = (
        (TermSpec(loss="cosine", feature="cls", **layers), TermSpec(loss="attention_kl", **layers)) if schedule else ()
    )
    return Stage(fraction=fraction, terms=(*terms, TermSpec(loss="soft_ce")) if classes else terms)


def _recipe(name: str, title: str, stages: tuple[Stage, ...], notes: str, *more: Source) -> Recipe:
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Training

    return Recipe(
        name=name,
        title=f"CLS states and attention, {title}, and the soft labels",
        citation=Citation(
            authors="Aguilar, G., Ling, Y., Zhang, Y., Yao, B., Fan, X., Guo, C.",
            title="Knowledge Distillation from Internal Representations",
            venue="AAAI",
            year=2020,
            url="https://arxiv.org/abs/1910.03723",
        ),
        stages=stages,
        student="teacher:1,3,5,7,9,11",
        training=Training(learning_rate=5e-5, batch_size=32, epochs=10, max_length=128),
        notes="The cosine of the CLS states and the divergence of attention weigh alike, on every mapped layer, each "
        "student layer standing for two of the teacher's. The authors released no code." + notes,
        sources=(
            Source(
                origin="paper",
                where="both losses added up, layer by layer; the classes likewise",
                of=("cosine.weight", "cosine.feature", "attention_kl.weight", "soft_ce.weight"),
            ),
            Source(
                origin="paper",
                where="each student layer stands for as many of the teacher's",
                of=("cosine.layers", "attention_kl.layers"),
            ),
            Source(origin="other", where="GLMKD's readme, SID", of=("soft_ce.temperature",)),
            *more,
            Source(origin="ours", where="the teacher's layers that are learned from", of=("student",)),
            Source(
                origin="ours",
                where="unknown: no code was released, and the paper's own could not be read; within BERT's grid for "
                "fine-tuning but for the epochs",
                of=("training.learning_rate", "training.batch_size", "training.epochs", "training.max_length"),
            ),
        ),
    )
