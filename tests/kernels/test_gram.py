"""What is the gram kernel's own: few rows, rows that coincide, its memory, small batches, the losses that call it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kdzoo
from kdzoo.bench.timing import peak_bytes
from kdzoo.kernels import backend
from kdzoo.kernels.backend import KernelError
from kdzoo.kernels.gram import MAX_ROWS, RELATIONS, decision, gram, gram_reference, squared_distances


def outcome(student: Tensor, teacher: Tensor, relation: str) -> tuple[Tensor, Tensor]:
    student = student.detach().requires_grad_()
    value = gram(student, teacher, relation, backend="torch")
    return value, torch.autograd.grad(value, student)[0]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("rows", [1, 2, 3])
def test_few_rows_and_zero_rows_have_small_errors_and_no_large_gradient(relation: str, rows: int) -> None:
    """Where the gradient is zero, or nearly, there is no relative error, so the battery leaves these out."""
    for zeros in (0, 1, rows):
        student, teacher = torch.randn(2, rows, 12), torch.randn(2, rows, 16)
        student[:, :zeros] = 0
        teacher[:, :zeros] = 0
        value, gradient = outcome(student, teacher, relation)
        wide = student.double().requires_grad_()
        expected = gram_reference(wide, teacher.double(), relation)
        torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=1e-6)
        (slope,) = torch.autograd.grad(expected, wide)
        torch.testing.assert_close(gradient.double(), slope, rtol=1e-4, atol=1e-6)


def test_close_rows_keep_their_angles() -> None:
    """Far from the others' mean, three rows make a triangle so small that products of rows do not show it."""
    student, teacher = torch.randn(8, 5), torch.randn(8, 5)
    student[:3] = 100 + 0.1 * torch.randn(3, 5)
    value, gradient = outcome(student, teacher, "angle")
    wide = student.double().requires_grad_()
    expected = gram_reference(wide, teacher.double(), "angle")
    (slope,) = torch.autograd.grad(expected, wide)
    torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=0)  # with products it is off by 1e-3
    torch.testing.assert_close(gradient.double(), slope, rtol=0, atol=1e-3 * slope.abs().max().item())


def test_rows_that_are_equal_but_for_rounding_have_no_angle() -> None:
    """Even where all rows are, whose distances then are nothing but rounding."""
    row = 5 + torch.rand(6)
    vectors = torch.stack([row, (row * 3) / 3, (row / 7) * 7, row * (1 + 1e-7)]).unsqueeze(0)
    for exact in (True, False):
        assert not squared_distances(vectors, torch.ones(1, 4, dtype=torch.bool), exact=exact)[1].any()


@pytest.mark.parametrize("relation", RELATIONS)
def test_memory_is_a_few_matrices(relation: str) -> None:
    student, teacher = torch.randn(384, 16, requires_grad=True), torch.randn(384, 16)

    def step() -> None:
        student.grad = None
        gram(student, teacher, relation, backend="torch").backward()

    step()
    assert peak_bytes(step, student.device) < 16 * 4 * len(student) ** 2  # of all triplets there are 384


def test_small_batches_are_left_to_the_plain_formula() -> None:
    small, large = torch.randn(8, 64), torch.randn(64, 768)
    assert "plain formula" in decision(small, "distance").reason
    assert "plain formula" not in decision(large, "distance").reason
    assert "plain formula" not in decision(small, "distance", "torch").reason


def test_more_rows_than_a_program_holds_are_left_to_pytorch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "obstacle", lambda tensor: None)
    many = torch.empty(MAX_ROWS + 1, 1, device="meta")
    assert decision(many, "angle", "triton").triton and not decision(many, "sp").triton
    with pytest.raises(KernelError, match=f"{MAX_ROWS + 1} rows are more than the {MAX_ROWS} of sp; use 'torch'"):
        decision(many, "sp", "triton")


@pytest.mark.parametrize("name", ["rkd_distance", "rkd_angle", "sp", "pkt", "cka"])
def test_the_losses_take_a_backend(name: str) -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    with pytest.raises(kdzoo.KdzooError, match=f"unknown backend of {name} 'tritn'; did you mean 'triton'"):
        kdzoo.create(name, backend="tritn")
    values = [kdzoo.create(name, backend=backend)(student, teacher) for backend in ("torch", "auto")]
    torch.testing.assert_close(*values)
