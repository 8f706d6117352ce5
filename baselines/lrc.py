"""LRC-BERT (Fu et al. 2021): the angular contrastive loss COS-NCE, gradient perturbation, the two-stage recipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

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
    from kdzoo.objectives.recipe import Recipe


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
    """COS-NCE alone for 80 % of the steps, then with KD and the labels, on perturbed embeddings throughout."""
    from kdzoo.objectives.recipe import Citation, General, Recipe, Stage, TermSpec, Training

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
        perturbation="gradient",
        student="4x312,heads=12,ffn=1200",
        training=Training(learning_rate=5e-5),
        notes="The perturbation has length one at every position, while an embedding's length grows with the root of "
        "the width: a narrow student is perturbed more, and one trained from scratch in few steps may learn little. "
        "perturbation=null leaves it out. The general stage is the contrast alone, the one of its losses that needs "
        "neither labels nor classes; its hyper-parameters are those of the stages on a task.",
    )
