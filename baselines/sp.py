"""Similarity-preserving distillation (Tung & Mori 2019): which rows of a batch are alike."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.losses.registry import register
from kdzoo.losses.structure import GramLoss, real_pairs


@register("sp")
class SimilarityPreserving(GramLoss):
    """Squared Frobenius distance of the row-normalised Gram matrices of student and teacher.

        1/B² · ‖ Ĝ_s - Ĝ_t ‖²,   G = X Xᵀ, each row divided by its L2 norm

    Layers and positions are compared each by itself, over the rows (of all processes) that are real there; the mean
    is over all entries of all of them. One row alone has loss 0. Rows are divided by their L2 norm, not their L1 norm
    as in some code.

    Args:
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Tung, Mori: Similarity-Preserving Knowledge Distillation, equations 1 to 4. https://arxiv.org/abs/1907.09682

    See also:
        ``cc``, ``pkt`` and ``cka``, which compare other functions of the same Gram matrices.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("sp")(student, torch.randn(8, 32)).backward()
    """

    formula = (
        r"\frac{1}{B^2} \lVert \hat G_s - \hat G_t \rVert_F^2, \quad "
        r"\hat G_i = (X X^\top)_i / \lVert (X X^\top)_i \rVert"
    )
    complexity = "O(B²·D) a slot, B² memory"
    related = ("cc", "pkt", "cka", "rkd_distance")
    paper = "Tung & Mori 2019, Similarity-Preserving Knowledge Distillation"
    year = 2019
    url = "https://arxiv.org/abs/1907.09682"
    relation = "sp"

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        return real_pairs(real)[:, own].sum()
