"""What the kernels launch, at sizes that no machine here holds: grids, offsets, precision, the first launch of all."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from typing import Any

import battery
import pytest
import torch

from kdzoo.kernels import backend, cos_nce, gram, info_nce, relation
from kdzoo.kernels.backend import choose, has_triton, interpreting
from kdzoo.kernels.cosine import operator as cosine_operator
from kdzoo.kernels.gram import gram_reference

needs_triton = pytest.mark.skipif(interpreting() or not has_triton(), reason="needs triton, not interpreting")
empty = partial(torch.empty, device="meta")


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[int, ...], dict[str, Any]]]:
    """Fills with (name, grid, named arguments) of the launches, none of which is made."""
    from triton.runtime.jit import JITFunction

    found: list[tuple[str, tuple[int, ...], dict[str, Any]]] = []

    def record(self: Any, *args: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        found.append((self.__name__, grid, named))

    monkeypatch.setattr(JITFunction, "run", record)
    monkeypatch.setattr(backend, "obstacle", lambda tensor: None)
    return found


def many_slots() -> list[Callable[[], Any]]:
    """98,304 slots and more, each of few rows."""
    vectors, count = empty(8, 12, 8192, 64, dtype=torch.bfloat16), empty(())
    slots, real = empty(98304, 8, 32), empty(98304, 8, dtype=torch.bool)
    heads = empty(8192, 12, 64, 32)
    grams = [
        partial(gram.run, slots, slots, real, 0, 8, name, True, "triton") for name in ("angle", "distance", "sp", "pkt")
    ]
    return [
        partial(info_nce.run, vectors, vectors, None, None, None, None, count, 0, 0.07, True, True, "triton"),
        partial(info_nce.run_rows, vectors, vectors, None, 0, 0.07, "triton"),
        partial(cos_nce.run, vectors, vectors, None, None, None, None, count, True, "triton"),
        partial(relation.run, heads, heads, heads, heads, None, None, None, count, "kl", None, True, "triton"),
        partial(cosine_operator.run, vectors, vectors, None, count, True, "triton"),
        *grams,
    ]


@needs_triton
def test_no_axis_of_a_grid_but_the_first_grows(launched: list[Any]) -> None:
    for call in many_slots():
        call()
    for name in battery.NAMES:
        for call in importlib.import_module(f"cases.{name}").launches():
            call()
    assert len(launched) > 50
    for name, grid, _ in launched:
        first, *others = grid
        assert 0 < first < 2**31, f"{name} {grid}"
        assert all(axis <= 65535 for axis in others), f"{name} {grid}"


class Calls(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts what PyTorch itself would launch."""

    number = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = any(one.alias_info and not one.alias_info.is_write for one in function._schema.returns)
        # Views and memory that nothing is written to launch nothing.
        self.number += not made and "empty" not in function.name()
        return function(*args, **(kwargs or {}))


@needs_triton
@pytest.mark.parametrize("queued", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
def test_info_nce_over_slots_takes_few_launches(
    symmetric: bool, queued: bool, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "architecture", lambda: "sm_90")
    student, mask = empty(256, 4, 128, 768, dtype=torch.bfloat16), empty(256, 128, dtype=torch.bool)
    queue = empty(1024, 768, dtype=torch.bfloat16) if queued else None
    with Calls() as calls:
        info_nce.run(student, student, mask, queue, None, None, empty(()), 0, 0.07, symmetric, True, "triton")
    assert calls.number == 2  # the sum of the losses and its quotient
    sources = ["attend_kernel"] * (2 if queued else 1)
    across = ["attend_kernel", "losses_kernel"] if symmetric else []
    known = [*sources, "losses_kernel"] if symmetric else []
    joined = (["join_kernel"] if symmetric else ["losses_kernel", "join_kernel"]) if queued else []
    norms = ["norms_kernel"] * (2 if queued else 1)
    assert [name for name, *_ in launched] == [*norms, *across, *known, *sources, *joined]


@needs_triton
def test_slots_that_the_cache_holds_are_read_twice_before_the_next(
    launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "cache_bytes", lambda: 50 * 2**20)
    student = empty(256, 4, 128, 768, dtype=torch.bfloat16)
    cos_nce.run(student, student, None, None, None, None, empty(()), True, "triton")
    names, slots = [name for name, *_ in launched], [grid[0] for _, grid, _ in launched]
    assert names == ["totals_kernel", "values_kernel"] * 8 and slots == [64] * 16
    assert 64 * student[:, 0, 0].numel() * 2 < 25 * 2**20
    launched.clear()
    monkeypatch.setattr(backend, "cache_bytes", lambda: 6 * 2**20)  # too small for groups that are worth it
    cos_nce.run(student, student, None, None, None, None, empty(()), True, "triton")
    assert [name for name, *_ in launched] == ["values_kernel"]


@needs_triton
def test_the_offset_of_a_pair_is_64_bit() -> None:
    """Of 50,000 positions the last pair lies beyond what int32 holds."""
    script = """
import torch, triton, triton.language as tl
from kdzoo.kernels.relation.triton_kernels import pair_pointers

@triton.jit
def offsets(ptr, out_ptr, length, OWN_ASKS: tl.constexpr, BLOCK_M: tl.constexpr):
    at = length - BLOCK_M + tl.arange(0, BLOCK_M)
    place = tl.arange(0, BLOCK_M)[:, None] * BLOCK_M + tl.arange(0, BLOCK_M)[None, :]
    there = pair_pointers(ptr, at, at, length, OWN_ASKS)
    tl.store(out_ptr + place, there.to(tl.int64) - ptr.to(tl.int64))

pairs, at = torch.zeros(1, dtype=torch.uint8), 50_000 - 4 + torch.arange(4)
for own_asks in (True, False):
    out, right = torch.zeros(4, 4, dtype=torch.int64), at[:, None] * 50_000 + at
    offsets[(1,)](pairs, out, 50_000, OWN_ASKS=own_asks, BLOCK_M=4)
    assert torch.equal(out, right if own_asks else right.T), out
"""
    # Triton reads TRITON_INTERPRET when it is imported, and functions from files alone.
    run_script(script, battery.environment())


PRECISION = """
import torch
from kdzoo.kernels import backend

assert backend.dot_precision() == "ieee"
{}
assert backend.dot_precision() == "tf32"
"""


@pytest.mark.parametrize(
    "statement",
    [
        'torch.set_float32_matmul_precision("high")',
        "torch.backends.cuda.matmul.allow_tf32 = True",
        'torch.backends.cuda.matmul.fp32_precision = "tf32"',
        'torch.backends.fp32_precision = "tf32"',
    ],
)
def test_torch_may_be_told_of_tf32_in_any_way(statement: str) -> None:
    """After some of them the older getter raises."""
    if "fp32_precision" in statement and not hasattr(torch.backends, "fp32_precision"):
        pytest.skip("a setting of torch 2.9")
    run_script(PRECISION.format(statement), dict(os.environ))


@needs_triton
@pytest.mark.parametrize("precision", ["ieee", "tf32"])
def test_every_product_in_triton_follows_torch(
    precision: str, launched: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backend, "allows_tf32", lambda: precision == "tf32")
    heads, vectors, count = empty(2, 4, 64, 32), empty(64, 32), empty(())
    relation.run(heads, heads, heads, heads, None, None, None, count, "kl", None, True, "triton")
    info_nce.run(vectors, vectors, None, None, None, None, count, 0, 0.07, True, True, "triton")
    others = {"norms_kernel", "losses_kernel", "join_kernel"}  # without products of matrices
    assert {name for name, *_ in launched} == {"sums_kernel", "slopes_kernel", "attend_kernel", *others}
    assert {named["PRECISION"] for name, _, named in launched if name not in others} == {precision}


@pytest.mark.parametrize("name", ["angle", "distance"])
def test_products_that_cancel_are_never_in_tf32(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As if a CPU multiplied in it: the products are those of float64, and the result is as it is in float32."""
    for module in ("kdzoo.kernels.backend", "kdzoo.kernels.gram.shared"):
        monkeypatch.setattr(f"{module}.in_tf32", lambda tensor: True)
    rounded = torch.Tensor.__matmul__

    def product(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
        assert left.dim() == 1 or left.dtype == torch.float64
        return rounded(left, right)

    monkeypatch.setattr(torch.Tensor, "__matmul__", product)
    student, teacher = torch.randn(9, 5, requires_grad=True), torch.randn(9, 6)
    value = gram.gram(student, teacher, name, backend="torch")
    (found,) = torch.autograd.grad(value, student)
    monkeypatch.undo()
    wide = student.detach().double().requires_grad_()
    (right,) = torch.autograd.grad(gram_reference(wide, teacher.double(), name), wide)
    torch.testing.assert_close(found.double(), right, rtol=1e-4, atol=1e-4)


@needs_triton
def test_two_threads_may_be_the_first_to_launch(launched: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """One waits for what the other imports."""
    import triton

    import kdzoo.kernels.cosine as package

    compiled = triton.jit

    def slow(function: Any) -> Any:
        time.sleep(0.2)
        return compiled(function)

    monkeypatch.setattr(triton, "jit", slow)
    monkeypatch.delitem(sys.modules, f"{package.__name__}.triton_kernels", raising=False)
    monkeypatch.delattr(package, "triton_kernels", raising=False)
    vectors, failures = empty(8, 32), []

    def launch() -> None:
        try:
            cosine_operator.run(vectors, vectors, None, empty(()), True, "triton")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=launch) for _ in range(3)]
    for thread in threads:
        thread.start()
        time.sleep(0.05)
    for thread in threads:
        thread.join()
    assert not failures and len(launched) == 3


@pytest.mark.skipif(not has_triton(), reason="needs triton")
def test_auto_leaves_old_gpus_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(backend.VARIABLE, raising=False)
    monkeypatch.setattr(torch.version, "hip", None)
    tensor: Any = SimpleNamespace(device=torch.device("cuda", 0), dtype=torch.float32, numel=lambda: 10**6)
    for capability, chosen in (((7, 5), "torch"), ((8, 0), "triton"), ((12, 0), "triton")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert choose("cosine", tensor).backend == chosen
        assert choose("cosine", tensor, "triton").triton  # asked for by name, it runs
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    assert "compute capability is 7.5" in choose("cosine", tensor).reason


def run_script(script: str, environment: dict[str, str]) -> None:
    import tempfile
    from pathlib import Path

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "script.py"
        file.write_text(script)
        done = subprocess.run([sys.executable, file], env=environment, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr[-3000:]
