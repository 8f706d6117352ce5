"""TAID, temporally adaptive interpolated distillation (Shing et al. 2025): a target on the way to the teacher."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooError
from kdzoo.kernels.divergence import LIMIT, divergence
from kdzoo.losses.divergence import Divergence
from kdzoo.losses.options import check_progress
from kdzoo.losses.reduction import mean_count
from kdzoo.losses.registry import register
from kdzoo.models.shape import ModelShape

EPSILON = 1e-15  # the authors'


@register("taid")
class TAID(Divergence):
    """Kullback-Leibler divergence from a target that moves from the student's own prediction to the teacher's.

        1/B · Σ_i KL(p_i ‖ s_i),   p_i = softmax(((1 - t) zs_i + t zt_i) / T)

    with s the softmax of the student's logits zs over T. The target p has no gradient. Its share t of the teacher rises
    with the training, in the time that the loss has a weight, and never falls:

        t = min(t_end, max(t_start + (t_end - t_start) progress, t' + Δ'))      t', Δ': those of the step before
        Δ = α sigmoid(m) (1 - t),   m = β m' + (1 - β) (J' - J)/J'              J: the value

    that is at least in a straight line, and faster while the value falls fast. What it has learned of the steps before
    (t' + Δ', J' and m') is in buffers ``t``, ``last`` and ``momentum``, which are saved with the loss and go on from
    there. The first step and one whose value is 0 or not finite teach it nothing. Each call in training mode is a step,
    as in the authors' code: micro-batches of one step are several, with the factor α each. In evaluation mode a call
    learns nothing. There is no T², and T is not in the paper. A one-logit task has no classes: there it is the mean
    squared difference of the logits, as in ``kd``.

    This is the paper's loss with its schedule of t, adaptive or not. Where the student samples the texts that it is
    trained on, that is the training's part.

    Args:
        t_start: t at the start, 0 up to but not 1. The authors' scripts take 0.4 for Phi-3 as the teacher, and 0.2 for
            Llama 2 and StableLM.
        t_end: t at the end, from ``t_start`` on and over 0, up to 1.
        alpha: α, 0 to 1, the most that one step adds.
        beta: β, 0 to 1, how slowly the momentum follows the value.
        adaptive: ``False`` is the straight line, without any buffers.
        temperature: T, above 0.
        variant: ``"paper"``; ``"released"`` is the authors' code, whose value J is without the target's entropy,
            -Σ p log s: it has the same gradient, and falls by other ratios.
        backend: ``"auto"``, ``"torch"`` or ``"triton"``: what computes the divergence.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S).
        progress: a number from 0 to 1, how much of the loss's time is over; an objective gives it. 1 without it,
            where t = t_end.

    Raises:
        KdzooError: for options or a progress out of range, or unequal shapes.

    References:
        Shing, Misaki, Bao, Yokoi, Akiba: TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge
        Transfer in Language Models, section 3. https://arxiv.org/abs/2501.16937

    See also:
        ``kd`` at T = 1, its t = 1; ``skew_kl``, which mixes probabilities by a fixed share; ``annealing``.

    Examples:
        >>> import kdzoo, torch
        >>> loss, student = kdzoo.create("taid"), torch.randn(8, 3, requires_grad=True)
        >>> loss(student, torch.randn(8, 3), progress=0.5).backward()
        >>> round(loss.t.item(), 4)
        0.7
    """

    fused = False
    extras = frozenset({"progress"})
    of_classes = ("temperature", "t_start", "t_end", "alpha", "beta", "adaptive", "variant")
    variants = ("paper", "released")
    formula = (
        r"\frac{1}{B} \sum_i \mathrm{KL}\left(p_i \,\middle\|\, p^s_i\right), \quad "
        r"p_i = \mathrm{softmax}\left((1 - t)\, z^s_i + t\, z^t_i\right)"
    )
    complexity = "O(B·C)"
    related = ("kd", "skew_kl", "annealing")
    paper = (
        "Shing et al. 2025, TAID: Temporally Adaptive Interpolated Distillation for Efficient Knowledge Transfer in "
        "Language Models"
    )
    year = 2025
    url = "https://arxiv.org/abs/2501.16937"

    t: Tensor
    last: Tensor
    momentum: Tensor

    def __init__(
        self,
        t_start: float = 0.4,
        t_end: float = 1.0,
        alpha: float = 5e-4,
        beta: float = 0.99,
        *,
        adaptive: bool = True,
        temperature: float = 1.0,
        variant: str = "paper",
        backend: str = "auto",
    ) -> None:
        super().__init__(temperature, variant=variant, backend=backend)
        if not 0 <= t_start < 1:
            raise KdzooError(f"{self.label}: t_start is {t_start}; it must be at least 0 and under 1")
        if not t_start <= t_end <= 1 or t_end == 0:
            raise KdzooError(f"{self.label}: t_end is {t_end}; it must be from t_start to 1, and over 0")
        for option, value in (("alpha", alpha), ("beta", beta)):
            if not 0 <= value <= 1:
                raise KdzooError(f"{self.label}: {option} is {value}; it must be from 0 to 1")
        self.t_start = t_start
        self.t_end = t_end
        self.alpha = alpha
        self.beta = beta
        self.adaptive = adaptive
        self.kind = "cross_entropy" if variant == "released" else "kl"
        if adaptive:
            # Not of shape (): torch.compile loses an update in place of a buffer that is one float64 number.
            self.register_buffer("t", torch.zeros(1))
            self.register_buffer("last", torch.full((1,), torch.inf))
            self.register_buffer("momentum", torch.zeros(1))

    def idle(self, student: ModelShape) -> dict[str, str]:
        found = {} if self.adaptive else dict.fromkeys(("alpha", "beta"), "t rises in a straight line")
        if self.t_start == self.t_end:
            found = dict.fromkeys(("alpha", "beta", "adaptive"), "t is t_start throughout")
        return found | super().idle(student)

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, progress: float = 1.0
    ) -> Tensor:
        check_progress(self.label, progress)
        if student.shape[-1] == 1:
            return super().compute(student, teacher, mask=mask)
        student, teacher, slots = self.logits(student, teacher, mask)
        t = self._share(student, progress)
        # Finite, so that a share of 0 takes no part of an infinite logit.
        own, other = (side.detach().clamp(-LIMIT, LIMIT) for side in (student, teacher))
        value = divergence(
            student,
            (1 - t) * own + t * other,
            self.kind,
            temperature=self.temperature,
            mask=mask,
            count=mean_count(student, slots),
            backend=self.backend,
        )
        if self.adaptive and self.training:
            self._learn(value, t)
        return value

    def _share(self, student: Tensor, progress: float) -> Tensor:
        """The teacher's share t, (1,)."""
        # On a tensor: of a number, torch.compile would make a new graph for every value.
        line = self.t_start + (self.t_end - self.t_start) * (student.new_ones(1) * progress)
        if self.adaptive:
            line = torch.maximum(line, self.t.to(line))
        return line.clamp_max(self.t_end)

    def _learn(self, value: Tensor, t: Tensor) -> None:
        """Take a step's value, that of all processes, into the buffers."""
        value, t = mean_over_processes(value).to(self.last), t.to(self.t)
        told = value.isfinite() & (value > 0)
        first = self.last.isinf()
        change = (self.last - value) / (self.last + EPSILON)
        momentum = torch.where(first, self.momentum, self.beta * self.momentum + (1 - self.beta) * change)
        step = torch.where(first, 0.0, self.alpha * momentum.sigmoid() * (1 - t))
        self.t.copy_(torch.where(told, (t + step).clamp_max(self.t_end), torch.maximum(self.t, t)))
        self.momentum.copy_(torch.where(told, momentum, self.momentum))
        self.last.copy_(torch.where(told, value, self.last))
