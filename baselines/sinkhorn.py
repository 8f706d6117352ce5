"""SinKD (Cui et al. 2024): the optimal transport between the student's and the teacher's predictions of a batch."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_count, check_positive
from kdzoo.losses.registry import register

RELEASED_WEIGHT = 0.001


@register("sinkhorn")
class Sinkhorn(DistillationLoss):
    """Cost of carrying the student's predictions of a batch over to the teacher's, by Sinkhorn's iterations.

        1/B · Σ_ij P_ij · D_ij,   D_ij = Σ_c |p^s_ic - p^t_jc|

    p is the softmax of the logits over T, and P the plan that exp(-D/λ) becomes when, ``iterations`` times over, each
    student's row is divided by its sum and then each teacher's column by its own. The gradient goes through all of
    these steps. The batch is the rows of all processes, or with positions all their valid tokens.

    A row may be carried to any row's prediction, not to its own teacher's alone: the loss compares two sets, so it
    goes beside one that compares row by row (the authors add it to ``ce`` and ``kd``). It does not vanish where student
    and teacher agree, since λ spreads the plan over predictions that lie near each other; one row alone has the
    distance of its two predictions.

    Args:
        temperature: T, above 0; the loss is not scaled by its square.
        regularization: λ, above 0. The smaller, the nearer to the cheapest plan, and the more iterations that takes.
        iterations: how often rows and columns are normalised, at least 1.
        variant: ``"released"`` is the authors' code for GLUE: 0.001 · Σ_ij P_ij · D_ij, which grows with the batch.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, unequal shapes, or one logit, which has no classes.

    References:
        Cui, Qin, Gao, Zhang, Xu, Wu, Li, Sun, Zhou, Li: Sinkhorn Distance Minimization for Knowledge Distillation.
        https://arxiv.org/abs/2402.17110

    See also:
        ``tvd``, half the distance of each row's own predictions; ``dist``, another relation over the batch.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("sinkhorn")(student, torch.randn(8, 3)).backward()
    """

    contrastive = True
    too_few = MappingProxyType({1: "carries probabilities of classes, and one logit has none; use kd or logit_mse"})
    every_class = True
    variants = ("paper", "released")
    formula = (
        r"\frac{1}{B} \sum_{i,j} P_{ij} D_{ij}, \quad D_{ij} = \lVert p^s_i - p^t_j \rVert_1, \quad "
        r"P = \mathrm{diag}(u) \, e^{-D / \lambda} \, \mathrm{diag}(v)"
    )
    complexity = "O(B²·(C + iterations)), B²·iterations memory"
    related = ("tvd", "kd", "dist")
    paper = "Cui et al. 2024, Sinkhorn Distance Minimization for Knowledge Distillation"
    year = 2024
    url = "https://arxiv.org/abs/2402.17110"

    def __init__(
        self,
        temperature: float = 2.0,
        regularization: float = 0.1,
        iterations: int = 20,
        *,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        check_positive(self.label, temperature=temperature, regularization=regularization)
        check_count(self.label, iterations=iterations)
        self.temperature = temperature
        self.regularization = regularization
        self.iterations = iterations

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.logits(student, teacher, mask)
        # Flat before they are gathered, for other processes may have more positions.
        ours, theirs = (
            gather_rows((side / self.temperature).softmax(-1).flatten(0, -2))[0] for side in (student, teacher)
        )
        slots = student.new_ones(student.shape[:-1], dtype=torch.bool) if slots is None else slots
        counted = gather_rows(slots.flatten().to(torch.uint8))[0] != 0
        # Each process has the whole value: no share of the plan is one process's own.
        distances = torch.cdist(ours, theirs, p=1.0)
        total = (self._plan(distances, counted) * distances).sum()
        if self.variant == "released":
            return RELEASED_WEIGHT * total
        return total / counted.sum().clamp_min(1)

    def _plan(self, distances: Tensor, counted: Tensor) -> Tensor:
        """The plan between the rows that are counted, 0 elsewhere."""
        # In logarithms, since exp(-D/λ) is 0 for a small λ. What is not counted has no weight in any sum; its own sums
        # stay finite, as they would not with -inf.
        kernel = -distances / self.regularization
        weight = kernel.new_zeros(counted.shape).masked_fill(~counted, torch.finfo(kernel.dtype).min / 4)
        columns = kernel + weight
        rows = kernel + weight.unsqueeze(1)
        of_columns = torch.zeros_like(weight)
        for _ in range(self.iterations):
            of_rows = -_log_sum(columns + of_columns, 1)
            scaled = rows + of_rows.unsqueeze(1)
            of_columns = -_log_sum(scaled, 0)
        # The last step as a softmax: of a plan from sums of large numbers, rounding would make more than 1.
        return scaled.softmax(0).masked_fill(~(counted & counted.unsqueeze(1)), 0.0)


def _log_sum(values: Tensor, dim: int) -> Tensor:
    """``logsumexp`` with gradients that add up to one: torch's do not for equal values so large that log 2 is lost."""
    most = values.detach().amax(dim, keepdim=True)
    return (values - most).exp().sum(dim).log() + most.squeeze(dim)
