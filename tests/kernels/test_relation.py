"""What is relation's own: its memory, axes before the positions, what it divides by, and the losses that call it."""

from __future__ import annotations

import pytest
import torch

import kdzoo
from kdzoo import QKV, KdzooError
from kdzoo.bench.timing import peak_bytes
from kdzoo.kernels.relation import BLOCK, decision, relation, relation_count, relation_reference


@pytest.mark.parametrize("kind", ["mse", "kl"])
def test_no_scores_are_held_but_a_block(kind: str) -> None:
    """Of 4 heads of 1024 positions a side's scores take 16 MB; four buffers of a block take 1 MB."""
    torch.set_num_threads(1)
    query, key = torch.randn(2, 1, 4, 1024, 8, requires_grad=True).unbind()
    teacher = torch.randn(1, 4, 1024, 8), torch.randn(1, 4, 1024, 8)

    def step() -> None:
        torch.autograd.grad(relation((query, key), teacher, kind=kind), (query, key))

    step()
    assert peak_bytes(step, query.device) < 4 * 4 * BLOCK + 40 * query.numel()


@pytest.mark.parametrize("axes", [(), (2,), (2, 3)])
def test_any_axes_between_rows_and_positions(axes: tuple[int, ...]) -> None:
    x, y = (torch.randn(3, *axes, 5, 4, dtype=torch.float64, requires_grad=True) for _ in range(2))
    teacher = torch.randn(3, *axes, 5, 6, dtype=torch.float64)
    mask = torch.arange(5) < torch.tensor([[5], [2], [3]])
    found = relation((x, y), (teacher, teacher.roll(1, -1)), mask=mask, backend="torch")
    right = relation_reference((x, y), (teacher, teacher.roll(1, -1)), mask=mask)
    torch.testing.assert_close(found, right)
    for one, two in zip(torch.autograd.grad(found, (x, y)), torch.autograd.grad(right, (x, y)), strict=True):
        torch.testing.assert_close(one, two)


@pytest.mark.parametrize("kind", ["mse", "kl", "ce"])
@pytest.mark.parametrize("backend", ["auto", "torch"])
@pytest.mark.parametrize("masked", ["tokens", "pairs", "none"])
def test_it_divides_by_the_count(kind: str, backend: str, masked: str) -> None:
    student, teacher = torch.randn(3, 2, 5, 4), torch.randn(3, 2, 5, 4)
    mask = {"tokens": torch.rand(3, 5) < 0.6, "pairs": torch.rand(3, 5, 5) < 0.4, "none": None}[masked]
    count = relation_count(student, mask=mask, kind=kind)
    whole = relation(student, teacher, mask=mask, kind=kind, backend=backend)
    half = relation(student, teacher, mask=mask, kind=kind, count=2 * count, backend=backend)
    torch.testing.assert_close(2 * half, whole)


def test_few_scores_are_left_to_the_formula() -> None:
    assert "plain formula" in decision(torch.randn(2, 2, 8, 4)).reason
    assert "plain formula" not in decision(torch.randn(2, 2, 8, 4), backend="torch").reason
    student, mask = torch.randn(8, 4, 32, 64), torch.ones(8, 32)
    assert "plain formula" in decision(student).reason and "plain formula" not in decision(student, mask).reason
    assert "plain formula" not in decision(torch.randn(1, 1, 1024, 8)).reason  # as few elements, but many scores


@pytest.mark.parametrize("name", ["attention_mse", "attention_kl", "attention_ce", "minilm", "minilmv2", "mobilebert"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_losses_read_half_precision_as_it_is_and_take_a_backend(name: str, dtype: torch.dtype) -> None:
    options = {"relation_heads": 4} if name == "minilmv2" else {}
    torch.manual_seed(0)
    student = QKV(*(torch.randn(4, 4, 33, 16, dtype=dtype, requires_grad=True) for _ in range(3)))
    teacher = QKV(*(torch.randn(4, 4, 33, 24, dtype=dtype) for _ in range(3)))
    wide = QKV(*(side.detach().double().requires_grad_() for side in student))
    value = kdzoo.create(name, backend="torch", **options)(student, teacher)
    right = kdzoo.create(name, **options)(wide, QKV(*(side.double() for side in teacher)))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value.double(), right, rtol=1e-5, atol=0)
    found = torch.autograd.grad(value, student.key)[0]
    expected = torch.autograd.grad(right, wide.key)[0]
    assert found.dtype == dtype
    assert (found.double() - expected).norm() < 1e-2 * expected.norm()
    with pytest.raises(KdzooError, match=f"unknown backend of {name} 'tritn'; did you mean 'triton'"):
        kdzoo.create(name, backend="tritn", **options)
