"""How long a piece of work takes: on CUDA by the device's own clock, from replays of a graph, and wall time beside it.

A loop that waits for the host at every call measures the host: launching what a loss does takes 100 to 500 µs, which
hides a kernel of 140 µs. A CUDA graph is launched at once, and replays are queued while the device is kept busy.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch

QUANTILES = (0.2, 0.5, 0.8)
LEAST, MOST, MOST_ON_CUDA = 5, 1000, 300  # calls; a stream queues about a thousand launches
CYCLES = 2e9  # of a GPU's clock a second, about
LONGEST_DELAY = 0.05  # seconds that the device is kept waiting for the host
FLUSH = 2**28  # bytes written before each call, more than any L2 cache holds


@dataclass(frozen=True)
class Times:
    """The times of calls.

    Attributes:
        seconds: of each call.
        clock: what measured them: ``host``; on CUDA ``graph`` (replays of a CUDA graph), ``delay`` (launches queued
            while the device was kept waiting, where a graph cannot be captured), or ``events`` (where the host was not
            ahead of the device, so that its time is in them).
        wall: on CUDA, of each of some further calls by the host's clock, launches and waiting included.
    """

    seconds: Sequence[float]
    clock: str
    wall: Sequence[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def record(self) -> dict[str, Any]:
        """The median and the quantiles, as a record has them."""
        low, middle, high = (_quantile(self.seconds, share) for share in QUANTILES)
        found = {"seconds": middle, "low": low, "high": high, "calls": len(self.seconds), "clock": self.clock}
        return found | ({"wall_seconds": statistics.median(self.wall)} if self.wall else {})


def durations(
    work: Callable[..., Any],
    device: torch.device,
    seconds: float,
    *,
    prepare: Callable[[], Any] | None = None,
    least: int = LEAST,
) -> Times:
    """The times of calls, after some to warm up, for as long as asked and at least five.

    Args:
        work: what is timed; given what ``prepare`` returned, where there is one.
        device: where it runs. On CUDA the L2 cache is overwritten before each call.
        seconds: how long to go on.
        prepare: called before each call, outside of its time.
        least: calls on a CPU in place of five.
    """
    before = (lambda: ()) if prepare is None else (lambda: (prepare(),))
    if device.type == "cuda":
        return _on_cuda(work, device, seconds, prepare, before)
    for _ in range(min(2, least)):
        work(*before())
    return Times(_by_the_host(work, before, seconds, MOST, lambda: None, least), "host")


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes read and written a second by a copy, of 1 GiB on CUDA and 256 MiB on a CPU."""
    source = torch.randint(256, (2**30 if device.type == "cuda" else 2**28,), dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / durations(lambda: target.copy_(source), device, seconds).median


def matmul_rate(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """Floating-point operations a second of a square matrix product, 8192 wide on CUDA and 1024 on a CPU."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / durations(lambda: left @ right, device, seconds).median


def least_time(device: torch.device, seconds: float) -> float:
    """The time of a launch that does next to nothing: below it, times of the device tell launches apart, not work."""
    one = torch.zeros(1, device=device)
    return durations(lambda: one.add_(1), device, seconds).median


def _by_the_host(
    work: Callable[..., Any],
    before: Callable[[], tuple[Any, ...]],
    seconds: float,
    most: int,
    wait: Callable[[], None],
    least: int,
) -> list[float]:
    times: list[float] = []
    stop = time.perf_counter() + seconds
    while len(times) < least or (time.perf_counter() < stop and len(times) < most):
        given = before()
        wait()
        start = time.perf_counter()
        work(*given)
        wait()
        times.append(time.perf_counter() - start)
    return times


# On CUDA


def _on_cuda(
    work: Callable[..., Any],
    device: torch.device,
    seconds: float,
    prepare: Callable[[], Any] | None,
    before: Callable[[], tuple[Any, ...]],
) -> Times:
    with torch.cuda.device(device):
        side = _side(torch.cuda.current_device())
        side.wait_stream(torch.cuda.current_stream())
        # On one stream throughout, since a backward pass runs on that of its forward pass.
        with torch.cuda.stream(side):
            flush = torch.empty(FLUSH // 4, dtype=torch.int32, device=device)
            for _ in range(3):
                work(*before())
            wall = _by_the_host(work, before, seconds / 4, 50, side.synchronize, least=3)
            graphs = _captured(work, prepare, side)
            if graphs is not None:
                times = _queued(*graphs, flush, seconds)
                return Times(times, "graph", wall)
            return _delayed(work, before, flush, seconds, statistics.median(wall), wall)


@cache
def _side(device: int) -> torch.cuda.Stream:
    """One stream for all that is timed, since memory is kept by stream."""
    return torch.cuda.Stream(device)


def _captured(
    work: Callable[..., Any], prepare: Callable[[], Any] | None, side: torch.cuda.Stream
) -> tuple[Callable[[], None] | None, Callable[[], None]] | None:
    """Replays of what is prepared, where anything is, and of the work; None where they cannot be captured."""
    first, graph = torch.cuda.CUDAGraph(), torch.cuda.CUDAGraph()
    # Of this thread's mistakes alone: a backward pass launches from another.
    options: dict[str, Any] = {"stream": side, "capture_error_mode": "thread_local"}
    try:
        given: tuple[Any, ...] = ()
        if prepare is not None:
            with torch.cuda.graph(first, **options):
                given = (prepare(),)
            options["pool"] = first.pool()
        with torch.cuda.graph(graph, **options):
            work(*given)
    except RuntimeError:  # something in it waits for the device, or is not made for it
        side.synchronize()
        return None
    return (first.replay if prepare is not None else None), graph.replay


def _queued(
    first: Callable[[], None] | None, replay: Callable[[], None], flush: torch.Tensor, seconds: float
) -> list[float]:
    """The times of replays that are all queued before the device begins with them."""

    def batch(count: int) -> list[float]:
        events = [tuple(torch.cuda.Event(enable_timing=True) for _ in range(2)) for _ in range(count)]
        _keep_waiting(2e-3)
        for start, end in events:
            if first is not None:
                first()
            flush.zero_()
            start.record()
            replay()
            end.record()
        torch.cuda.current_stream().synchronize()
        return [start.elapsed_time(end) / 1e3 for start, end in events]

    begun = time.perf_counter()
    batch(2)
    each = (time.perf_counter() - begun) / 2
    return batch(max(LEAST, min(MOST_ON_CUDA, int(seconds / each))))


def _delayed(
    work: Callable[..., Any],
    before: Callable[[], tuple[Any, ...]],
    flush: torch.Tensor,
    seconds: float,
    each: float,
    wall: Sequence[float],
) -> Times:
    """The times of calls each of which is queued while the device waits."""
    times: list[float] = []
    late = 0
    stop = time.perf_counter() + seconds
    while len(times) < LEAST or (time.perf_counter() < stop and len(times) < MOST_ON_CUDA):
        given = before()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.current_stream().synchronize()
        _keep_waiting(min(2 * each + 1e-4, LONGEST_DELAY))
        flush.zero_()
        start.record()
        work(*given)
        end.record()
        late += start.query()  # the device began before the host was done
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3)
    return Times(times, "events" if 2 * late > len(times) else "delay", wall)


def _keep_waiting(seconds: float) -> None:
    torch.cuda._sleep(int(CYCLES * seconds))


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
