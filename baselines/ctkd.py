"""CTKD, curriculum temperature (Li et al. 2023): KD whose temperature learns to make it harder for the student."""

from __future__ import annotations

import math
from types import MappingProxyType

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.divergence import kl, log_probabilities
from kdzoo.losses.options import check_not_negative, check_positive, check_progress
from kdzoo.losses.reduction import masked_mean
from kdzoo.losses.registry import register

RISE = 10 / 240  # the authors' epochs of CIFAR-100


@register("ctkd")
class CTKD(DistillationLoss):
    """KD at one learned temperature, which goes where the loss is larger while the student makes it smaller.

        T²/B · Σ_i KL(softmax(zt_i / T) ‖ softmax(zs_i / T)),   T = T_min + (T_max - T_min) sigmoid(w)

    w is a parameter, 1 at the start as in the authors' code. An optimizer is handed its gradient times -λ, and the
    student's as it is. λ rises with the training, in the time that the loss has a weight:

        λ = λ_max · (1 - cos(π · min(1, progress / rise))) / 2

    As T rises the factor T² grows and the divergence shrinks, between which the authors' temperatures settle.
    ``loss.temperature`` is T as it is. An optimizer that takes steps of the size of its rate, such as Adam, moves w by
    about that much a step: at 5e-5 a thousand steps change T by 0.25 or so. In a loop of your own, give the loss's
    parameters a larger rate, in a group of their own.

    This is the paper's global temperature. The other form, a network that gives each row its own, is not here.

    Args:
        min_temperature: T_min, above 0.
        max_temperature: T_max, above T_min.
        max_reversal: λ_max, 0 or above; at 0 the temperature stays.
        rise: the share of the time in which λ rises, over 0 up to 1. By default 10 of 240 epochs, the authors' for
            CIFAR-100; where the training is a few epochs of fine-tuning, that is a few steps.
        variant: ``"paper"``, the only one. The authors' code counts λ in whole epochs.

    Shapes:
        student, teacher: (B, C), or (B, S, C) with an optional mask (B, S); at least two classes.
        progress: a number from 0 to 1, how much of the loss's time is over; an objective gives it. 1 without it,
            where λ = λ_max.

    Raises:
        KdzooError: for options or a progress out of range, unequal shapes, or one logit, which has no temperature.

    References:
        Li, Li, Yang, Zhao, Song, Luo, Li, Yang: Curriculum Temperature for Knowledge Distillation, section 3 and
        equations 8 to 11. https://arxiv.org/abs/2211.16231

    See also:
        ``kd``, the same at a fixed temperature; ``logit_std``, whose temperature is the logits' own deviation.

    Examples:
        >>> import kdzoo, torch
        >>> loss, student = kdzoo.create("ctkd"), torch.randn(8, 3, requires_grad=True)
        >>> loss(student, torch.randn(8, 3), progress=0.5).backward()
        >>> round(loss.temperature.item(), 2)
        15.62
    """

    extras = frozenset({"progress"})
    too_few = MappingProxyType({1: "learns a temperature of classes, and one logit has none; use kd"})
    formula = (
        r"\frac{T^2}{B} \sum_i \mathrm{KL}\left(\mathrm{softmax}(z^t_i / T) \,\middle\|\, "
        r"\mathrm{softmax}(z^s_i / T)\right), \quad T = T(w), \quad "
        r"w \leftarrow w + \eta \lambda \frac{\partial L}{\partial w}"
    )
    complexity = "O(B·C)"
    related = ("kd", "logit_std", "taid")
    paper = "Li et al. 2023, Curriculum Temperature for Knowledge Distillation"
    year = 2023
    url = "https://arxiv.org/abs/2211.16231"

    def __init__(
        self,
        min_temperature: float = 1.0,
        max_temperature: float = 21.0,
        max_reversal: float = 1.0,
        rise: float = RISE,
        *,
        variant: str = "paper",
    ) -> None:
        super().__init__(variant=variant)
        check_positive(self.label, min_temperature=min_temperature, max_temperature=max_temperature)
        if not max_temperature > min_temperature:
            raise KdzooError(f"{self.label}: max_temperature is {max_temperature}; it must be above min_temperature")
        check_not_negative(self.label, max_reversal=max_reversal)
        if not 0 < rise <= 1:
            raise KdzooError(f"{self.label}: rise is {rise}; it must be over 0 and at most 1")
        self.min_temperature = min_temperature
        self.max_temperature = max_temperature
        self.max_reversal = max_reversal
        self.rise = rise
        self.raw_temperature = nn.Parameter(torch.ones(()))

    @property
    def temperature(self) -> Tensor:
        """T as it is, without a gradient."""
        return self._bounded(self.raw_temperature.detach())

    def _bounded(self, raw: Tensor) -> Tensor:
        return self.min_temperature + (self.max_temperature - self.min_temperature) * raw.sigmoid()

    def compute(  # type: ignore[override]
        self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, progress: float = 1.0
    ) -> Tensor:
        check_progress(self.label, progress)
        student, teacher, slots = self.logits(student, teacher, mask)
        # On a tensor: of a number, torch.compile would make a new graph for every value.
        risen = (student.new_ones(()) * progress / self.rise).clamp_max(1.0)
        reversal = self.max_reversal * (1 - (math.pi * risen).cos()) / 2
        raw = self.raw_temperature.to(student.dtype)
        raw = raw.detach() + reversal * (raw.detach() - raw)  # of the same value, and a gradient of -λ
        temperature = self._bounded(raw)
        log_s, log_t = ((log_probabilities(side) / temperature).log_softmax(-1) for side in (student, teacher))
        return temperature**2 * masked_mean(kl(log_t, log_s), slots)
