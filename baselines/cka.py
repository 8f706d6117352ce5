"""Centred kernel alignment (Kornblith et al. 2019) as a loss: representations alike up to rotation and scale."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.gram import slot_shares
from kdzoo.losses.registry import register
from kdzoo.losses.structure import GramLoss


@register("cka")
class CKA(GramLoss):
    """One minus the linear centred kernel alignment of student and teacher.

        1 - ⟨K_s, K_t⟩ / (‖K_s‖ ‖K_t‖),   K = X̃ X̃ᵀ of the rows X̃ less their mean

    which is 1 - ‖S̃ᵀ T̃‖² / (‖S̃ᵀ S̃‖ ‖T̃ᵀ T̃‖), between 0 and 1. Layers and positions are compared each by itself, over
    the rows (of all processes) that are real there; the mean is over those with two rows or more. One row alone has
    loss 0; a side whose rows are all equal has loss 1.

    Args:
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Kornblith, Norouzi, Lee, Hinton: Similarity of Neural Network Representations Revisited, sections 3 and 4 (the
        biased estimate, as in the authors' code by default). https://arxiv.org/abs/1905.00414

    See also:
        ``sp``, not centred and normalised row by row.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("cka")(student, torch.randn(8, 32)).backward()
    """

    formula = (
        r"1 - \frac{\langle \tilde K_s, \tilde K_t \rangle_F}"
        r"{\lVert \tilde K_s \rVert_F \lVert \tilde K_t \rVert_F}"
    )
    complexity = "O(B²·D) a slot, B² memory"
    related = ("sp", "pkt", "cc")
    paper = "Kornblith et al. 2019, Similarity of Neural Network Representations Revisited"
    year = 2019
    url = "https://arxiv.org/abs/1905.00414"
    relation = "cka"

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        return slot_shares(real, own, dtype).sum()
