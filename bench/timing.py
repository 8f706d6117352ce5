"""Measuring a piece of work: its time and the memory it takes."""

from __future__ import annotations

import os
import platform
import re
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

import kdzoo
from kdzoo.models.decoders import teacher_forced


def seconds(
    run: Callable[..., Any], device: torch.device, *, repeats: int = 5, prepare: Callable[[], Any] | None = None
) -> float:
    """The median time of a call, in seconds, after one call to warm up.

    Args:
        run: the work; given what ``prepare`` returned, where there is one.
        device: where it runs; an accelerator is waited for.
        repeats: how many calls to take the median of.
        prepare: called before each call, outside of its time.
    """

    def wait() -> None:
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    def once() -> float:
        given = () if prepare is None else (prepare(),)
        wait()
        start = time.perf_counter()
        run(*given)
        wait()
        return time.perf_counter() - start

    once()
    return statistics.median(once() for _ in range(repeats))


def peak_bytes(run: Callable[[], Any], device: torch.device) -> int:
    """The most bytes of tensors that a call holds at one time, over what was there before it.

    On CUDA by the allocator's own count; on a CPU from every allocation that PyTorch's profiler sees, those within
    operators included.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)
    with quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: Any = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(nbytes for _, nbytes in changes), default=0)


def forward_speed(model: Any, run: Callable[[], Any], rows: int, repeats: int) -> dict[str, float]:
    """``latency_ms``, the median time of a model's run, and ``rows_per_second``; the model's mode is kept."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        taken = seconds(run, model.device, repeats=repeats)
    model.train(training)
    return {"latency_ms": 1e3 * taken, "rows_per_second": rows / taken}


def forward_flops(model: Any, length: int) -> int:
    """The floating-point operations of a forward pass of one row of ``length`` tokens, and a target as long.

    0 of a model that cannot be counted: PyTorch's counter raises for some (DeBERTa's first version).
    """
    from torch.utils.flop_counter import FlopCounterMode  # here, since it imports Triton

    ids = {"input_ids": torch.ones(1, length, dtype=torch.long, device=model.device)}
    inputs = model.example(length) if hasattr(model, "example") else ids
    # The plain form of attention, whose products are all counted; a fused one is not everywhere.
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        try:
            model(**(teacher_forced(model, inputs, ids["input_ids"])))
        except AssertionError:
            return 0
    return int(counter.get_total_flops())


def times_the_work(model: Any, of: Any, length: int) -> float:
    """How many times another model's operations one does for a row; 1 where they cannot be counted."""
    try:
        above, below = (forward_flops(one, length) for one in (model, of))
    except Exception:  # a model without weights may ask for values, and others for inputs that are not known here
        return 1.0
    return above / below if above and below else 1.0


def device_name(device: torch.device | None = None) -> str:
    """The name of a device, of the accelerator where none is given, or the processor's with its threads."""
    if device is None:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = torch.get_num_threads()
    kind, capability = platform.processor() or platform.machine(), torch.backends.cpu.get_cpu_capability()
    return f"CPU {kind} ({capability}), {threads} thread{'s' if threads > 1 else ''}"


def versions(*packages: str) -> dict[str, str]:
    """Of Python, kdzoo, torch and those packages that are installed."""
    # torch itself says what it was built for ("+cu130"), which its wheel's metadata may leave out.
    found = {"python": platform.python_version(), "kdzoo": kdzoo.__version__, "torch": str(torch.__version__)}
    for package in packages:
        with suppress(PackageNotFoundError):
            found[package] = version(package)
    return found


def reset_peak_memory() -> None:
    """Let `peak_memory` count from now on, where the system can (CUDA; Linux)."""
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    else:
        with suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # forgets the highest resident set


def peak_memory() -> int:
    """The most bytes since `reset_peak_memory`: the accelerator's, or on a CPU the process's resident set."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    with suppress(OSError):
        found = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
        if found:
            return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """The profiler's C++ code notes its start and stop on the process's standard error."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
