"""The kernels over rows against the same in plain PyTorch, forward and backward.

    pytest tests/benchmarks/test_rows.py --benchmark-group-by=group

One group a kernel and shape, so that the ratio of the two is read off it.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kdzoo.bench.measure.workloads import workload

CASES = (
    *(("divergence", shape) for shape in ("64x1000", "32x30522", "4x128256")),
    *((name, shape) for name in ("hidden_mse", "cosine", "normalized_mse") for shape in ("1024x768", "16x128x768")),
)


@pytest.mark.parametrize(("name", "shape"), CASES)
@pytest.mark.parametrize("provider", ["naive", "torch"])
def test_rows(benchmark: BenchmarkFixture, name: str, shape: str, provider: str) -> None:
    work = workload(name)
    torch.manual_seed(0)
    inputs = work.inputs(work.sizes(shape), torch.float32, torch.device("cpu"))
    student = inputs.pop("student").requires_grad_()
    run = work.provider(provider)

    def step() -> None:
        student.grad = None
        run(student=student, **inputs).backward()

    benchmark.group = f"{name} of {shape}, forward and backward"
    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
    expected = torch.autograd.grad(work.naive(student=student, **inputs), student)[0]
    torch.testing.assert_close(student.grad, expected, rtol=1e-3, atol=1e-3 * expected.abs().max().item())
