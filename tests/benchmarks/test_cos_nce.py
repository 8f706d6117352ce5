"""COS-NCE's kernel against the rows-by-rows matrix, forward and backward.

    pytest tests/benchmarks/test_cos_nce.py --benchmark-group-by=group

One group a batch size, so that the ratio of the two is read off it; the kernel's own times over the groups show its
cost growing in proportion to the batch. The last test holds both to their targets.
"""

from __future__ import annotations

import time
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
@pytest.mark.parametrize("form", ["kernel", "matrix"])
def test_cos_nce(benchmark: BenchmarkFixture, form: str, rows: int) -> None:
    loss: Callable[[Tensor, Tensor], Tensor] = kdzoo.create("cos_nce") if form == "kernel" else matrix_form
    torch.manual_seed(0)
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)

    def step() -> None:
        student.grad = None
        loss(student, teacher).backward()

    benchmark.group = f"cos_nce, {rows} rows of width {WIDTH}, forward and backward"
    benchmark.pedantic(step, rounds=20, warmup_rounds=3)
    expected = torch.autograd.grad(matrix_form(student, teacher), student)[0]
    torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-8)


def fastest(loss: Callable[[Tensor, Tensor], Tensor], rows: int, rounds: int) -> float:
    """The shortest of some forward and backward passes, in seconds."""
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)
    times = []
    for _ in range(rounds):
        student.grad = None
        start = time.perf_counter()
        loss(student, teacher).backward()
        times.append(time.perf_counter() - start)
    return min(times[1:])


def test_is_8_times_the_matrix_form_and_linear_in_the_rows() -> None:
    """The shortest times, which what else the machine does disturbs least; a quadratic form would take 16 times longer.

    The larger gradient no longer fits the caches, and its memory is new at each call.
    """
    kernel = kdzoo.create("cos_nce")
    quarter, whole = fastest(kernel, 4096, 20), fastest(kernel, 16384, 20)
    ratio = fastest(matrix_form, 4096, 6) / quarter
    print(f"{ratio:.1f} times the matrix form at 4096 rows; 4 times the rows take {whole / quarter:.2f} times as long")
    assert ratio >= 8
    assert whole / quarter <= 8
