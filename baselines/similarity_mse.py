"""The similarity loss of Jasper and Stella (Zhang et al. 2024): the cosines between the rows of a batch."""

from __future__ import annotations

from torch import Tensor

from kdzoo.losses.reduction import unit_vectors
from kdzoo.losses.registry import register
from kdzoo.losses.structure import StructureLoss, real_pairs


@register("similarity_mse")
class SimilarityMSE(StructureLoss):
    """Mean squared difference of the cosines between the rows of a batch.

        1/B² · Σ_ij (cos(s_i, s_j) - cos(t_i, t_j))²

    Layers and positions are compared each by itself, over the rows (of all processes) that are real there; the mean
    is over all pairs of all of them, a row with itself included, which adds 0. One row alone has loss 0.

    The paper trains with 10 times ``cosine`` (a mean over rows in the authors' code, a sum in the paper), 200 times
    this and 20 times ``relative_similarity``; where the student's vectors are shorter than the teacher's, with the
    last two alone. Its teacher's vectors are those of two models, each normalised, then put side by side.

    Args:
        variant: ``"paper"``, the only one.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Zhang, Li, Zeng, Wang: Jasper and Stella: distillation of SOTA embedding models, equation 2.
        https://arxiv.org/abs/2412.19048

    See also:
        ``relative_similarity``, its companion; ``cosine``, each row by itself; ``sp``, ``pkt`` and ``cc``, which
        compare other functions of the dot products.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("similarity_mse")(student, torch.randn(8, 32)).backward()
    """

    formula = r"\frac{1}{B^2} \sum_{i,j} \left(\cos(s_i, s_j) - \cos(t_i, t_j)\right)^2"
    complexity = "O(B²·D) a slot, B² memory"
    related = ("relative_similarity", "sp", "cc", "pkt", "cosine")
    paper = "Zhang et al. 2024, Jasper and Stella: distillation of SOTA embedding models"
    year = 2024
    url = "https://arxiv.org/abs/2412.19048"

    def structure(self, student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        # What is not real is a zero vector, and its cosines 0, on both sides.
        ours, theirs = (unit_vectors(side) for side in (student, teacher))
        gap = ours[:, own] @ ours.mT - theirs[:, own] @ theirs.mT
        return (gap**2).sum(), real_pairs(real)[:, own].sum()
