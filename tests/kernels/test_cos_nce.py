"""What is COS-NCE's own: totals of several processes, its memory, and the loss that calls it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import kdzoo
from kdzoo import KdzooError
from kdzoo.bench.timing import peak_bytes
from kdzoo.kernels.cos_nce import blocks, cos_nce, cos_nce_reference, cos_nce_totals, operator
from kdzoo.kernels.layout import divisor


@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 5), (7, 2, 3, 5)])
def test_totals_of_two_halves_make_the_whole(shape: tuple[int, ...]) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64, requires_grad=side) for side in (True, False))
    mask = (torch.rand(shape[0], shape[-2]) < 0.6) if len(shape) > 2 else None
    halves = [slice(0, 3), slice(3, 7)]
    masks = [None if mask is None else mask[half] for half in halves]
    parts = [cos_nce_totals(teacher[half], mask=m) for half, m in zip(halves, masks, strict=True)]
    totals = (parts[0][0] + parts[1][0], parts[0][1] + parts[1][1])
    slots = shape[1] if len(shape) == 4 else 1
    count = (
        torch.tensor(float(shape[0] * (shape[1:-1] or torch.Size([1])).numel())) if mask is None else mask.sum() * slots
    )
    value = sum(
        cos_nce(student[half], teacher[half], mask=m, totals=totals, count=count)
        for half, m in zip(halves, masks, strict=True)
    )
    whole = cos_nce_reference(student, teacher, mask=mask)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (value, whole)))


@pytest.mark.parametrize("shape", [(7, 5), (1, 5), (0, 5), (7, 3, 5), (7, 2, 3, 5)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_what_a_compiler_gets_is_what_the_operator_gives(shape: tuple[int, ...], dtype: torch.dtype) -> None:
    student, teacher = torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)
    mask = (torch.rand(shape[0], shape[-2]) < 0.6) if len(shape) > 2 else None
    if mask is not None:
        student[~mask if len(shape) == 3 else ~mask.unsqueeze(1).expand(shape[:-1])] = torch.nan
        student[0] = 0
    results = []
    for form in (operator._plain, cos_nce):
        leaf = student.detach().requires_grad_()
        value = form(leaf, teacher, mask=mask)
        value = value / divisor(leaf, mask, None) if form is operator._plain else value
        results.append((value, *torch.autograd.grad(value, leaf)))
    tight = {"rtol": 1e-12, "atol": 1e-12} if dtype == torch.float64 else {}
    for plain, ours in zip(*results, strict=True):
        torch.testing.assert_close(plain, ours, **tight)  # type: ignore[arg-type]


def test_memory_is_the_gradient_and_little_else() -> None:
    """Of few rows also their directions, which saves passes."""
    for rows, times in ((2048, 2.2), (blocks.MOST // 64 + 1, 1.3)):
        student, teacher = torch.randn(rows, 64, requires_grad=True), torch.randn(rows, 64)

        def step(student: Tensor = student, teacher: Tensor = teacher) -> None:
            student.grad = None
            cos_nce(student, teacher).backward()

        step()
        assert peak_bytes(step, student.device) < times * 4 * student.numel()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_loss_reads_half_precision_as_it_is(dtype: torch.dtype) -> None:
    """The gradient comes back in the input's type, of many rows too, whose share float16 could hardly hold."""
    torch.manual_seed(0)
    student, teacher = torch.randn(512, 16, dtype=dtype, requires_grad=True), torch.randn(512, 16, dtype=dtype)
    value = kdzoo.create("cos_nce")(student, teacher)
    (1024.0 * value).backward()
    wide = student.detach().double().requires_grad_()
    (1024.0 * cos_nce_reference(wide, teacher.double())).backward()
    assert student.grad is not None and wide.grad is not None and student.grad.dtype == dtype
    assert value.dtype == torch.float32
    assert (student.grad.double() - wide.grad).norm() < 1e-2 * wide.grad.norm()


def test_the_loss_takes_a_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(4, 6), torch.randn(4, 6)
    with pytest.raises(KdzooError, match="unknown backend of cos_nce 'tritn'; did you mean 'triton'"):
        kdzoo.create("cos_nce", backend="tritn")
    kdzoo.create("cos_nce", backend="torch")(student, teacher)
    monkeypatch.setenv("KDZOO_BACKEND", "fast")
    with pytest.raises(KdzooError, match="KDZOO_BACKEND=fast is not known"):
        kdzoo.create("cos_nce")(student, teacher)
