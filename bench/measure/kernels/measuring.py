"""Measures providers at shapes: time, traffic, memory, value, and distance from the hardware's floor.

The floor of a shape is the larger of two times: its necessary bytes over the copy bandwidth, its necessary operations
over the matmul rate, both rates measured in the same run on the same device. A fraction of 1 is the floor reached;
above 1, caches served what the copy had to fetch from memory.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from kdzoo.bench.files import now
from kdzoo.bench.measure.kernels.clock import LEAST, copy_bandwidth, durations, least_time, matmul_rate
from kdzoo.bench.measure.kernels.machine import commit, noise, state
from kdzoo.bench.measure.kernels.request import DTYPES, PACKAGES, Request
from kdzoo.bench.measure.workloads import Inputs, Missing, total
from kdzoo.bench.timing import device_name, peak_bytes, quiet_stderr, versions
from kdzoo.errors import DistillationFailure, out_of_memory
from kdzoo.kernels.backend import KernelError, allows_tf32

COMPILING = 20.0  # seconds that a compiler is reckoned to take, until one has been waited for
CEILINGS = 0.2  # of the time a result is given, at least this many seconds
KERNELS = 10  # of a trace, named in the record


def setting_of(request: Request, seconds: float) -> dict[str, Any]:
    """Device, versions, commit, driver and clocks, and the device's copy bandwidth and matmul rate."""
    dtype, device = DTYPES[request.dtype], request.device
    found: dict[str, Any] = {
        "kernel": request.kernel,
        "dtype": request.dtype,
        "device": device_name(device),
        "at": now(),
        "commit": commit(),
        "machine": state(device),
        "tf32": allows_tf32(),
        "seconds": seconds,
        "copy_bytes_per_second": copy_bandwidth(device, seconds),
        "matmul_flops_per_second": matmul_rate(dtype, device, seconds),
        "versions": versions("numpy", "triton", *PACKAGES),
        "asked": request.asked(),
    }
    return found | ({"least_seconds": least_time(device, seconds)} if device.type == "cuda" else {})


def measure(
    request: Request,
    *,
    seconds: float = 1.0,
    budget: float | None = None,
    trace: Path | None = None,
    setting: dict[str, Any] | None = None,
    least: int = LEAST,
    compiling: float = COMPILING,
) -> Iterator[dict[str, Any]]:
    """Measure every provider at every shape.

    Args:
        request: what to measure.
        seconds: how long each time is taken for, at least five calls.
        budget: seconds in which to be done, about. The cheap and important comes first then; what there is no time
            for becomes a result that says so.
        trace: a folder for a trace of each provider at each shape, which Perfetto shows.
        setting: what `setting_of` gave earlier, so that the rates are not measured anew.
        least: calls of each on a CPU in place of five.
        compiling: seconds that a compiler is reckoned to take on CUDA at first, so that it keeps within the budget.

    Yields:
        First the setting, whose ``warnings`` are kept up to date. Then one result for each shape and provider;
        ``failed`` says why one has none.
    """
    begun = time.perf_counter()
    setting = setting_of(request, seconds) if setting is None else setting
    yield setting
    results: list[dict[str, Any]] = []
    longest: dict[str, float] = {"compile": compiling if request.device.type == "cuda" else 0.0}
    inputs: tuple[str, Inputs] | None = None
    for shape, provider in request.asked() if budget is None else request.jobs():
        result: dict[str, Any] = {"shape": shape, "provider": provider}
        job = time.perf_counter()
        if budget is not None and job - begun + longest.get(provider, 0.0) > budget:
            result["failed"] = f"no time was left of the {budget:g} s"
        else:
            try:
                if inputs is None or inputs[0] != shape:
                    inputs = None  # those of one shape at a time
                    inputs = shape, request.inputs(shape)
                result |= _measured(request, shape, provider, inputs[1], setting, seconds, least, trace)
            except Exception as error:
                if isinstance(error, DistillationFailure):
                    raise
                # A provider that runs out of memory, or refuses a size, is a result; the others go on.
                result["failed"] = _reason(error)
            if request.device.type == "cuda":
                torch.cuda.empty_cache()
            longest[provider] = max(longest.get(provider, 0.0), time.perf_counter() - job)
        results.append(result)
        setting["warnings"] = noise(setting, results)
        if len(results) == len(setting["asked"]):
            _finish(request, seconds, setting, results)
        yield result


def _reason(error: Exception) -> str:
    if out_of_memory(error):
        return "out of memory"
    said = " ".join(str(error).split())[:200]
    known = isinstance(error, (Missing, KernelError, RuntimeError)) and said
    return said if known else f"{type(error).__name__}: {said}"


def _finish(request: Request, seconds: float, setting: dict[str, Any], results: list[dict[str, Any]]) -> None:
    """Whether the machine was at the end what it was at the beginning."""
    if request.device.type == "cuda":
        setting["copy_bytes_per_second_after"] = copy_bandwidth(request.device, min(seconds, CEILINGS))
    setting["machine_after"] = state(request.device)
    setting["warnings"] = noise(setting, results)


def _measured(
    request: Request,
    shape: str,
    provider: str,
    inputs: Inputs,
    setting: dict[str, Any],
    seconds: float,
    least: int,
    trace: Path | None,
) -> dict[str, Any]:
    run = request.provider(provider)
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in request.workload.gradient}

    def forward() -> Tensor:
        with torch.no_grad():
            return total(run(**inputs))

    def value() -> Tensor:
        return total(run(**{**inputs, **leaves}))

    def backward(value: Tensor) -> None:
        torch.autograd.grad(value, list(leaves.values()))

    def both() -> None:
        backward(value())

    before, after = request.floors(shape)
    bandwidth, rate = (setting[f"{name}_per_second"] for name in ("copy_bytes", "matmul_flops"))
    result: dict[str, Any] = {"value": forward().item()}
    works: dict[str, tuple[Callable[..., Any], Any]] = {
        "forward": (forward, None),
        "both": (both, None),
        "backward": (backward, value),
    }
    for name, (work, prepare) in works.items():
        part = durations(work, request.device, seconds, prepare=prepare, least=least).record()
        if name != "backward":  # of which it is not told what it needs
            floor = before if name == "forward" else after
            part["bytes_per_second"] = floor.bytes / part["seconds"]
            part["flops_per_second"] = floor.flops / part["seconds"]
            part["of_floor"] = max(floor.bytes / bandwidth, floor.flops / rate) / part["seconds"]
        result[name] = part
    result["peak_bytes"] = peak_bytes(both, request.device)
    if trace is not None:
        file = trace / f"{request.kernel}-{shape}-{provider.replace(':', '.')}-{request.dtype}.trace.json"
        result |= _traced(both, request.device, file)
    return result


def _traced(work: Callable[[], Any], device: torch.device, file: Path) -> dict[str, Any]:
    """A trace of one call in a file, and the kernels (on a CPU, the operators) that took longest."""
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device.type == "cuda" else [])]
    with quiet_stderr(), profile(activities=activities) as profiled:
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        profiled.export_chrome_trace(str(file))
    except (OSError, RuntimeError) as error:
        raise DistillationFailure(f"cannot write {file}: {error}") from error
    key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    taken = sorted(profiled.key_averages(), key=lambda event: -getattr(event, key))
    parts = [
        {"name": event.key[:120], "calls": event.count, "seconds": getattr(event, key) / 1e6}
        for event in taken[:KERNELS]
        if getattr(event, key) > 0
    ]
    return {"trace": str(file), "parts": parts}
