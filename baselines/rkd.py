"""Relational knowledge distillation (Park et al. 2019): distances and angles between the rows of a batch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdzoo.losses.registry import register
from kdzoo.losses.structure import GramLoss, real_pairs
from kdzoo.objectives.registry import register_recipe

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

PAPER = "Park et al. 2019, Relational Knowledge Distillation"
URL = "https://arxiv.org/abs/1904.05068"


@register("rkd_distance")
class RKDDistance(GramLoss):
    """Smooth-L1 between the student's and the teacher's pairwise distances, each in units of its own mean.

        1/B² · Σ_ij h(|s_i - s_j| / μ_s, |t_i - t_j| / μ_t)

    with h(a, b) = ½ (a - b)² up to a difference of 1 and linear beyond, and μ the mean distance of two different
    rows. The distance of two different rows is at least 1e-6 (the root of the 1e-12 of the authors' code), so that
    duplicates have a finite gradient: none.
    Layers and positions are compared each by itself, over the rows (of all processes) that are real there; the mean
    is over all pairs of all of them. One row alone has loss 0. Rows are not normalised first, as some code does.

    Args:
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation, equations 5 to 7. https://arxiv.org/abs/1904.05068

    See also:
        ``rkd_angle``, its companion; ``sp`` and ``cc``, on dot products.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("rkd_distance")(student, torch.randn(8, 32)).backward()
    """

    formula = (
        r"\frac{1}{B^2} \sum_{i,j} h\!\left(\frac{\lVert s_i - s_j \rVert}{\mu_s}, "
        r"\frac{\lVert t_i - t_j \rVert}{\mu_t}\right)"
    )
    complexity = "O(B²·D) a slot, B² memory"
    related = ("rkd_angle", "sp", "cc", "mgskd")
    paper, year, url = PAPER, 2019, URL
    relation = "distance"

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        return real_pairs(real)[:, own].sum()


@register("rkd_angle")
class RKDAngle(GramLoss):
    """Smooth-L1 between the cosines of the angles that all triplets of rows form in student and teacher.

        1/B³ · Σ_ijk h(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, t_k - t_i))

    with h(a, b) = ½ (a - b)² up to a difference of 1 and linear beyond. Triplets in which rows coincide, i = j among
    them, have cosine 0 and count. Layers and positions are compared each by itself, over the rows (of all processes)
    that are real there; the mean is over all triplets of all of them. One row alone has loss 0.

    No B³ tensor is made, forward or backward: the cosines come from the B×B distances, a tile at a time.

    Args:
        variant: ``"paper"``, the only one.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes it.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for shapes that do not fit.

    References:
        Park, Kim, Lu, Cho: Relational Knowledge Distillation, equations 8 and 9. https://arxiv.org/abs/1904.05068

    See also:
        ``rkd_distance``, its companion; ``mgskd``, angles of tokens and spans as well.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("rkd_angle")(student, torch.randn(8, 32)).backward()
    """

    formula = r"\frac{1}{B^3} \sum_{i,j,k} h\!\left(\cos(s_j - s_i, s_k - s_i), \cos(t_j - t_i, t_k - t_i)\right)"
    complexity = "O(B²·D + B³) a slot, B² memory"
    related = ("rkd_distance", "mgskd")
    paper, year, url = PAPER, 2019, URL
    relation = "angle"

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        return (real[:, own].sum(1) * real.sum(1).to(dtype) ** 2).sum()


@register_recipe("rkd")
def recipe() -> Recipe:
    """Labels, distances and angles of the last CLS state, with the published weights."""
    from kdzoo.objectives.recipe import Citation, Recipe, Source, Stage, TermSpec

    return Recipe(
        name="rkd",
        title="labels, and distances and angles between the rows' last CLS states",
        citation=Citation(
            authors="Park, W., Kim, D., Lu, Y., Cho, M.",
            title="Relational Knowledge Distillation",
            venue="CVPR",
            year=2019,
            url=URL,
        ),
        stages=(
            Stage(
                terms=(
                    TermSpec(loss="ce"),
                    TermSpec(loss="rkd_distance", weight=25.0),
                    TermSpec(loss="rkd_angle", weight=50.0),
                )
            ),
        ),
        notes="The weights are those of the paper's classification of images.",
        sources=(
            Source(
                origin="paper",
                where="image classification; RepDistiller has the same",
                of=("ce.weight", "rkd_distance.weight", "rkd_angle.weight"),
            ),
            Source(
                origin="ours",
                where="the vector before the head; the paper has the last of images",
                of=("rkd_distance.layers", "rkd_angle.layers"),
            ),
        ),
    )
