"""LRC-BERT (Fu et al. 2021): the angular contrastive loss COS-NCE, the two-stage recipe and its ablations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes, processes, sum_over_processes
from kdzoo.errors import unknown
from kdzoo.kernels.backend import BACKENDS
from kdzoo.kernels.cos_nce import cos_nce, cos_nce_totals
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import register
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe, Source


@register("cos_nce")
class CosNCE(DistillationLoss):
    """Angular contrast (COS-NCE): towards the own teacher vector, away from those of the other rows.

        1/N · Σ_i [ 2 - 1.5 cos(W s_i, t_i) + 0.5 · mean_k cos(W s_i, t_k) ]

    which is the paper's (2K - (Σ_k g_k - K g)) / 2K + g with the distances g = 1 - cos. The negatives k are the
    other rows of the batch (of all processes) at the same layer and position, or ``negatives``. An anchor counts
    where its own row has a real token; its negatives are the other rows that have one there; the mean is over all
    N counted anchors of all layers and positions. Without a negative the last term is left out. A zero vector has
    cosine 0 with everything.

    The cosines enter linearly, so the sum over negatives is one dot product with the sum of all normalised teacher
    vectors: the cost grows with B·D, and no (B, B) matrix is made. All layers and positions are one operator, which
    writes the gradient with the value; half precision is read as it is and summed in float32.

    Args:
        student_dim: width of the student's vectors.
        teacher_dim: width of the teacher's. Where the two differ W is learned; where they are equal there is
            none.
        bias: give W a bias.
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are positions.
        negatives: (B, K, D of the teacher), the same K for all layers and positions of a row, or (B, K, ..., D)
            with those of each; in place of the batch's rows; without gradient.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Fu et al.: LRC-BERT: Latent-representation Contrastive Knowledge Distillation for Natural Language
        Understanding, equations 3 to 5. https://arxiv.org/abs/2012.07335

    See also:
        ``cosine``, its attracting half; ``info_nce``, which weighs hard negatives more.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("cos_nce", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "cls")
    extras = frozenset({"negatives"})
    contrastive = True
    fused = True
    formula = (
        r"\frac{1}{N} \sum_i \Big[ 2 - \tfrac{3}{2} \cos(W s_i, t_i) + "
        r"\tfrac{1}{2} \operatorname{mean}_{k \ne i} \cos(W s_i, t_k) \Big]"
    )
    complexity = "O(B·D) a slot: linear in the rows"
    related = ("cosine", "info_nce", "crd")
    paper = "Fu et al. 2021, LRC-BERT: Latent-representation Contrastive Knowledge Distillation"
    year = 2021
    url = "https://arxiv.org/abs/2012.07335"

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
        if backend not in BACKENDS:
            raise unknown(f"backend of {self.label}", backend, BACKENDS)
        self.backend = backend

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, negatives: Tensor | None = None
    ) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        teacher = teacher.to(student.dtype)
        negatives = None if negatives is None else negatives.to(teacher.dtype)
        totals = count = None
        if processes() > 1:
            counted = torch.ones_like(student[..., 0], dtype=torch.bool) if slots is None else slots
            # The mean, so that the average over processes, which is taken of the gradients, is the whole batch's.
            count = mean_over_processes(counted.sum())
            if negatives is None:
                total, rows = cos_nce_totals(teacher, mask=mask, backend=self.backend)
                totals = sum_over_processes(total), sum_over_processes(rows)
        return cos_nce(
            student, teacher, mask=mask, negatives=negatives, totals=totals, count=count, backend=self.backend
        )


@register_recipe("lrc")
def recipe() -> Recipe:
    """COS-NCE alone for 80 % of the updates, then with KD and the labels, on perturbed embeddings throughout."""
    from kdzoo.objectives.recipe import Citation, General, Perturbation, Recipe, Stage, TermSpec, Training

    contrast = TermSpec(loss="cos_nce", layers="uniform")
    return Recipe(
        name="lrc",
        title="angular contrast on every mapped layer, then with softened classes and labels; gradient perturbation",
        citation=Citation(
            authors="Fu, H., Zhou, S., Yang, Q., Tang, J., Liu, G., Liu, K., Li, X.",
            title="LRC-BERT: Latent-representation Contrastive Knowledge Distillation for Natural Language "
            "Understanding",
            venue="AAAI",
            year=2021,
            url="https://arxiv.org/abs/2012.07335",
        ),
        stages=(
            Stage(fraction=0.8, terms=(contrast,)),
            Stage(
                fraction=0.2,
                terms=(
                    contrast,
                    TermSpec(loss="kd", temperature=1.1),
                    TermSpec(loss="ce", weight=3.0),
                ),
            ),
        ),
        general=General(terms=(contrast,), training=Training(learning_rate=5e-5, max_length=128)),
        perturbation=Perturbation(norm="tensor"),
        student="4x312,heads=12,ffn=1200",
        training=Training(learning_rate=5e-5, warmup_ratio=0.1),
        notes="The paper leaves open over what the perturbation's norm goes (perturbation.norm), whether tokens or CLS "
        "are contrasted (lrc_cls has CLS) and whether the layers share a projection (cos_nce.shared=true). Here it is "
        "the whole batch, all tokens, a projection a layer. Tokens suit a student that represents tokens already, from "
        "the teacher's layers or general distillation; one from scratch learns more from CLS. The warm-up is a public "
        "reimplementation's. The general stage is the contrast alone, the one of its losses that needs neither labels "
        "nor classes; its hyper-parameters are those of the stages on a task.",
        sources=_sources(),
    )


def _sources() -> tuple[Source, ...]:
    from kdzoo.objectives.recipe import Source

    return (
        Source(
            origin="paper",
            where="the first 80 % of the training; α, β, γ and T of the experiments",
            of=(
                "stages.0.fraction",
                "stages.1.fraction",
                "cos_nce.weight",
                "kd.weight",
                "kd.temperature",
                "ce.weight",
            ),
        ),
        Source(origin="paper", where="every student layer, spread over the teacher's", of=("cos_nce.layers",)),
        Source(origin="ours", where="the paper leaves open over what its norm goes", of=("perturbation",)),
        Source(origin="paper", where="4 layers, width 312, feed-forward 1200", of=("student",)),
        Source(origin="paper", where="experiments", of=("training.learning_rate",)),
        Source(origin="other", where="BERT-gang's settings", of=("training.warmup_ratio",)),
        Source(
            origin="ours",
            where="those on a task; the paper has general distillation, and no numbers for it",
            of=("general.training.learning_rate", "general.training.max_length"),
        ),
    )


def _variant(name: str, title: str, notes: str = "", *more: Source, **changed: Any) -> Recipe:
    """The recipe `lrc` but for what is given, and its sources, of what is left of it, with more of them."""
    from kdzoo.objectives.sources import hyper_parameters, meant

    made = recipe().model_copy(update={"name": name, "title": title, "notes": notes} | changed)
    known = hyper_parameters(made)
    left = ((source, tuple(of for of in source.of if meant(of, known))) for source in _sources())
    kept = tuple(source.model_copy(update={"of": of}) for source, of in left if of)
    return made.model_copy(update={"sources": (*kept, *more)})


@register_recipe("lrc_cls")
def lrc_cls() -> Recipe:
    """LRC-BERT that contrasts CLS in place of all tokens."""
    from kdzoo.objectives.recipe import Source

    whole = recipe()
    contrast = whole.stages[0].terms[0]
    at_cls = type(contrast)(loss="cos_nce", feature="cls", layers="uniform", bias=True)
    assert whole.general is not None
    return _variant(
        "lrc_cls",
        "lrc on CLS in place of all tokens, with a biased projection a layer",
        "Feature, bias, batch size, epochs and warm-up are a public reimplementation's, which has no perturbation "
        "(perturbation=null).",
        Source(
            origin="other",
            where="BERT-gang's settings",
            of=("cos_nce.feature", "cos_nce.bias", "training.batch_size", "training.epochs"),
        ),
        stages=tuple(stage.model_copy(update={"terms": (at_cls, *stage.terms[1:])}) for stage in whole.stages),
        general=whole.general.model_copy(update={"terms": (at_cls,)}),
        training=whole.training.model_copy(update={"batch_size": 16, "epochs": 18.0}),
    )


@register_recipe("lrc_no_contrast")
def lrc_no_contrast() -> Recipe:
    """LRC-BERT's ablation without COS-NCE: without its only loss there is no first stage either."""
    last = recipe().stages[1]
    stage = last.model_copy(update={"fraction": 1.0, "terms": last.terms[1:]})
    return _variant(
        "lrc_no_contrast", "lrc without the contrast, and so without its first stage", stages=(stage,), general=None
    )


@register_recipe("lrc_no_kd")
def lrc_no_kd() -> Recipe:
    """LRC-BERT's ablation without the softened classes."""
    return _without("kd", "lrc without the softened classes")


@register_recipe("lrc_no_ce")
def lrc_no_ce() -> Recipe:
    """LRC-BERT's ablation without the labels."""
    return _without("ce", "lrc without the labels")


def _without(loss: str, title: str) -> Recipe:
    first, last = recipe().stages
    rest = tuple(term for term in last.terms if term.loss != loss)
    return _variant(f"lrc_no_{loss}", title, stages=(first, last.model_copy(update={"terms": rest})))


@register_recipe("lrc_one_stage")
def lrc_one_stage() -> Recipe:
    """LRC-BERT's ablation without the first stage: all of its losses from the start."""
    stage = recipe().stages[1].model_copy(update={"fraction": 1.0})
    return _variant("lrc_one_stage", "lrc with all of its losses from the start", stages=(stage,))


@register_recipe("lrc_unperturbed")
def lrc_unperturbed() -> Recipe:
    """LRC-BERT's ablation without the gradient perturbation."""
    return _variant("lrc_unperturbed", "lrc without gradient perturbation", perturbation=None)
