"""A CRD step, negatives scored as they are read against all of them gathered, forward and backward.

pytest tests/benchmarks/test_crd_nce.py --benchmark-group-by=group

Banks of 3668 and 67349 rows, as MRPC and SST-2 have. The last test holds time and memory to their targets.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytest_benchmark.fixture import BenchmarkFixture
from torch import Tensor, nn

import kdzoo
from kdzoo.bench.measure.workloads.crd_nce import naive
from kdzoo.bench.timing import peak_bytes

ROWS, DRAWN, WIDTH = 32, 4096, 768
BANKS = [3668, 67349]


class Gathered(nn.Module):
    """The loss with (B, K + 1, D) tensors, as it is usually written, with another's parameters and banks."""

    def __init__(self, like: Any) -> None:
        super().__init__()
        self.like = like

    def forward(self, student: Tensor, teacher: Tensor, *, sample_ids: Tensor, contrast_ids: Tensor) -> Tensor:
        sides = self.like.embed_student(student), self.like.embed_teacher(teacher)
        ours, theirs = (F.normalize(side, dim=-1) for side in sides)
        banks = self.like.student_bank, self.like.teacher_bank
        value = naive(
            ours, theirs, *banks, contrast_ids, torch.cat([self.like.z_student, self.like.z_teacher]), sample_ids
        )
        with torch.no_grad():
            for bank, new in zip(banks, (ours, theirs), strict=True):
                bank[sample_ids] = F.normalize(torch.lerp(new, bank[sample_ids], 0.5), dim=-1)
        return value


def steps(size: int) -> dict[str, Callable[[], Tensor]]:
    """A step of either form, which gives the student's gradient."""
    torch.manual_seed(0)
    kernel = kdzoo.create("crd", num_samples=size, num_negatives=DRAWN, student_dim=WIDTH, teacher_dim=WIDTH)
    student, teacher = torch.randn(ROWS, WIDTH, requires_grad=True), torch.randn(ROWS, WIDTH)
    given = {"sample_ids": torch.randperm(size)[:ROWS], "contrast_ids": torch.randint(size, (ROWS, DRAWN))}
    kernel(student, teacher, **given)  # from here on Z is known

    def step(loss: nn.Module) -> Tensor:
        student.grad = None
        loss(student, teacher, **given).backward()
        assert student.grad is not None
        return student.grad

    return {"kernel": lambda: step(kernel), "gathered": lambda: step(Gathered(kernel))}


@pytest.mark.parametrize("size", BANKS)
@pytest.mark.parametrize("form", ["kernel", "gathered"])
def test_crd(benchmark: BenchmarkFixture, form: str, size: int) -> None:
    benchmark.group = f"crd, {ROWS} rows with {DRAWN} negatives from banks of {size}, forward and backward"
    benchmark.pedantic(steps(size)[form], rounds=5, warmup_rounds=1)
    kernel, gathered = (steps(size)[name]() for name in ("kernel", "gathered"))
    torch.testing.assert_close(kernel, gathered, rtol=1e-3, atol=1e-3 * gathered.abs().max().item())


@pytest.mark.parametrize("size", BANKS)
def test_is_3_times_the_gathered_form_in_a_tenth_of_its_memory(size: int) -> None:
    """The shortest of five calls in turn, which what else the machine does disturbs least."""
    forms = steps(size)
    times: dict[str, list[float]] = {name: [] for name in forms}
    for _ in range(6):
        for name, step in forms.items():
            start = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - start)
    ratio = min(times["gathered"][1:]) / min(times["kernel"][1:])
    small, large = (peak_bytes(step, torch.device("cpu")) for step in forms.values())
    print(f"{size} rows: {ratio:.1f} times the gathered form, {small / 1e6:.1f} MB against {large / 1e6:.1f} MB")
    assert ratio >= 3
    assert small <= large / 10
