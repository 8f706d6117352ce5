"""The relative similarity loss of Jasper and Stella (Zhang et al. 2024): which pairs of rows are more alike."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.reduction import unit_vectors
from kdzoo.losses.registry import register
from kdzoo.losses.structure import StructureLoss, real_pairs


@register("relative_similarity")
class RelativeSimilarity(StructureLoss):
    """Hinge on the student's order of the pairs of rows, wherever the teacher finds one pair more alike than another.

        1/N · Σ_{t_a > t_b} max(0, s_b - s_a + margin),   N = ½ P (P - 1),   P = ½ B (B - 1)

    a and b are pairs of two different rows, s and t the student's and teacher's cosines of such a pair. Two pairs that
    the teacher finds exactly as alike add 0. The margin is the same whatever the teacher's difference is, so the loss
    does not vanish where student and teacher agree. Layers and positions are compared each by itself, over the rows
    (of all processes) that are real there; the mean is over all N of all of them. One row or two have loss 0.

    None of the N terms, of the order of B⁴, is made: the pairs are sorted, and counts of them give the value and its
    gradient exactly. Every process sorts and counts all of them.

    Args:
        margin: by how much the more similar pair should be ahead, 0 or above.
        variant: ``"released"`` is the authors' code, where of two pairs that the teacher finds as alike the later one,
            in the order of the batch, counts as more alike.

    Shapes:
        student: (B, D_s), (B, S, D_s), (B, M, D_s) or (B, M, S, D_s).
        teacher: the same in its own width; a mask (B, S) where there are positions.

    Raises:
        KdzooError: for a margin out of range, or shapes that do not fit.

    References:
        Zhang, Li, Zeng, Wang: Jasper and Stella: distillation of SOTA embedding models, equation 3.
        https://arxiv.org/abs/2412.19048

    See also:
        ``similarity_mse``, its companion, which says how the paper weighs the two; ``rkd_angle``, of triplets.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 16, requires_grad=True)
        >>> kdzoo.create("relative_similarity")(student, torch.randn(8, 32)).backward()
    """

    variants = ("paper", "released")
    formula = (
        r"\frac{1}{N} \sum_{t_i \cdot t_j > t_m \cdot t_n} "
        r"\max\left(0, s_m \cdot s_n - s_i \cdot s_j + \mathrm{margin}\right)"
    )
    complexity = "O(B²·(D + log B)) a slot, B² memory"
    related = ("similarity_mse", "rkd_angle", "pkt")
    paper = "Zhang et al. 2024, Jasper and Stella: distillation of SOTA embedding models"
    year = 2024
    url = "https://arxiv.org/abs/2412.19048"

    def __init__(self, margin: float = 0.015, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)
        if not 0 <= margin < math.inf:
            raise KdzooError(f"{self.label}: margin is {margin}; it must be a finite number, 0 or above")
        self.margin = margin

    def structure(self, student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        one, two = torch.triu_indices(real.shape[1], real.shape[1], 1, device=real.device).unbind(0)
        counted = real_pairs(real)[:, one, two]
        ours, theirs = (unit_vectors(side) for side in (student, teacher))
        ours, theirs = (ours @ ours.mT)[:, one, two], (theirs @ theirs.mT)[:, one, two]
        ranks = _ranks(theirs, counted, ties=self.variant == "paper")
        # Between its kinks the sum is linear in the cosines: each counts as often as it is too high, less as often as
        # it is too low.
        too_high, too_low = _violations(ours.detach(), ranks, counted, self.margin)
        # A process's share is that of the pairs whose first row is its own: where it has fewer positions than others,
        # it has no pairs.
        mine = (one >= own.start) & (one < own.stop)
        total = ((too_high - too_low) * ours)[:, mine].sum() + self.margin * too_low[:, mine].sum().to(ours.dtype)
        others = (counted.sum(1, keepdim=True) - 1) * counted  # of every two pairs each has a half
        # A teacher that is nan is above nothing, and would pass unseen.
        return total + 0.0 * theirs.sum(), others[:, mine].sum().to(ours.dtype) / 2


def _ranks(values: Tensor, counted: Tensor, *, ties: bool) -> Tensor:
    """The ranks from 0 on of the values (slots, P) that are counted, and P for the others.

    Args:
        values: any.
        counted: which of them count.
        ties: equal values have one rank; otherwise the later one has the higher rank.
    """
    most = values.shape[1]
    ordered, order = values.masked_fill(~counted, torch.inf).sort(dim=1, stable=True)
    steps = torch.ones_like(order)
    if ties:
        steps[:, 1:] = (ordered[:, 1:] != ordered[:, :-1]).long()
    ranks = torch.empty_like(order).scatter_(1, order, steps.cumsum(1) - 1)
    return ranks.masked_fill(~counted, most)


def _violations(values: Tensor, ranks: Tensor, counted: Tensor, margin: float) -> tuple[Tensor, Tensor]:
    """How many of a higher rank each value comes too close to, and how many of a lower rank come too close to it.

    Too close is ``values[low] > values[high] - margin``. It is read off one list of places in the sorted values, so
    that the two counts are of the same comparisons: two roundings of a difference would disagree about ties.

    Args:
        values: (slots, P).
        ranks: (slots, P), P where a value is not counted.
        counted: (slots, P) bool.
        margin: 0 or above.
    """
    most = values.shape[1]
    ordered, order = values.sort(dim=1)
    ranks, real = ranks.gather(1, order), counted.gather(1, order)
    places = torch.arange(most, device=values.device).expand_as(ranks).contiguous()
    # Those at or after `reach` are too close to a value from below; those before `end` are what it is too close to.
    reach = torch.searchsorted(ordered, ordered - margin, right=True)
    end = torch.searchsorted(reach, places, right=True)
    none, all_of_them = torch.zeros_like(places), torch.full_like(places, most)
    too_low = _how_many_below(ranks, reach, all_of_them, ranks)
    real_before = F.pad(real.long().cumsum(1), (1, 0))
    too_high = real_before.gather(1, end) - _how_many_below(ranks, none, end, ranks + 1)
    back = torch.empty_like(order).scatter_(1, order, places)
    too_high, too_low = (count.masked_fill(~real, 0).gather(1, back) for count in (too_high, too_low))
    return too_high, too_low


def _how_many_below(ranks: Tensor, start: Tensor, end: Tensor, bound: Tensor) -> Tensor:
    """For each query, how many of ``ranks[start:end]`` are below its bound; all are (slots, P).

    Bit by bit from the highest, the ranks are parted into those without and those with the bit, each in its old order,
    so that a query's range stays a range in the part that its bound is in; where the bound has the bit, all in the
    other part of the range are below it. (It is known as a wavelet matrix.)
    """
    most = ranks.shape[1]
    found, places = torch.zeros_like(ranks), torch.arange(most, device=ranks.device)
    bit = 1
    while bit <= most:
        bit *= 2
    while bit > 1:
        bit //= 2
        has = (ranks & bit) != 0
        without = F.pad((~has).long().cumsum(1), (1, 0))
        first_with = without[:, -1:]
        low_start, low_end = without.gather(1, start), without.gather(1, end)
        wanted = (bound & bit) != 0
        found = found + (low_end - low_start).masked_fill(~wanted, 0)
        start = torch.where(wanted, first_with + start - low_start, low_start)
        end = torch.where(wanted, first_with + end - low_end, low_end)
        place = torch.where(has, first_with + places - without[:, :-1], without[:, :-1])
        ranks = torch.empty_like(ranks).scatter_(1, place, ranks)
    return found
