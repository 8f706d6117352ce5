"""Probabilistic knowledge transfer (Passalis & Tefas 2018): each row's neighbours as a distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.losses.registry import register
from kdzoo.losses.structure import GramLoss, real_pairs


@register("pkt")
class PKT(GramLoss):
    """Divergence of the distributions over neighbours that the cosines between the rows define.

        1/B · Σ_i Σ_j p_ij · log((p_ij + ε) / (q_ij + ε)),   ε = 1e-7

    p of the teacher and q of the student: (1 + cos(x_i, x_j)) / 2, each row divided by its sum, the diagonal included.
    Layers and positions are compared each by itself, over the rows (of all processes) that are real there; the mean
    is over all rows of all of them. One row alone has loss 0.

    Args:
        variant: ``"released"`` is the authors' code: the mean over all B² entries, B times smaller, and the norms of
            the cosines have 1e-7 added. (The paper has the sum over all entries.)
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Passalis, Tefas: Learning Deep Representations with Probabilistic Knowledge Transfer, equations 3 to 6.
        https://arxiv.org/abs/1803.10837

    See also:
        ``info_nce``, whose neighbours are the teacher's rows; ``sp`` and ``cc``, squared differences.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("pkt")(student, torch.randn(8, 32)).backward()
    """

    variants = ("paper", "released")
    formula = (
        r"\frac{1}{B} \sum_{i,j} p_{ij} \log \frac{p_{ij} + \epsilon}{q_{ij} + \epsilon}, \quad "
        r"p_{ij} = \frac{1 + \cos(t_i, t_j)}{\sum_k (1 + \cos(t_i, t_k))}, \quad "
        r"q_{ij} = \frac{1 + \cos(s_i, s_j)}{\sum_k (1 + \cos(s_i, s_k))}"
    )
    complexity = "O(B²·D) a slot, B² memory"
    related = ("sp", "cc", "info_nce")
    paper = "Passalis & Tefas 2018, Learning Deep Representations with Probabilistic Knowledge Transfer"
    year = 2018
    url = "https://arxiv.org/abs/1803.10837"
    relation = "pkt"

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        return (real_pairs(real) if self.variant == "released" else real)[:, own].sum()
