"""`kdzoo profile`: a kernel's time, traffic, memory and distance from the hardware's floor, against other providers.

The floor of a shape is the larger of two times: its necessary bytes over the copy bandwidth, its necessary operations
over the matmul rate, both rates measured in the same run on the same device. A fraction of 1 is the floor reached;
above 1, caches served what the copy had to fetch from memory.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdzoo.bench.columns import Columns, short
from kdzoo.bench.files import read_json, write_atomically
from kdzoo.bench.measure.workloads import Floor, Inputs, Missing, Workload, total, workload
from kdzoo.bench.timing import device_name, peak_bytes, versions
from kdzoo.errors import DistillationFailure, KdzooError, unknown
from kdzoo.kernels.backend import Decision, KernelError, choose

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
DEVICES = ("cpu", "cuda")
PACKAGES = {"liger-kernel": "liger_kernel", "inf-cl": "inf_cl"}  # peers, by what they are imported as
QUANTILES = (0.2, 0.5, 0.8)


@dataclass(frozen=True)
class Request:
    """What to measure, checked: nothing of it can turn out impossible later."""

    kernel: str
    workload: Workload
    shapes: tuple[str, ...]
    dtype: str
    providers: tuple[str, ...]
    device: torch.device

    @classmethod
    def of(
        cls, kernel: str, *, shapes: Sequence[str] = (), dtype: str = "fp32", providers: Sequence[str] = (), device: str
    ) -> Request:
        """A request from text.

        Args:
            kernel: its name.
            shapes: texts such as ``4096x768``; the workload's own for the device by default.
            dtype: fp32, bf16 or fp16.
            providers: all that can run here by default.
            device: cpu or cuda; empty for cuda where there is one.

        Raises:
            KdzooError: for a name, shape, type or device that is not there.
        """
        work = workload(kernel)
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        for kind, name, valid in (("dtype", dtype, DTYPES), ("device", device, DEVICES)):
            if name not in valid:
                raise unknown(kind, name, valid)
        if device == "cuda" and not torch.cuda.is_available():
            raise KdzooError("--device cuda: there is no CUDA device here; use --device cpu")
        for text in shapes:
            work.sizes(text)
        place = torch.device(device)
        for name in providers:
            if name not in work.providers:
                raise unknown(f"provider of {kernel}", name, work.providers)
            if obstacle := _obstacle(name, place, DTYPES[dtype]):
                raise KdzooError(f"the provider {name} cannot run here: {obstacle}")
        chosen = [name for name in work.providers if not _obstacle(name, place, DTYPES[dtype])]
        return cls(kernel, work, tuple(shapes or work.shapes[device]), dtype, tuple(providers or chosen), place)

    def inputs(self, shape: str) -> Inputs:
        """The arguments at a shape, the same at every call."""
        torch.manual_seed(0)
        return self.workload.inputs(self.workload.sizes(shape), DTYPES[self.dtype], self.device)


def _obstacle(provider: str, device: torch.device, dtype: torch.dtype) -> str | None:
    package = PACKAGES.get(provider)
    if package is not None:
        if find_spec(package) is None:
            return f"{provider} is not installed; it comes with kdzoo[peers]"
        return None if device.type == "cuda" else f"{provider} needs a CUDA device"
    if provider == "triton":
        try:
            choose("triton", torch.empty(0, dtype=dtype, device=device), "triton")
        except KernelError as error:
            return str(error).partition(": ")[2]
    return None


def explain(request: Request) -> Iterator[tuple[str, Decision]]:
    """The backend that ``backend="auto"`` takes at each shape, and why; nothing is run.

    Raises:
        KdzooError: where KDZOO_BACKEND asks for a backend that is not there.
    """
    for shape in request.shapes:
        try:
            yield shape, request.workload.decide(request.inputs(shape))
        except KernelError as error:
            raise KdzooError(str(error)) from error


# Measuring


def measure(request: Request, *, seconds: float = 1.0) -> Iterator[dict[str, Any]]:
    """Measure every provider at every shape.

    Args:
        request: what to measure.
        seconds: how long each time is taken for, at least five calls.

    Yields:
        First the setting: device, versions, copy bandwidth and matmul rate. Then one result for each shape and
        provider; ``failed`` says why one has none.
    """
    dtype = DTYPES[request.dtype]
    bandwidth = copy_bandwidth(request.device, seconds)
    rate = matmul_rate(dtype, request.device, seconds)
    yield {
        "kernel": request.kernel,
        "dtype": request.dtype,
        "device": device_name(request.device),
        "seconds": seconds,
        "copy_bytes_per_second": bandwidth,
        "matmul_flops_per_second": rate,
        "versions": versions("triton", *PACKAGES),
    }
    for shape in request.shapes:
        inputs = request.inputs(shape)
        sizes = request.workload.sizes(shape)
        floors = request.workload.floor(sizes, torch.empty((), dtype=dtype).element_size())
        for provider in request.providers:
            result: dict[str, Any] = {"shape": shape, "provider": provider}
            try:
                result |= _measured(request, provider, inputs, floors, bandwidth, rate, seconds)
            except (Missing, KernelError, RuntimeError) as error:
                # A provider that runs out of memory, or refuses a size, is a result; the others go on.
                reason = "out of memory" if isinstance(error, torch.OutOfMemoryError) else f"{error}"
                result["failed"] = " ".join(reason.split())[:200] or type(error).__name__
            yield result


def _measured(
    request: Request,
    provider: str,
    inputs: Inputs,
    floors: tuple[Floor, Floor],
    bandwidth: float,
    rate: float,
    seconds: float,
) -> dict[str, Any]:
    run = request.workload.provider(provider)
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in request.workload.gradient}

    def forward() -> Tensor:
        with torch.no_grad():
            return total(run(**inputs))

    def both() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        total(run(**{**inputs, **leaves})).backward()

    result: dict[str, Any] = {}
    for name, work, floor in (("forward", forward, floors[0]), ("both", both, floors[1])):
        times = durations(work, request.device, seconds)
        low, median, high = (_quantile(times, share) for share in QUANTILES)
        least = max(floor.bytes / bandwidth, floor.flops / rate)
        result[name] = {
            "seconds": median,
            "low": low,
            "high": high,
            "calls": len(times),
            "bytes_per_second": floor.bytes / median,
            "flops_per_second": floor.flops / median,
            "of_floor": least / median,
        }
    result["peak_bytes"] = peak_bytes(both, request.device)
    return result


def durations(work: Callable[[], Any], device: torch.device, seconds: float) -> list[float]:
    """The times of calls, after two to warm up, for as long as asked and at least five.

    On CUDA by the device's own clock, with the L2 cache overwritten before each call.
    """
    times: list[float] = []
    flush = torch.empty(2**26, dtype=torch.int32, device=device) if device.type == "cuda" else None
    for _ in range(2):
        work()
    stop = time.perf_counter() + seconds
    while len(times) < 5 or (time.perf_counter() < stop and len(times) < 1000):
        if flush is None:
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        else:
            flush.zero_()
            events = [torch.cuda.Event(enable_timing=True) for _ in range(2)]
            events[0].record()
            work()
            events[1].record()
            events[1].synchronize()
            times.append(events[0].elapsed_time(events[1]) / 1e3)
    return times


def copy_bandwidth(device: torch.device, seconds: float) -> float:
    """Bytes read and written a second by a copy, of 1 GiB on CUDA and 256 MiB on a CPU."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / statistics.median(durations(lambda: target.copy_(source), device, seconds))


def matmul_rate(dtype: torch.dtype, device: torch.device, seconds: float) -> float:
    """Floating-point operations a second of a square matrix product, 8192 wide on CUDA and 1024 on a CPU."""
    size = 8192 if device.type == "cuda" else 1024
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / statistics.median(durations(lambda: left @ right, device, seconds))


def _quantile(times: Sequence[float], share: float) -> float:
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


# Showing


def profile_columns(setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> Columns:
    """The table of what `measure` gave: the setting and the results."""
    return Columns(COLUMNS, [_cells(result) for result in results], _title(setting), names=2)


COLUMNS = [
    "shape",
    "provider",
    "forward, ms",
    "forward + backward, ms",
    "20 to 80 %",
    "GB/s",
    "GFLOP/s",
    "of the floor",
    "peak, MB",
]


def _cells(result: dict[str, Any]) -> list[str]:
    head = [result["shape"], result["provider"]]
    if "failed" in result:
        return [*head, result["failed"], *[""] * (len(COLUMNS) - 3)]
    both = result["both"]
    return [
        *head,
        short(1e3 * result["forward"]["seconds"]),
        short(1e3 * both["seconds"]),
        f"{short(1e3 * both['low'])} to {short(1e3 * both['high'])}",
        short(both["bytes_per_second"] / 1e9),
        short(both["flops_per_second"] / 1e9),
        f"{both['of_floor']:.2f}",
        short(result["peak_bytes"] / 1e6),
    ]


def _title(setting: dict[str, Any]) -> str:
    return (
        f"{setting['kernel']}, {setting['dtype']}, on {setting['device']};\ncopy "
        f"{setting['copy_bytes_per_second'] / 1e9:.3g} GB/s, matmul {setting['matmul_flops_per_second'] / 1e9:.3g} "
        f"GFLOP/s; GB/s, GFLOP/s and the floor's share are of forward and backward"
    )


def write_profile(folder: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]], device: str) -> list[Path]:
    """Write the record and the plot, in place of those of the same shapes and providers; others are kept.

    Args:
        folder: made when it is not there.
        setting: what `measure` gave first.
        results: what it gave then.
        device: ``"cpu"`` or ``"cuda"``, for the files' names.

    Returns:
        The JSON file's path and the PNG file's.

    Raises:
        DistillationFailure: when they cannot be written.
    """
    stem = f"{setting['kernel']}-{device}-{setting['dtype']}"
    names = (folder / f"{stem}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    record = next(path for path in names if not path.exists() or _measured_in(path) == _pairs(results))
    plot = record.with_suffix(".png")
    write_atomically(record, json.dumps({**setting, "results": list(results)}, indent=1) + "\n")
    try:
        _plot(plot, setting, results)
    except OSError as error:
        raise DistillationFailure(f"cannot write {plot}: {error.strerror or error}") from error
    return [record, plot]


def _measured_in(record: Path) -> set[tuple[str, str]] | None:
    """The shapes and providers of a record; None of what is not one, which is kept too."""
    try:
        return _pairs(read_json(record)["results"])
    except (KdzooError, KeyError, TypeError):
        return None


def _pairs(results: Sequence[dict[str, Any]]) -> set[tuple[str, str]]:
    return {(result["shape"], result["provider"]) for result in results}


def _plot(path: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Time by shape, and the floor's share by shape, a bar a provider."""
    from matplotlib.figure import Figure

    shapes = list(dict.fromkeys(result["shape"] for result in results))
    providers = list(dict.fromkeys(result["provider"] for result in results))
    figure = Figure(figsize=(max(7.0, 1.2 * len(shapes) * len(providers) / 2 + 3), 7.0), layout="constrained")
    panels = (("seconds", 1e3, "forward and backward, ms"), ("of_floor", 1.0, "of the floor"))
    for axes, (key, factor, label) in zip(figure.subplots(2, 1), panels, strict=True):
        for number, provider in enumerate(providers):
            found = {r["shape"]: r["both"] for r in results if r["provider"] == provider and "both" in r}
            at = [place + (number + 0.5) * 0.8 / len(providers) - 0.4 for place in range(len(shapes))]
            heights = [factor * found[shape][key] if shape in found else 0.0 for shape in shapes]
            axes.bar(at, heights, 0.8 / len(providers), label=provider)
        axes.set_xticks(range(len(shapes)), shapes)
        axes.set_ylabel(label)
        axes.set_yscale("log")
    figure.axes[0].legend()
    figure.axes[1].axhline(1.0, color="black", linewidth=0.8)
    figure.suptitle(_title(setting), fontsize=9)
    figure.savefig(path, dpi=100, metadata={"Software": None})
