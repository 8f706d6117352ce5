"""What is infinite: a class at -inf on both sides is no class of its row; a vector of infinite length is no vector."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import kdzoo
from kdzoo.losses.reduction import unit_vectors

LOGIT_LOSSES = ["kd", "dkd", "logit_std", "logit_mse", "annealing", "jsd", "tvd", "reverse_kl", "soft_ce", "skew_kl",
                "ab", "akl", "nkd", "taid", "ctkd", "uld"]  # fmt: skip


def logits(classes: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (torch.randn(6, classes, generator=generator, dtype=torch.float64) for _ in range(2))
    return student.requires_grad_(), teacher, torch.randint(classes, (6,), generator=generator)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
@pytest.mark.parametrize("progress", [0.3, 1.0])
def test_a_class_at_minus_infinity_on_both_sides_adds_nothing(name: str, progress: float) -> None:
    loss = kdzoo.create(name)
    extras = {"progress": progress} if "progress" in loss.extras else {}
    student, teacher, labels = logits(5, 3)

    def value(own: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
        own = own.detach().clone().requires_grad_()
        found = loss(own, other, labels=labels, **extras)
        found.backward()
        assert own.grad is not None
        return found.detach(), own.grad

    expected, slope = value(student, teacher)
    none = torch.full((6, 1), -torch.inf, dtype=torch.float64)
    found, wider = value(torch.cat([student, none], 1), torch.cat([teacher, none], 1))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(wider[:, :5], slope)
    assert not wider[:, 5].any()


@pytest.mark.parametrize("name", ["cosine", "cos_nce", "pkd", "info_nce", "sp", "rkd_distance"])
@pytest.mark.parametrize("large", [torch.inf, -torch.inf, 3e38])
def test_a_vector_of_infinite_length_counts_as_zero(name: str, large: float) -> None:
    found = []
    for value in (large, 0.0):
        generator = torch.Generator().manual_seed(4)
        student, teacher = (torch.randn(6, 8, generator=generator) for _ in range(2))
        student[2] = value
        student.requires_grad_()
        loss = kdzoo.create(name)(student, teacher)
        loss.backward()
        found.append((loss.detach(), student.grad))
    (infinite, slope), (zero, other) = found
    torch.testing.assert_close(infinite, zero)
    assert slope is not None and other is not None and slope.isfinite().all()
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(slope[keep], other[keep])
    assert not slope[2].any()


def test_unit_vectors_of_infinite_and_zero_ones() -> None:
    vectors = torch.tensor([[3.0, 4.0], [torch.inf, 1.0], [0.0, 0.0]], requires_grad=True)
    found = unit_vectors(vectors)
    torch.testing.assert_close(found, torch.tensor([[0.6, 0.8], [0.0, 0.0], [0.0, 0.0]]))
    found[:, 0].sum().backward()
    plain = torch.tensor([[3.0, 4.0]], requires_grad=True)
    F.normalize(plain)[:, 0].sum().backward()
    assert vectors.grad is not None
    torch.testing.assert_close(vectors.grad[:1], plain.grad)
    assert not vectors.grad[1:].any()
