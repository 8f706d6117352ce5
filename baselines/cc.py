"""Correlation congruence (Peng et al. 2019): Gaussian-kernel correlations between the rows of a batch."""

from __future__ import annotations

import math

from torch import Tensor

from kdzoo.losses.options import check_count, check_positive
from kdzoo.losses.reduction import unit_vectors
from kdzoo.losses.registry import register
from kdzoo.losses.structure import StructureLoss, real_pairs


@register("cc")
class CorrelationCongruence(StructureLoss):
    """Squared difference of the rows' correlations under a Gaussian kernel, to an order of its Taylor series.

        1/B² · Σ_ij (k(s_i, s_j) - k(t_i, t_j))²,   k(x, y) = e^(-2γ) · Σ_p (2γ)^p / p! · cos(x, y)^p

    p from 0 to ``order``; all orders together are exp(-γ ‖x̂ - ŷ‖²) of the normalised rows. Layers and positions are
    compared each by itself, over the rows (of all processes) that are real there; the mean is over all pairs of all
    of them. One row alone has loss 0. (Some code by this name multiplies the differences of *consecutive* rows, which
    depends on the order of the batch.)

    Args:
        gamma: γ, above 0.
        order: highest power of the cosine, at least 1.
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for options out of range, or shapes that do not fit.

    References:
        Peng et al.: Correlation Congruence for Knowledge Distillation, equations 6 and 11.
        https://arxiv.org/abs/1904.01802

    See also:
        ``sp``, which normalises the matrix instead of the rows; ``rkd_distance``.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("cc", order=3)(student, torch.randn(8, 32)).backward()
    """

    formula = (
        r"\frac{1}{B^2} \sum_{i,j} \left(k(s_i, s_j) - k(t_i, t_j)\right)^2, \quad "
        r"k(x, y) = e^{-2\gamma} \sum_{p=0}^{P} \frac{(2\gamma)^p}{p!} \cos(x, y)^p"
    )
    complexity = "O(B²·D) a slot, B² memory"
    related = ("sp", "pkt", "rkd_distance")
    paper = "Peng et al. 2019, Correlation Congruence for Knowledge Distillation"
    year = 2019
    url = "https://arxiv.org/abs/1904.01802"

    def __init__(self, gamma: float = 0.4, order: int = 2, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        check_positive(self.label, gamma=gamma)
        check_count(self.label, order=order)
        self.gamma = gamma
        self.order = order

    def structure(self, student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        # What is not real is a zero vector, and the same number, on both sides.
        gap = self._correlations(student) - self._correlations(teacher)
        return (gap[:, own] ** 2).sum(), real_pairs(real)[:, own].sum()

    def _correlations(self, vectors: Tensor) -> Tensor:
        vectors = unit_vectors(vectors)
        scaled = 2 * self.gamma * (vectors @ vectors.mT)
        series = scaled / self.order + 1
        for power in range(self.order - 1, 0, -1):
            series = series * scaled / power + 1
        return math.exp(-2 * self.gamma) * series
