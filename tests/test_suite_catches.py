"""The conformance suite fails for mistakes that were seen in public code; a suite that passes everything is none."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from references import akl, cos_nce, cosine, hidden_mse, info_nce, kd
from torch import Tensor

from kdzoo import DistillationLoss
from kdzoo.baselines.lrc import CosNCE
from kdzoo.losses import registry
from kdzoo.losses.registry import loss_class
from kdzoo.testing import check_loss


class DividedByClasses(loss_class("kd")):
    def compute(self, *args: Any, **context: Any) -> Tensor:
        return super().compute(*args, **context) / args[0].shape[-1]


class DropsTheMask(DistillationLoss):
    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, _ = self.vectors(student, teacher, None)
        return F.mse_loss(student, teacher)


class LetsPaddingIn(DistillationLoss):
    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, _ = self.vectors(student, teacher, None)
        squares = ((student - teacher) ** 2).mean(-1)
        return squares.mean() if mask is None else (squares * mask).sum() / mask.sum().clamp_min(1)


class CutsPairsFromTheFirstPosition(DistillationLoss):
    """As MGSKD did: right for padding behind the text, and for none in front of it."""

    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        weights = torch.arange(student.shape[-2], dtype=student.dtype) % 2
        squares = ((student - teacher) ** 2).mean(-1) * weights
        return squares.sum() / (squares.numel() if slots is None else slots.sum().clamp_min(1))


class MeanOfRowMeans(DistillationLoss):
    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, slots = self.vectors(student, teacher, mask)
        squares = ((student - teacher) ** 2).mean(-1)
        if slots is None:
            return squares.mean()
        return ((squares * slots).sum(-1) / slots.sum(-1).clamp_min(1)).mean()


class NanForZero(DistillationLoss):
    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, _ = self.vectors(student, teacher, mask)
        return (1 - (student * teacher).sum(-1) / (student.norm(dim=-1) * teacher.norm(dim=-1))).mean()


class NoNegativeIsNan(CosNCE):
    def compute(self, student: Tensor, *args: Any, **context: Any) -> Tensor:
        return super().compute(student, *args, **context) + 0.0 / (len(student) - torch.ones(()))


class NeighboursInBatchOrder(loss_class("info_nce")):
    def compute(self, student: Tensor, teacher: Tensor, **context: Any) -> Tensor:
        return super().compute(student, teacher, **context) + (student[:-1] * student[1:]).sum()


class DoublesTheGradient(loss_class("akl")):
    def compute(self, *args: Any, **context: Any) -> Tensor:
        value = super().compute(*args, **context)
        return 2 * value - value.detach()


class LooksAtTheHost(DistillationLoss):
    features = ("hidden", "cls")

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        student, teacher, _ = self.vectors(student, teacher, None)
        return student.sum() if student.sum().item() > 0 else teacher.sum() - student.sum()


@pytest.mark.parametrize(
    ("wrong", "reference", "check"),
    [
        (DividedByClasses, kd, "matches_reference"),
        (DropsTheMask, hidden_mse, "matches_reference"),
        (DropsTheMask, hidden_mse, "ignores_padding"),
        (LetsPaddingIn, hidden_mse, "ignores_padding"),
        (CutsPairsFromTheFirstPosition, hidden_mse, "ignores_padding"),
        (DropsTheMask, hidden_mse, "refuses_a_mask_that_means_nothing"),
        (MeanOfRowMeans, hidden_mse, "matches_reference"),
        (MeanOfRowMeans, hidden_mse, "leaves_out_a_fully_masked_row"),
        (NanForZero, cosine, "is_finite_for_zero_vectors"),
        (NoNegativeIsNan, cos_nce, "takes_a_single_row"),
        (NeighboursInBatchOrder, info_nce, "does_not_depend_on_the_order_of_rows"),
        (DoublesTheGradient, akl, "has_the_gradient_of_its_value"),
        (LooksAtTheHost, hidden_mse, "compiles_as_one_graph"),
        (MeanOfRowMeans, hidden_mse, "is_documented"),
    ],
)
def test_a_wrong_loss_fails(
    wrong: type[DistillationLoss], reference: Any, check: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(registry._losses, "wrong", wrong)
    monkeypatch.setattr(wrong, "name", "wrong")
    torch.set_num_threads(1)
    with pytest.raises(AssertionError, match=f"wrong fails {check}, with KDZOO_SEED=0"):
        check_loss("wrong", reference, checks=[check], seed=0)
