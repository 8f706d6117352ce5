"""FitNets' hint (Romero et al. 2015): a learned regressor from the student's hidden layer to the teacher's."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape


@register("hint")
class Hint(DistillationLoss):
    """Half the squared distance of the teacher's hidden state to what a regressor makes of the student's.

        1/N · Σ_n ½ ‖r(hs_n) - ht_n‖²,   r(h) = W h + b

    over the N valid positions, summed over the width. ``hidden_mse`` is the mean over the width without the half, D/2
    times less, and learns W where the widths differ; here r is always learned, so that a student of the teacher's
    width, too, need not copy its coordinates. (The paper's r is a convolution with the hint layer's nonlinearity; a
    transformer layer ends in none.)

    Args:
        student_dim: width of the student's states. Must be given.
        teacher_dim: width of the teacher's. Must be given.
        bias: give r a bias.
        variant: ``"paper"``, the only one; the authors' code sums over the channels and averages over the rest too.

    Shapes:
        student, teacher: (B, D), (B, S, D), (B, M, D) or (B, M, S, D); a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes or widths that do not fit.

    References:
        Romero et al.: FitNets: Hints for Thin Deep Nets, equation 3. https://arxiv.org/abs/1412.6550

    See also:
        ``hidden_mse``; ``vid``, which learns a variance as well.

    Examples:
        >>> import kdzoo, torch
        >>> loss = kdzoo.create("hint", student_dim=16, teacher_dim=32)
        >>> student = torch.randn(4, 7, 16, requires_grad=True)
        >>> loss(student, torch.randn(4, 7, 32), mask=torch.ones(4, 7)).backward()
    """

    features = ("hidden", "cls")
    formula = r"\frac{1}{N} \sum_n \frac{1}{2} \left\lVert W h^s_n + b - h^t_n \right\rVert^2"
    complexity = "O(B·S·D²)"
    related = ("hidden_mse", "vid")
    paper = "Romero et al. 2015, FitNets: Hints for Thin Deep Nets"
    year = 2015
    url = "https://arxiv.org/abs/1412.6550"

    def __init__(
        self,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = True,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        if student_dim is None or teacher_dim is None:
            raise KdzooError(f"{self.label} always learns a regressor: give student_dim= and teacher_dim=")
        check_count(self.label, student_dim=student_dim, teacher_dim=teacher_dim)
        self.projection = nn.Linear(student_dim, teacher_dim, bias=bias)

    @classmethod
    def fit(
        cls, options: dict[str, Any], *, student: ModelShape, teacher: ModelShape, **context: Any
    ) -> dict[str, Any]:
        return {"student_dim": student.hidden_size, "teacher_dim": teacher.hidden_size, **options}

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        return masked_mean(((student - teacher) ** 2).sum(-1) / 2, slots)
