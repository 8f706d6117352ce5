"""RKD's angles without the tensor of all triplets, against it, forward and backward.

pytest tests/benchmarks/test_gram.py --benchmark-group-by=group
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


def explicit_form(student: Tensor, teacher: Tensor) -> Tensor:
    """The loss from the (B, B, D) differences and the (B, B, B) cosines, as it is usually written."""
    ours, theirs = (F.normalize(side.unsqueeze(0) - side.unsqueeze(1), dim=-1) for side in (student, teacher))
    return F.smooth_l1_loss(ours @ ours.mT, theirs @ theirs.mT)


@pytest.mark.parametrize("rows", [64, 256])
@pytest.mark.parametrize("form", ["tiles", "explicit"])
def test_rkd_angle(benchmark: BenchmarkFixture, form: str, rows: int) -> None:
    loss: Callable[[Tensor, Tensor], Tensor] = kdzoo.create("rkd_angle") if form == "tiles" else explicit_form
    torch.manual_seed(0)
    student, teacher = torch.randn(rows, WIDTH, requires_grad=True), torch.randn(rows, WIDTH)

    def step() -> None:
        student.grad = None
        loss(student, teacher).backward()

    benchmark.group = f"rkd_angle, {rows} rows of width {WIDTH}, forward and backward"
    benchmark.pedantic(step, rounds=5 if form == "tiles" else 2, warmup_rounds=int(form == "tiles"))
    if form == "tiles":
        expected = torch.autograd.grad(explicit_form(student, teacher), student)[0]
        torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())


def test_the_angles_of_256_rows_take_a_third_of_the_explicit_forms_time_or_less() -> None:
    """By the shortest of some calls, at a width that is kind to the explicit form."""
    student, teacher = torch.randn(256, 64, requires_grad=True), torch.randn(256, 64)
    shortest = []
    for form in (kdzoo.create("rkd_angle"), explicit_form):
        times = []
        for _ in range(4):
            start = time.perf_counter()
            form(student, teacher).backward()
            times.append(time.perf_counter() - start)
        shortest.append(min(times))
    print(f"rkd_angle of 256 rows: {1e3 * shortest[0]:.0f} ms, the explicit form {1e3 * shortest[1]:.0f} ms")
    assert 3 * shortest[0] < shortest[1]
