"""Measuring a piece of work: its time and the memory it takes."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile


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
    with _quiet_stderr(), profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        run()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events: Any = profiled.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return max(accumulate(nbytes for _, nbytes in changes), default=0)


@contextmanager
def _quiet_stderr() -> Iterator[None]:
    """The profiler's C++ code notes its start and stop on the process's standard error."""
    kept = os.dup(2)
    try:
        with open(os.devnull, "w", encoding="utf-8") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
