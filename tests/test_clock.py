"""The clock on CUDA, over a device that is made up: a queue that works off what the host launches, in real time."""

from __future__ import annotations

import time
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch

from kdzoo.bench.measure.kernels import clock

CUDA: Any = types.SimpleNamespace(type="cuda")
LAUNCHING, WORKING = 1e-3, 140e-6  # seconds: the host's part of a call, and the device's


class Device:
    """Works off what is queued, one after another; knows when it will be done."""

    def __init__(self) -> None:
        self.done = 0.0
        self.captured: list[list[float]] = []

    def work(self, seconds: float) -> None:
        if self.captured:
            self.captured[-1].append(seconds)
        else:
            self.done = max(time.perf_counter(), self.done) + seconds

    def wait(self, until: float | None = None) -> None:
        if self.captured:
            raise RuntimeError("operation not permitted when stream is capturing")
        time.sleep(max(0.0, (self.done if until is None else until) - time.perf_counter()))


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    device = Device()

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            self.at = 0.0

        def record(self) -> None:
            self.at = max(time.perf_counter(), device.done)

        def query(self) -> bool:
            return time.perf_counter() >= self.at

        def synchronize(self) -> None:
            device.wait(self.at)

        def elapsed_time(self, other: Event) -> float:
            return 1e3 * (other.at - self.at)

    class Graph:
        def __init__(self) -> None:
            self.parts: list[float] = []

        def pool(self) -> int:
            return 1

        def replay(self) -> None:
            for seconds in self.parts:
                device.work(seconds)

    @contextmanager
    def graph(graph: Graph, **_: Any) -> Iterator[None]:
        device.captured.append(graph.parts)
        try:
            yield
        finally:
            device.captured.pop()

    stream = types.SimpleNamespace(synchronize=device.wait, wait_stream=lambda other: None)
    for name, value in {
        "device": lambda device: nullcontext(),
        "stream": lambda stream: nullcontext(),
        "current_stream": lambda: stream,
        "current_device": lambda: 0,
        "CUDAGraph": Graph,
        "graph": graph,
        "Event": Event,
        "_sleep": lambda cycles: device.work(cycles / clock.CYCLES),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    flush = types.SimpleNamespace(zero_=lambda: device.work(8e-5))
    monkeypatch.setattr(torch, "empty", lambda *_, **__: flush)
    monkeypatch.setattr(clock, "_side", lambda device: stream)
    return device


def launching(device: Device) -> Callable[..., None]:
    """A call that takes the host longer than the device."""

    def call(*_: Any) -> None:
        time.sleep(LAUNCHING)
        device.work(WORKING)

    return call


def test_a_graph_has_the_devices_time_alone_and_wall_time_the_hosts(device: Device) -> None:
    times = clock.durations(launching(device), CUDA, 0.05)
    assert times.clock == "graph" and len(times.seconds) >= 5
    assert times.median == pytest.approx(WORKING, rel=1e-3)  # a busy host may hold up one or another
    assert min(times.wall) > LAUNCHING and times.record()["wall_seconds"] > LAUNCHING


def test_what_comes_before_is_replayed_and_not_timed(device: Device) -> None:
    times = clock.durations(launching(device), CUDA, 0.05, prepare=lambda: device.work(5e-4))
    assert times.clock == "graph" and times.median == pytest.approx(WORKING, rel=1e-3)


def test_what_cannot_be_captured_is_queued_while_the_device_waits(device: Device) -> None:
    def call() -> None:
        if device.captured:
            raise RuntimeError("not permitted")
        launching(device)()

    times = clock.durations(call, CUDA, 0.05)
    # A host that is held up for longer than the device was told to wait is told of, and no fault of the clock.
    assert times.clock == "events" or times.median == pytest.approx(WORKING, rel=1e-3)
    assert min(times.wall) > LAUNCHING


def test_the_hosts_time_is_told_of_where_it_cannot_be_kept_out(device: Device) -> None:
    def call() -> None:
        launching(device)()
        device.wait()
        launching(device)()

    times = clock.durations(call, CUDA, 0.05)
    assert times.clock == "events" and times.median > WORKING + LAUNCHING
