"""SquareHead (Kurtic et al. 2023): hidden states' squared error, relative to the teacher's size in each layer."""

from __future__ import annotations

import math
from typing import Any

from torch import Tensor

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.reduction import EPSILON
from kdzoo.losses.registry import register


@register("squarehead")
class SquareHead(DistillationLoss):
    """Squared error of a layer's hidden states over the squared norm of the teacher's: one ratio a layer.

        ‖W hs - ht‖² / ‖ht‖²

    Both norms go over all valid tokens of the batch (of all processes) and the width, so that every layer weighs
    the same, however large its states. ‖ht‖ is clamped at 1e-12.

    Args:
        student_dim: width of the student's states.
        teacher_dim: width of the teacher's. Where the two differ W is learned (the paper's students are pruned and
            have the teacher's width); where they are equal there is none.
        bias: give W a bias.
        epsilon: added to the mean square of the teacher's states. The authors' training code adds 2⁻⁷, bfloat16's
            machine epsilon.
        variant: ``"paper"``; ``"released"`` is SparseML's modifier, the mean over the layers that it is given, times
            their number. (The authors' training code, too, adds the layers up, as an objective does with either.)

    Shapes:
        student, teacher: (B, D), or (B, S, D) with an optional mask (B, S), of one layer; (B, M, S, D) gives the
            mean of the ratios of M layers, or their sum if released.

    Raises:
        KdzooError: for shapes or widths that do not fit, or an epsilon below 0.

    References:
        Kurtic, Kuznedelev, Frantar, Goin, Alistarh: Sparse Fine-tuning for Inference Acceleration of Large Language
        Models, section 2. https://arxiv.org/abs/2310.06927

    See also:
        ``hidden_mse``, the absolute error; ``cosine``, which leaves lengths out.

    Examples:
        >>> import kdzoo, torch
        >>> states = torch.randn(4, 7, 16)
        >>> round(kdzoo.create("squarehead")(3 * states, states, mask=torch.ones(4, 7)).item(), 4)
        4.0
    """

    features = ("hidden", "cls")
    variants = ("paper", "released")
    formula = r"\frac{\lVert W h^s - h^t \rVert^2}{\lVert h^t \rVert^2}"
    complexity = "O(B·S·D)"
    related = ("hidden_mse", "cosine")
    paper = "Kurtic et al. 2023, Sparse Fine-tuning for Inference Acceleration of Large Language Models"
    year = 2023
    url = "https://arxiv.org/abs/2310.06927"

    def __init__(
        self,
        epsilon: float = 0.0,
        *,
        student_dim: int | None = None,
        teacher_dim: int | None = None,
        bias: bool = False,
        variant: str = "paper",
    ) -> None:
        super().__init__(student_dim=student_dim, teacher_dim=teacher_dim, bias=bias, variant=variant)
        if not 0 <= epsilon < math.inf:
            raise KdzooError(f"{self.label}: epsilon is {epsilon}; it must be 0 or a positive number")
        self.epsilon = epsilon

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        error = (student - teacher) ** 2
        if slots is not None:
            error = error.masked_fill(~slots.unsqueeze(-1), 0.0)  # a projection's bias is left there
        size = mean_over_processes(_by_layer(teacher**2)).clamp_min(EPSILON**2)
        if self.epsilon:
            counted = student.new_ones(student.shape[:-1]) if slots is None else slots.to(student.dtype)
            size = size + self.epsilon * student.shape[-1] * mean_over_processes(_by_layer(counted.unsqueeze(-1)))
        ratios = _by_layer(error) / size
        return ratios.sum() if self.variant == "released" else ratios.mean()


def _by_layer(values: Tensor) -> Tensor:
    """The sum of (B, M, S, D) for each layer, (M,); of one layer's values, ()."""
    return values.sum((0, 2, 3)) if values.dim() == 4 else values.sum()
