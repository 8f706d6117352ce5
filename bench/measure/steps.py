"""The steps of `kdzoo.bench.measure.gpu`, each in a process of its own: what the machine is, checks, measurements.

A kernel that reads where nothing is takes its process's whole CUDA context with it; the other steps go on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from kdzoo.bench.files import now, read_json, write_atomically
from kdzoo.bench.measure.checks import odd_checks, outcome, relative, target_checks
from kdzoo.bench.measure.kernels import Request, measure
from kdzoo.bench.measure.kernels.clock import LEAST, copy_bandwidth, durations, least_time, matmul_rate
from kdzoo.bench.measure.kernels.machine import commit, state
from kdzoo.bench.measure.kernels.measuring import COMPILING
from kdzoo.bench.measure.kernels.request import DTYPES, PACKAGES
from kdzoo.bench.measure.workloads import total, workload
from kdzoo.bench.timing import device_name, versions
from kdzoo.errors import out_of_memory
from kdzoo.kernels.backend import allows_tf32, architecture
from kdzoo.kernels.tuning import trying

MACHINE = "machine"
FOUND = 4.0  # seconds that a compiler is reckoned to take for what it has compiled before
FASTER = 0.97  # of our time, from which on other constants are worth having
SAME = 1e-2  # relative, from ours: half precision rounded in another order


@dataclass(frozen=True)
class Plan:
    """What all steps share.

    Attributes:
        out: the folder of their files.
        device: ``"cuda"``, or ``"cpu"`` for a dry run, which goes through Triton's interpreter at tiny shapes.
        dtypes: what is measured, the most important first.
        seconds: how long each time is taken for.
        seed: of the inputs of checks.
        commit: of the code, where there is no checkout to ask.
    """

    out: Path
    device: str
    dtypes: tuple[str, ...]
    seconds: float
    seed: int
    commit: str | None = None

    @property
    def dry(self) -> bool:
        return self.device == "cpu"

    @property
    def place(self) -> torch.device:
        return torch.device(self.device)

    def shapes(self, kernel: str) -> tuple[str, ...]:
        """The kernel's targets; of a dry run, its first odd shape."""
        work = workload(kernel)
        return (work.odd[0][0],) if self.dry else tuple(work.shapes["cuda"])


@dataclass(frozen=True)
class Step:
    """One step: ``machine``, or ``check``, ``tune`` or ``measure`` of a kernel."""

    kind: str
    kernel: str = ""
    dtype: str = ""

    @property
    def name(self) -> str:
        return "-".join(part for part in (self.kind, self.kernel, self.dtype) if part)

    def file(self, plan: Plan) -> Path:
        return plan.out / f"{self.name}.json"


def run(step: Step, plan: Plan, seconds: float) -> None:
    """A step, in at most about so many seconds. Its file is written after each result; what fails is written there.

    Raises:
        SystemExit: with 1 for a step that failed.
    """
    record: dict[str, Any] = {"step": step.name, "at": now(), "results": []}
    begun = time.perf_counter()
    try:
        {MACHINE: _machine, "check": _check, "tune": _tune, "measure": _measure}[step.kind](step, plan, seconds, record)
    except Exception as error:
        record["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise SystemExit(1) from None
    finally:
        record["took_seconds"] = round(time.perf_counter() - begun, 2)
        write(step, plan, record)


def write(step: Step, plan: Plan, record: Mapping[str, Any]) -> None:
    """Write a step's file."""
    write_atomically(step.file(plan), json.dumps(record, indent=1) + "\n")


def _machine(step: Step, plan: Plan, seconds: float, record: dict[str, Any]) -> None:
    """What it is, and what it can at most: the rates that the floors are of."""
    device, least = plan.place, plan.seconds
    record |= {
        "device": device_name(device),
        "architecture": architecture(),
        "commit": plan.commit or commit(),
        "machine": state(device),
        "tf32": allows_tf32(),
        "seed": plan.seed,
        "seconds": plan.seconds,
        "versions": versions("numpy", "triton", *PACKAGES),
        "copy_bytes_per_second": copy_bandwidth(device, least),
        "matmul_flops_per_second": {name: matmul_rate(DTYPES[name], device, least) for name in plan.dtypes},
    }
    if device.type == "cuda":
        record["least_seconds"] = least_time(device, least)


def _check(step: Step, plan: Plan, seconds: float, record: dict[str, Any]) -> None:
    """A kernel's checks; then what a compiler makes of the usual form is made, and found again when it is measured."""
    work, shapes = workload(step.kernel), plan.shapes(step.kernel)
    most = 1 if plan.dry else None

    def all_of(results: Iterator[dict[str, Any]]) -> None:
        for result in results:
            record["results"].append(result)
            write(step, plan, record)

    # In the order of what would be missed most, since time may run out.
    all_of(odd_checks(work, ("fp32",) if plan.dry else ("fp32", "bf16"), plan.place, plan.seed, most))
    all_of(target_checks(work, plan.dtypes, plan.place, shapes, plan.seed))
    if not plan.dry:
        record["compiled"] = {}
        for shape in shapes:
            record["compiled"][shape] = _compiled(step.kernel, plan, shape)
            write(step, plan, record)
        all_of(odd_checks(work, ("fp16",), plan.place, plan.seed))


def _compiled(kernel: str, plan: Plan, shape: str) -> float | str:
    """The seconds that a compiler took at a shape, or why it failed."""
    begun = time.perf_counter()
    try:
        request = Request.of(kernel, shapes=(shape,), dtype=plan.dtypes[0], providers=("compile",), device=plan.device)
        inputs = request.inputs(shape)
        leaves = {name: inputs[name].detach().requires_grad_() for name in request.workload.gradient}
        run = request.provider("compile")
        with torch.no_grad():
            run(**inputs)
        total(run(**{**inputs, **leaves})).backward()
    except Exception as error:
        return "out of memory" if out_of_memory(error) else f"{type(error).__name__}: {error}"[:300]
    return round(time.perf_counter() - begun, 2)


def _tune(step: Step, plan: Plan, seconds: float, record: dict[str, Any]) -> None:
    """The time of each set of launch constants at each target, as long as there is time; ours are the first."""
    stop = time.perf_counter() + seconds
    work, dtype = workload(step.kernel), plan.dtypes[0]
    record |= {"architecture": architecture(), "kernel": step.kernel, "dtype": dtype}
    for shape in plan.shapes(step.kernel):
        torch.manual_seed(plan.seed)
        inputs = work.inputs(work.sizes(shape), DTYPES[dtype], plan.place)
        ours: list[torch.Tensor] = []
        for constants in ({}, *(dict(each) for each in work.candidates)):
            if ours and time.perf_counter() > stop:
                return
            result: dict[str, Any] = {"shape": shape, "constants": constants}
            try:
                with trying(step.kernel, constants) as classes:
                    found = outcome(work, partial(work.kernel, backend="triton"), inputs)
                    ours = ours or found
                    call = partial(outcome, work, partial(work.kernel, backend="triton"), inputs)
                    result |= durations(call, plan.place, plan.seconds, least=1).record()
                result["class"] = classes[0]
                result["apart"] = max(relative(one, two) for one, two in zip(found, ours, strict=True))
            except Exception as error:  # more registers or shared memory than there are, for one
                result["failed"] = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
            record["results"].append(result)
            write(step, plan, record)


def preferred(records: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, dict[str, dict[str, int]]]]:
    """The constants that were faster than ours by more than the noise and gave the same.

    Args:
        records: of steps that tuned.

    Returns:
        By architecture, kernel and class of shapes, as `kdzoo.kernels.tuning` reads them.
    """
    best: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    for record in records:
        timed = [result for result in record["results"] if "failed" not in result]
        for name in dict.fromkeys(result["class"] for result in timed):
            # Of several targets of a class, the largest, which is the last.
            shape = [result["shape"] for result in timed if result["class"] == name][-1]
            found = [result for result in timed if result["shape"] == shape and result["apart"] <= SAME]
            ours = next((result["seconds"] for result in found if not result["constants"]), None)
            first = min(found, key=lambda result: result["seconds"], default=None)
            if ours and first and first["seconds"] < FASTER * ours:
                kernels = best.setdefault(record["architecture"], {})
                kernels.setdefault(record["kernel"], {})[name] = first["constants"]
    return best


def _measure(step: Step, plan: Plan, seconds: float, record: dict[str, Any]) -> None:
    """All providers of a kernel at its targets."""
    begun = time.perf_counter()
    providers = ("naive", "torch", "triton") if plan.dry else ()
    shapes = plan.shapes(step.kernel)
    request = Request.of(step.kernel, shapes=shapes, dtype=step.dtype, providers=providers, device=plan.device)
    setting = read_json(Step(MACHINE).file(plan))
    if "failed" in setting:
        raise RuntimeError(f"the machine's rates are not known: {setting['failed']}")
    record |= {
        **{key: setting[key] for key in setting if key not in record and key != "took_seconds"},
        "kernel": step.kernel,
        "dtype": step.dtype,
        "matmul_flops_per_second": setting["matmul_flops_per_second"][step.dtype],
        "machine": state(plan.place),
        "asked": request.asked(),
    }
    left = max(seconds - (time.perf_counter() - begun), 1.0)
    # What the checks compiled is found again.
    compiling = FOUND if step.dtype == plan.dtypes[0] else COMPILING
    options: dict[str, Any] = {"least": 1 if plan.dry else LEAST, "compiling": compiling}
    for result in measure(request, seconds=plan.seconds, budget=left, setting=record, **options):
        if result is not record:
            record["results"].append(result)
            write(step, plan, record)
