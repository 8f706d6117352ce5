"""MiniLMv2 (Wang et al. 2021): relations among queries, among keys and among values, for any head counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.attention import (
    check_attention,
    check_qkv,
    check_shows_qkv,
    relation_difference,
)
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend, check_count
from kdzoo.losses.registry import register
from kdzoo.models.activations import QKV
from kdzoo.models.features import QKV_OF_LAYER
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

MOST_HEADS = 48  # that an objective takes by itself: the paper's for a base-sized teacher
RELATIONS = tuple(left + right for left in "qkv" for right in "qkv")


@register("minilmv2")
class MiniLMv2(DistillationLoss):
    """Divergence of query, key and value relations after splitting all heads anew.

        Σ_X 1/(H·N) · Σ_hq KL(Rt^X_hq ‖ Rs^X_hq),   R^X_h = softmax(X_h X_hᵀ / √d_h),   X in Q, K, V

    The vectors of all heads are joined and split into H relation heads of width d_h, on each side for itself, so
    that head counts and widths may differ. A sum over keys and over the relations, and a mean over the H relation
    heads and the N valid queries of the whole batch. The softmax is over valid keys alone.

    Args:
        relation_heads: H, which divides the width of both sides. An objective that is not given it takes the
            largest number up to 48 that does. (The paper takes 48 for a base-sized teacher and 64 for a large one.)
        relations: which relations, in two letters each: ``"qk"`` is what attention itself is made of.
        variant: ``"paper"``, the only one. (The training code was not released.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: a ``QKV`` of (B, A, S, d) tensors, A and d each side's own; mask (B, S), or (B, S, S). Of
            models that add more to their scores (DeBERTa-v2, MPNet, T5) an objective takes `Activations.raw_qkv`.

    Raises:
        KdzooError: for a width that H does not divide, shapes that do not fit, or scores instead of a ``QKV``.

    References:
        Wang et al.: MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained
        Transformers, equations 5 to 8. https://arxiv.org/abs/2012.15828

    See also:
        ``minilm``, on attention and values, head by head. The teacher's layer is a choice: the paper takes the
        last one of a base-sized teacher and layer 21 of 24 of BERT-large, as ``layers=[[5, 20]]`` for a student of
        six layers.

    Examples:
        >>> import kdzoo, torch
        >>> student = kdzoo.QKV(*(torch.randn(2, 2, 7, 6, requires_grad=True) for _ in range(3)))
        >>> teacher = kdzoo.QKV(*(torch.randn(2, 3, 7, 8) for _ in range(3)))
        >>> kdzoo.create("minilmv2", relation_heads=4)(student, teacher, mask=torch.ones(2, 7)).backward()
    """

    features = ("qkv",)
    raw_qkv = True
    fused = True
    top_only = True
    formula = (
        r"\sum_{X \in \{Q,K,V\}} \frac{1}{H N} \sum_{h,q} D_{\mathrm{KL}}(R^{t,X}_{hq} \| R^{s,X}_{hq}),"
        r"\quad R^X_h = \mathrm{softmax}(X_h X_h^\top / \sqrt{d_h})"
    )
    complexity = "O(B·S²·D)"
    related = ("minilm",)
    paper = "Wang et al. 2021, MiniLMv2: Multi-Head Self-Attention Relation Distillation"
    year = 2021
    url = "https://arxiv.org/abs/2012.15828"

    def __init__(
        self,
        relation_heads: int = 12,
        *,
        relations: tuple[str, ...] = ("qq", "kk", "vv"),
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(variant=variant)
        self.backend = check_backend(self.label, backend)
        check_count(self.label, relation_heads=relation_heads)
        for name in relations:
            if name not in RELATIONS:
                raise unknown(f"relation of {self.label}", name, RELATIONS)
        if not relations:
            raise KdzooError(f"{self.label}: relations is empty; name at least one of {', '.join(RELATIONS)}")
        self.relation_heads = relation_heads
        self.relations = tuple(relations)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, feature: str = "qkv", **context: Any
    ) -> dict[str, Any]:
        if feature != QKV_OF_LAYER:  # of a decoder there are no raw ones
            check_shows_qkv(cls.name, student, teacher)
        widths = student.hidden_size, teacher.hidden_size
        fitting = [heads for heads in range(1, min(widths) + 1) if not any(width % heads for width in widths)]
        options.setdefault("relation_heads", max(heads for heads in fitting if heads <= MOST_HEADS))
        if options["relation_heads"] not in fitting:
            raise KdzooError(
                f"{cls.name}: relation_heads={options['relation_heads']} does not divide both the student's width "
                f"{widths[0]} and the teacher's {widths[1]}; {', '.join(map(str, fitting))} do"
            )
        return options

    def compute(self, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        check_qkv(self.label, student, teacher)
        check_attention(self.label, student, teacher, mask)
        sides = self._split("student", student), self._split("teacher", teacher)
        losses = []
        for name in self.relations:
            left, right = "qkv".index(name[0]), "qkv".index(name[1])
            ours, theirs = (side[left] if left == right else (side[left], side[right]) for side in sides)
            losses.append(relation_difference(ours, theirs, mask, backend=self.backend))
        return sum(losses[1:], losses[0])

    def _split(self, name: str, side: QKV) -> QKV:
        """The vectors of all heads joined and split into the relation heads, each (B, H, S, D / H)."""
        for tensor in side:
            if tensor.shape[1] * tensor.shape[3] % self.relation_heads:
                raise KdzooError(
                    f"{self.label}: relation_heads={self.relation_heads} does not divide the {name}'s width "
                    f"{tensor.shape[1] * tensor.shape[3]}, the {tensor.shape[1]} heads of {tensor.shape[3]} in "
                    f"{tuple(tensor.shape)}"
                )
        joined = (tensor.transpose(1, 2).flatten(2) for tensor in side)
        return QKV(*(tensor.unflatten(-1, (self.relation_heads, -1)).transpose(1, 2) for tensor in joined))


@register_recipe("minilmv2")
def recipe() -> Recipe:
    """The relations of one layer alone, then fine-tuning."""
    from kdzoo.objectives.recipe import Citation, General, Recipe, Source, Stage, TermSpec, Training

    return Recipe(
        name="minilmv2",
        title="query, key and value relations of one layer, then the labels",
        citation=Citation(
            authors="Wang, W., Bao, H., Huang, S., Dong, L., Wei, F.",
            title="MiniLMv2: Multi-Head Self-Attention Relation Distillation for Compressing Pretrained Transformers",
            venue="Findings of ACL",
            year=2021,
            url="https://arxiv.org/abs/2012.15828",
        ),
        stages=(
            Stage(fraction=0.5, terms=(TermSpec(loss="minilmv2"),), lr_scheduler="constant"),
            Stage(fraction=0.5, terms=(TermSpec(loss="ce"),), lr_scheduler="linear"),
        ),
        general=General(
            terms=(TermSpec(loss="minilmv2"),),
            training=Training(learning_rate=6e-4, batch_size=256, warmup_ratio=0.01, weight_decay=0.01, max_length=512),
        ),
        student="6x384,heads=12",
        training=Training(learning_rate=5e-5, batch_size=32, epochs=10, max_length=128),
        notes="Published for pre-training text, where the relation loss stands alone (the general stage) and "
        "fine-tuning on the labels follows. On a task both run, each for half of the steps, which is this recipe's "
        "choice: the loss reaches neither the pooler nor the classification head, so it cannot do without the "
        "second stage. The number "
        "of relation heads is the largest up to the paper's 48 that divides both widths; a large teacher is "
        "distilled from an upper middle layer "
        "(minilmv2.layers=[[5, 20]]) with 64.",
        sources=(
            Source(origin="paper", where="its relations are added up without weights", of=("minilmv2.weight",)),
            Source(origin="paper", where="the last layer, of a base-sized teacher", of=("minilmv2.layers",)),
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
