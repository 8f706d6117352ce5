"""α-β divergence, of ABKD (Wang et al. 2025)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.losses.divergence import Divergence, log_probabilities
from kdzoo.losses.reduction import absent, masked_mean
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape


@register("ab")
class AB(Divergence):
    """α-β divergence: forward and reverse KL, squared Hellinger distance, squared differences, and all between them.

        1/B · Σ_i 1/(αβ) · Σ_c [ α/(α+β) t_c^(α+β) + β/(α+β) s_c^(α+β) - t_c^α s_c^β ]

    with t and s the softmax of the logits over T. Where α, β or α + β is 0, it is what that tends to:

        α = 1, β = 0    KL(t ‖ s)                   α = 0, β = 1    KL(s ‖ t)
        α = β = 1/2     2 Σ (√t - √s)²              α = β = 1       ½ Σ (t - s)²
        α = β = 0       ½ Σ (log t - log s)²

    Its slope at log s_c is s_c^β (s_c^α - t_c^α)/α: a larger β stresses classes of which the student is sure, a smaller
    α those in which the two sides are far apart. There is no T². A one-logit task has no classes: there it is the mean
    squared difference of the logits, as in ``kd``.

    Where an exponent, α, β or α + β, is negative, the value grows without bound as the probability under it goes to 0:
    sides that are sure can then make it infinite.

    Args:
        alpha: α, any number. The authors' scripts take α, β = 0.2, 0.7 for GPT-2 and 0.8, 0.3 for CIFAR-100.
        beta: β, any number.
        temperature: T, above 0.
        variant: ``"paper"``; ``"released"`` is the authors' code, which differs where an exponent is 0 and is no limit
            there: it is α times what this is at β = 0 and at α + β = 0, and β times at α = 0.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).

    Raises:
        KdzooError: for options out of range, or unequal shapes.

    References:
        Wang, Yang, Wang, Wang, Xu, Huang: ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge
        Distillation via α-β-Divergence. https://arxiv.org/abs/2505.04560
        Cichocki, Cruces, Amari: Generalized Alpha-Beta Divergences and Their Application to Robust Nonnegative Matrix
        Factorization, for the limits. https://doi.org/10.3390/e13010134

    See also:
        ``kd`` at T = 1, ``reverse_kl``, which it is at its corners; ``jsd`` and ``skew_kl``, which mix the two sides.

    Examples:
        >>> import kdzoo, torch
        >>> student = torch.randn(8, 3, requires_grad=True)
        >>> kdzoo.create("ab", alpha=0.8, beta=0.3)(student, torch.randn(8, 3)).backward()
    """

    fused = False
    of_classes = ("temperature", "alpha", "beta", "variant")
    variants = ("paper", "released")
    formula = (
        r"\frac{1}{B} \sum_i \frac{1}{\alpha\beta} \sum_c \frac{\alpha}{\alpha+\beta} (p^t_{ic})^{\alpha+\beta} + "
        r"\frac{\beta}{\alpha+\beta} (p^s_{ic})^{\alpha+\beta} - (p^t_{ic})^{\alpha} (p^s_{ic})^{\beta}"
    )
    complexity = "O(B·C)"
    related = ("kd", "reverse_kl", "jsd", "skew_kl")
    paper = (
        "Wang et al. 2025, ABKD: Pursuing a Proper Allocation of the Probability Mass in Knowledge Distillation via "
        "α-β-Divergence"
    )
    year = 2025
    url = "https://arxiv.org/abs/2505.04560"

    def __init__(
        self, alpha: float = 0.2, beta: float = 0.7, temperature: float = 1.0, *, variant: str = "paper"
    ) -> None:
        super().__init__(temperature, variant=variant)
        for option, value in (("alpha", alpha), ("beta", beta)):
            if not -math.inf < value < math.inf:
                raise KdzooError(f"{self.label}: {option} is {value}; it must be a finite number")
        self.alpha = alpha
        self.beta = beta

    @property
    def _factor(self) -> float:
        """What the authors' code multiplies a limit by."""
        if self.alpha == 0:
            return self.beta or 1.0
        return self.alpha if 0 in (self.beta, self.alpha + self.beta) else 1.0

    def idle(self, student: ModelShape) -> dict[str, str]:
        same = {"variant": "the authors' code is the paper's formula here"} if self._factor == 1 else {}
        return same | super().idle(student)

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if student.shape[-1] == 1:
            return super().compute(student, teacher, mask=mask)
        student, teacher, slots = self.logits(student, teacher, mask)
        none = absent(student, teacher)
        log_s, log_t = (log_probabilities(side, self.temperature).masked_fill(none, 0.0) for side in (student, teacher))
        terms: Tensor = _Terms.apply(log_s, log_t, self.alpha, self.beta)
        value = masked_mean(terms.sum(-1), slots)
        return value * self._factor if self.variant == "released" else value


class _Terms(torch.autograd.Function):
    """What each class adds, of the logarithms of both sides' probabilities.

    With d = log s - log t it is d² times the second divided difference of exp at the logarithms of t^(α+β), t^α s^β and
    s^(α+β). Of those it takes the largest as a factor, which does not overflow, and the distances between them: that
    has a value where two of them meet, as they do in the limits, and where all three do. The gradient, a first divided
    difference, has a form of its own, since that of this one would lose digits where d is small.
    """

    @staticmethod
    def forward(ctx: Any, log_s: Tensor, log_t: Tensor, alpha: float, beta: float) -> Tensor:
        ctx.save_for_backward(log_s, log_t)
        ctx.exponents = alpha, beta
        apart = log_s - log_t
        size = apart.abs()
        low, middle, high = sorted((0.0, beta, alpha + beta))  # how often d is added to the first of the three
        if low == high:
            return size.square() / 2

        def at(steps: float) -> Tensor:
            return (alpha + beta - steps) * log_t + steps * log_s

        rising = apart > 0
        largest = torch.where(rising, at(high), at(low))
        above, below = (high - middle) * size, (middle - low) * size
        near, far = torch.where(rising, above, below), torch.where(rising, below, above)
        wide = (_shrink(near) - (-near).exp() * _shrink(far)) / (high - low)
        # Where all three are close, that is a difference of equal numbers, and this is right to the square of what is
        # between them, over 36.
        tight = size / 2 * (-(2 * near + far) / 3).exp()
        close = near + far < (36 * torch.finfo(size.dtype).eps) ** (1 / 3)
        terms = size * torch.where(close, tight, wide) * largest.exp()
        return terms.masked_fill(size == 0, 0.0)  # not infinity times 0

    @staticmethod
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor | None, ...]:
        log_s, log_t = ctx.saved_tensors
        alpha, beta = ctx.exponents
        apart = log_s - log_t
        # (s^(α+β) - t^α s^β)/α, which is s^β d at α = 0.
        larger = torch.maximum((alpha + beta) * log_s, alpha * log_t + beta * log_s).exp()
        larger = larger.masked_fill((apart == 0) & larger.isinf(), 0.0)  # not infinity times 0
        return upstream * apart * _shrink((alpha * apart).abs()) * larger, None, None, None


def _shrink(size: Tensor) -> Tensor:
    """(1 - e^-u)/u of u from 0 on, 1 at 0."""
    none = size == 0
    size = size.masked_fill(none, 1.0)
    return torch.where(none, 1.0, -(-size).expm1() / size)
