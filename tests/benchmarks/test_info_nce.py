"""InfoNCE streamed over its keys against the matrix of all scores, forward and backward.

pytest tests/benchmarks/test_info_nce.py --benchmark-group-by=group

The last test holds time and memory at 16384 rows to their targets.
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
from kdzoo.bench.timing import peak_bytes

WIDTH = 128


def matrix_form(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss from the matrix of all scores, as it is usually written."""
    scores = F.normalize(student, dim=-1) @ F.normalize(teacher, dim=-1).T / 0.07
    return F.cross_entropy(scores, torch.arange(len(student)))


def stepper(loss: Callable[[Tensor, Tensor], Tensor], rows: int) -> tuple[Tensor, Tensor, Callable[[], None]]:
    torch.manual_seed(0)
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)

    def step() -> None:
        student.grad = None
        loss(student, teacher).backward()

    return student, teacher, step


@pytest.mark.parametrize("rows", [256, 1024, 4096])
@pytest.mark.parametrize("form", ["kernel", "matrix"])
def test_info_nce(benchmark: BenchmarkFixture, form: str, rows: int) -> None:
    student, teacher, step = stepper(kdzoo.create("info_nce") if form == "kernel" else matrix_form, rows)
    benchmark.group = f"info_nce, {rows} rows of width {WIDTH}, forward and backward"
    benchmark.pedantic(step, rounds=5, warmup_rounds=1)
    expected = torch.autograd.grad(matrix_form(student, teacher), student)[0]
    torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_takes_a_tenth_of_the_matrix_forms_memory_and_no_more_time() -> None:
    """The shortest of three calls in turn, which what else the machine does disturbs least."""
    steps = [stepper(loss, 16384)[2] for loss in (kdzoo.create("info_nce"), matrix_form)]
    times: list[list[float]] = [[], []]
    for _ in range(3):
        for step, found in zip(steps, times, strict=True):
            start = time.perf_counter()
            step()
            found.append(time.perf_counter() - start)
    ours, theirs = (min(found) for found in times)
    small, large = (peak_bytes(step, torch.device("cpu")) for step in steps)
    print(f"{ours:.2f} s and {small / 1e6:.0f} MB; the matrix form {theirs:.2f} s and {large / 1e6:.0f} MB")
    assert small <= large / 10
    assert ours <= 1.2 * theirs
