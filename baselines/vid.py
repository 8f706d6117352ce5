"""Variational information distillation (Ahn et al. 2019): predict the teacher's states, with a learned variance."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import affine, masked_mean
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

EPSILON = 1e-5
PAPER = "Ahn et al. 2019, Variational Information Distillation for Knowledge Transfer"
URL = "https://arxiv.org/abs/1904.05835"


@register("vid")
class VID(DistillationLoss):
    """Negative log-likelihood of the teacher's states under a normal distribution predicted from the student's.

        1/(N·D) · Σ_nd ½ [ log σ_d² + (ht_nd - μ_d(hs_n))² / σ_d² ]

    over the N valid positions, without the constant ½ log 2π. μ is a network of three linear layers without biases
    and two ReLUs between them; σ_d² = softplus(α_d) + 1e-5 is learned for each of the teacher's D widths, the same at
    all positions. Minimising it maximises a lower bound of the mutual information of the two.

    Args:
        student_dim: width of the student's states. Must be given.
        teacher_dim: width of the teacher's. Must be given.
        hidden_dim: width inside of μ; the teacher's when not given.
        init_variance: σ² at the start, above 1e-5.
        variant: ``"paper"``, the only one.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes or widths that do not fit, or options out of range.

    References:
        Ahn, Hu, Damianou, Lawrence, Dai: Variational Information Distillation for Knowledge Transfer, equations 3 to 6.
        https://arxiv.org/abs/1904.05835

    See also:
        ``hint`` and ``hidden_mse``, which hold σ fixed and μ linear.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("vid", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "cls")
    formula = (
        r"\frac{1}{ND} \sum_{nd} \frac{1}{2} \left[ \log \sigma_d^2 + "
        r"\frac{\left(h^t_{nd} - \mu_d(h^s_n)\right)^2}{\sigma_d^2} \right]"
    )
    complexity = "O(B·S·D²)"
    related = ("hint", "hidden_mse")
    paper, year, url = PAPER, 2019, URL

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        hidden_dim: int | None = None,
        init_variance: float = 5.0,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} learns a network between the widths: give student_dim= and teacher_dim=")
        hidden_dim = teacher_dim if hidden_dim is None else hidden_dim
        check_count(self.label, student_dim=student_dim, teacher_dim=teacher_dim, hidden_dim=hidden_dim)
        if not EPSILON < init_variance < math.inf:
            raise KdzooError(f"{self.label}: init_variance is {init_variance}; it must be above {EPSILON}")
        self.widths = (student_dim, teacher_dim)
        self.regressor = nn.Sequential(
            nn.Linear(student_dim, hidden_dim, bias=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, hidden_dim, bias=False),
            nn.ReLU(),
            nn.Linear(hidden_dim, teacher_dim, bias=False),
        )
        inside = init_variance - EPSILON
        self.log_scale = nn.Parameter(torch.full((teacher_dim,), inside + math.log(-math.expm1(-inside))))

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        return {"student_dim": student.hidden_size, "teacher_dim": teacher.hidden_size, **options}

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.paired(student, teacher, mask)
        if (student.shape[-1], teacher.shape[-1]) != self.widths:
            rule = f"do not fit student_dim={self.widths[0]}, teacher_dim={self.widths[1]}, which it was made with"
            raise self._mismatch(student, teacher, rule)
        mean = student
        for layer in self.regressor:
            mean = affine(layer, mean) if isinstance(layer, nn.Linear) else layer(mean)
        variance = F.softplus(self.log_scale.to(mean.dtype)) + EPSILON
        return masked_mean(((teacher - mean) ** 2 / variance + variance.log()).mean(-1) / 2, slots)


@register_recipe("vid")
def recipe() -> Recipe:
    """Labels and VID on every mapped layer, at weight 1 each."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="vid",
        title="labels, and the teacher's states of every mapped layer predicted with a learned variance",
        citation=Citation(
            authors="Ahn, S., Hu, S. X., Damianou, A., Lawrence, N. D., Dai, Z.",
            title="Variational Information Distillation for Knowledge Transfer",
            venue="CVPR",
            year=2019,
            url=URL,
        ),
        stages=(Stage(terms=(TermSpec(loss="ce"), TermSpec(loss="vid", layers="uniform"))),),
        notes="Weight 1 is that of RepDistiller's comparison; the paper searches it. Published for feature maps of "
        "images: the 1x1 convolutions are linear layers on each token here.",
        sources=(
            Source(origin="other", where="RepDistiller's run_cifar_distill.sh", of=("ce.weight", "vid.weight")),
            Source(origin="other", where="RepDistiller's distiller_zoo/VID.py", of=("vid.init_variance",)),
            Source(origin="ours", where="every mapped layer; there, the ends of the blocks", of=("vid.layers",)),
        ),
    )
