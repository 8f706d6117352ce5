"""COS-NCE in its linear form against the rows-by-rows matrix, forward and backward.

    pytest tests/benchmarks/test_cos_nce.py --benchmark-group-by=group

One group a batch size, so that the ratio of the two is read off it; the linear form's own times over the groups
show its cost growing in proportion to the batch.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor

import kdzoo

WIDTH = 768


def matrix_form(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss from all cosines at once, as it is usually written."""
    cosines = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).T
    positive = cosines.diagonal()
    negative = (cosines.sum(1) - positive) / (len(student) - 1)
    return (2 - 1.5 * positive + 0.5 * negative).mean()


@pytest.mark.parametrize("rows", [256, 1024, 4096])
@pytest.mark.parametrize("form", ["linear", "matrix"])
def test_cos_nce(benchmark: BenchmarkFixture, form: str, rows: int) -> None:
    loss: Callable[[Tensor, Tensor], Tensor] = kdzoo.create("cos_nce") if form == "linear" else matrix_form
    torch.manual_seed(0)
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)

    def step() -> None:
        student.grad = None
        loss(student, teacher).backward()

    benchmark.group = f"cos_nce, {rows} rows of width {WIDTH}, forward and backward"
    benchmark.pedantic(step, rounds=20, warmup_rounds=3)
    expected = torch.autograd.grad(matrix_form(student, teacher), student)[0]
    torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-8)
