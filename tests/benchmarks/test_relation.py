"""Attention's divergence from queries and keys, against both sides' whole scores, forward and backward.

    pytest tests/benchmarks/test_relation.py --benchmark-group-by=group

One group a shape, so that the ratio of the two is read off it.
"""

from __future__ import annotations

import pytest
import torch
from pytest_benchmark.fixture import BenchmarkFixture

from kdzoo.bench.measure.workloads import workload


@pytest.mark.parametrize("shape", ["8x12x32x32", "4x12x128x64", "1x12x512x64"])
@pytest.mark.parametrize("provider", ["naive", "torch"])
def test_relation(benchmark: BenchmarkFixture, shape: str, provider: str) -> None:
    work = workload("relation")
    torch.manual_seed(0)
    inputs = work.inputs(work.sizes(shape), torch.float32, torch.device("cpu"))
    leaves = [inputs[name].requires_grad_() for name in work.gradient]
    run = work.provider(provider)

    def step() -> None:
        for leaf in leaves:
            leaf.grad = None
        run(**inputs).backward()

    benchmark.group = f"relation of {shape}, forward and backward"
    benchmark.pedantic(step, rounds=10, warmup_rounds=2)
    expected = torch.autograd.grad(work.naive(**inputs), leaves)
    for leaf, right in zip(leaves, expected, strict=True):
        torch.testing.assert_close(leaf.grad, right, rtol=1e-3, atol=1e-4 * right.abs().max().item())
