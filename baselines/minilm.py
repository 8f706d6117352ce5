"""MiniLM (Wang et al. 2020): the last layer's attention and the relation of its values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdzoo.losses.attention import (
    attention_difference,
    check_heads,
    check_qkv,
    check_shows_qkv,
    relation_difference,
)
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

ADVICE = ", or use minilmv2, which splits the heads of both anew"


@register("minilm")
class MiniLM(DistillationLoss):
    """Divergence of the last layer's attention and of its value relation.

        1/(A·N) · Σ_aq [KL(At_aq ‖ As_aq) + KL(Rt_aq ‖ Rs_aq)],   A = softmax(QKᵀ / √d),  R = softmax(VVᵀ / √d)

    A sum over keys, and a mean over the A heads and the N valid queries of the whole batch. The softmax is
    over valid keys alone. Each side has its own d, so no projection is learned; the last layer of one is taken
    with the last layer of the other, whatever their depths.

    Args:
        variant: ``"paper"``, the only one. (The training code was not released.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors; mask (B, S), or (B, S, S).

    Raises:
        KdzooError: for unequal head counts, shapes that do not fit, or scores instead of a ``QKV``.

    References:
        Wang et al.: MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained
        Transformers, sections 3.1 and 3.2. https://arxiv.org/abs/2002.10957

    See also:
        ``minilmv2``, for any head counts; ``attention_kl``, the first half of this.

    Examples:
        >>> import kdzoo, torch
        >>> student = kdzoo.QKV(*(torch.randn(2, 4, 7, 3, requires_grad=True) for _ in range(3)))
        >>> teacher = kdzoo.QKV(*(torch.randn(2, 4, 7, 8) for _ in range(3)))
        >>> kdzoo.create("minilm")(student, teacher, mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    fused = True
    top_only = True
    formula = (
        r"\frac{1}{A N} \sum_{a,q} D_{\mathrm{KL}}(A^t_{aq} \| A^s_{aq}) + D_{\mathrm{KL}}(R^t_{aq} \| R^s_{aq}),"
        r"\quad R = \mathrm{softmax}(V V^\top / \sqrt{d})"
    )
    complexity = "O(B·A·S²·d)"
    related = ("minilmv2", "attention_kl")
    paper = "Wang et al. 2020, MiniLM: Deep Self-Attention Distillation"
    year = 2020
    url = "https://arxiv.org/abs/2002.10957"

    def __init__(self, *, variant: str = "paper", backend: str = "auto") -> None:
        super().__init__(variant=variant)
        self.backend = check_backend(self.label, backend)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        check_shows_qkv(cls.name, student, teacher)
        check_heads(cls.name, student.num_heads, teacher.num_heads, advice=ADVICE)
        return options

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        check_qkv(self.label, student, teacher)
        backend = self.backend
        attention = attention_difference(self.label, student, teacher, mask, "kl", backend=backend, advice=ADVICE)
        return attention + relation_difference(student.value, teacher.value, mask, backend=backend)


@register_recipe("minilm")
def recipe() -> Recipe:
    """The last layer's self-attention alone, then fine-tuning."""
    from kdzoo.objectives.recipe import Citation, General, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="minilm",
        title="attention and value relation of the last layer, then the labels",
        citation=Citation(
            authors="Wang, W., Wei, F., Dong, L., Bao, H., Yang, N., Zhou, M.",
            title="MiniLM: Deep Self-Attention Distillation for Task-Agnostic Compression of Pre-Trained Transformers",
            venue="NeurIPS",
            year=2020,
            url="https://arxiv.org/abs/2002.10957",
        ),
        stages=(
            Stage(fraction=0.5, terms=(TermSpec(loss="minilm"),), lr_scheduler="constant"),
            Stage(fraction=0.5, terms=(TermSpec(loss="ce"),), lr_scheduler="linear"),
        ),
        general=General(
            terms=(TermSpec(loss="minilm"),),
            training=Training(
                learning_rate=5e-4, batch_size=1024, warmup_ratio=0.01, weight_decay=0.01, max_length=512
            ),
        ),
        student="6x384,heads=12",
        training=Training(learning_rate=5e-5, batch_size=32, epochs=10, max_length=128),
        notes="Published for pre-training text, where the relation loss stands alone (the general stage) and "
        "fine-tuning on the labels follows. On a task both run, each for half of the steps, which is this recipe's "
        "choice: the loss reaches neither the pooler nor the classification head, so it cannot do without the "
        "second stage. The paper "
        "puts a teacher assistant between a large teacher and a student of at most half its depth and width.",
        sources=(
            Source(origin="paper", where="its relations are added up without weights", of=("minilm.weight",)),
            Source(origin="paper", where="the last layer, of a base-sized teacher", of=("minilm.layers",)),
            Source(
                origin="paper",
                where="its pre-training setup: 400 thousand steps, of which 4 thousand warm up",
                of=(
                    "general.training.learning_rate",
                    "general.training.batch_size",
                    "general.training.warmup_ratio",
                    "general.training.weight_decay",
                    "general.training.max_length",
                ),
            ),
            Source(origin="authors", where="their readme: a released student", of=("student",)),
            Source(
                origin="ours",
                where="half of the steps each, the first at a constant rate: not published on a task",
                of=("stages.0.fraction", "stages.0.lr_scheduler", "stages.1.fraction", "stages.1.lr_scheduler"),
            ),
            Source(origin="ours", where="the only term of its stage", of=("ce.weight",)),
            Source(
                origin="ours",
                where="within BERT's grid for fine-tuning, twice five epochs; the paper's own vary by task",
                of=("training.learning_rate", "training.batch_size", "training.epochs", "training.max_length"),
            ),
        ),
    )
