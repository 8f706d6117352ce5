"""`python -m kdzoo.bench.measure.gpu --budget 480 OUT`: all that a GPU is needed for, in one call of eight minutes.

Checks every kernel on CUDA at odd shapes and at its targets, then measures the targets beside what else there is, with
torch, triton and numpy alone. A JSON file a step goes into the folder OUT, and all of them together into summary.json.
"""

from __future__ import annotations

import argparse
import importlib
import json
import math
import multiprocessing
import os
import secrets
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from kdzoo.bench.columns import Columns, short
from kdzoo.bench.files import read_json, write_atomically
from kdzoo.bench.measure.kernels.request import DTYPES
from kdzoo.bench.measure.steps import MACHINE, Plan, Step, preferred, run, write
from kdzoo.bench.measure.workloads import names, workload
from kdzoo.errors import DistillationFailure, KdzooError, unknown
from kdzoo.kernels.backend import interpreting
from kdzoo.kernels.tuning import VARIABLE

# The most important first, since time may run out: those that matrix products bound, and those that rows are read for.
ORDER = (
    *("info_nce", "divergence", "linear_divergence", "cos_nce", "relation", "gram", "crd_nce"),
    *("normalized_mse", "cosine", "hidden_mse"),
)
CHECKING = 0.33  # of the budget, at most, for all checks
TUNING = 0.2  # of the budget, at most, for trying launch constants
SHARE = 1.6  # of what each of the steps that are left would get of the time that is left
GRACE = 1.3  # times what it was given, after which a step is ended
NO_TIME = "no time was left for it"
LEAST = 5.0  # seconds without which no step is begun


class Clock:
    """How much of the budget is left."""

    def __init__(self, budget: float) -> None:
        self._stop = time.monotonic() + budget

    @property
    def left(self) -> float:
        return self._stop - time.monotonic()


def steps(plan: Plan, kernels: Sequence[str]) -> tuple[list[Step], list[Step]]:
    """The checks, which run side by side, and the measurements, one after another."""
    checks = [Step("check", kernel) for kernel in kernels]
    return checks, [Step("measure", kernel, dtype) for dtype in plan.dtypes for kernel in kernels]


def run_all(
    plan: Plan, kernels: Sequence[str], budget: float, jobs: int, tune: bool = False
) -> dict[str, dict[str, Any]]:
    """All steps within the budget; what came of them, by step, is in the folder, too.

    Args:
        plan: what they share.
        kernels: the most important first.
        budget: seconds.
        jobs: how many checks run at a time.
        tune: whether to try other launch constants, and measure with those that are faster.
    """
    clock = Clock(budget)
    checks, measurements = steps(plan, kernels)
    _together([Step(MACHINE)], plan, 1, budget / 4)
    _gather(plan)
    _together(checks, plan, jobs, min(CHECKING * budget, clock.left))
    if tune:
        tunings = [Step("tune", kernel) for kernel in kernels if workload(kernel).candidates]
        for step in tunings:
            _together([step], plan, 1, min(TUNING * budget / len(tunings), clock.left))
        found = preferred(read_json(step.file(plan)) for step in tunings)
        write_atomically(plan.out / "tuning.json", json.dumps(found, indent=1) + "\n")
        os.environ[VARIABLE] = str((plan.out / "tuning.json").resolve())  # for what is measured now
    for number, step in enumerate(measurements):
        given = min(SHARE * clock.left / (len(measurements) - number), clock.left)
        if given < LEAST:
            write(step, plan, {"step": step.name, "failed": NO_TIME, "results": []})
            continue
        _together([step], plan, 1, given)
        _gather(plan)
    return _gather(plan)


def _together(every: Sequence[Step], plan: Plan, jobs: int, seconds: float) -> None:
    """Steps in processes of their own, so many at a time, and ended where they take much longer than they are given."""
    # A dry run has no device that a fork would lose, and saves importing torch again.
    context: Any = multiprocessing.get_context("fork" if plan.dry and sys.platform == "linux" else "spawn")
    stop = time.monotonic() + GRACE * seconds
    waiting = list(every)
    running: dict[Step, Any] = {}
    while waiting or running:
        while waiting and len(running) < jobs and time.monotonic() < stop:
            step = waiting.pop(0)
            with suppress(FileNotFoundError):  # of an earlier call
                step.file(plan).unlink()
            process = context.Process(target=run, args=(step, plan, seconds))
            process.start()
            running[step] = process
        for step, process in list(running.items()):
            process.join(0.05)
            late = time.monotonic() > stop
            if process.is_alive() and late:
                process.kill()
                process.join()
            if not process.is_alive():
                del running[step]
                _ended(step, plan, process.exitcode, late)
        if time.monotonic() > stop:
            for step in waiting:
                write(step, plan, {"step": step.name, "failed": NO_TIME, "results": []})
            waiting = []


def _ended(step: Step, plan: Plan, code: int | None, late: bool) -> None:
    """Write down a step that did not end by itself, and say how each ended."""
    try:
        record = read_json(step.file(plan))
    except KdzooError:
        record = {"step": step.name, "results": []}
    if code != 0 and "failed" not in record:
        how = "took too long and was ended" if late else f"its process ended with {code}"
        write(step, plan, record | {"failed": how})
        record["failed"] = how
    print(f"{step.name}: {record.get('failed', 'done')}, {len(record['results'])} results", file=sys.stderr, flush=True)


def _gather(plan: Plan) -> dict[str, dict[str, Any]]:
    """All steps' records in one file."""
    found = {}
    for path in sorted(plan.out.glob("*.json")):
        with suppress(KdzooError):
            record = read_json(path)
            if record.get("step") == path.stem:
                found[path.stem] = record
    write_atomically(plan.out / "summary.json", json.dumps({"steps": found}, indent=1) + "\n")
    return found


# What came of it


def wrong(records: dict[str, dict[str, Any]]) -> Iterator[str]:
    """What failed a check, and what steps failed, a line each."""
    for name, record in records.items():
        if record.get("failed", NO_TIME) != NO_TIME:
            yield f"{name}: {record['failed']}"
        for result in record.get("results", []):
            for what in result.get("wrong", []):
                given = f"{result['shape']} {result['dtype']} {result['backend']} {result['options'] or ''}".strip()
                yield f"{name}: {given}: {what}"


def table(records: dict[str, dict[str, Any]]) -> Columns:
    """Of each target, ours beside the fastest of the others, forward and backward."""
    body = []
    for record in records.values():
        if not record["step"].startswith("measure"):
            continue
        for shape in dict.fromkeys(result["shape"] for result in record["results"]):
            times = {r["provider"]: r["both"] for r in record["results"] if r["shape"] == shape and "both" in r}
            ours = times.pop("triton", None)
            others = {name: part["seconds"] for name, part in times.items()}
            best = min(others, key=others.__getitem__, default=None)
            cells = [record["kernel"], shape, record["dtype"]]
            cells += [short(1e3 * ours["seconds"]), f"{ours['of_floor']:.2f}"] if ours else ["", ""]
            cells += [f"{best} {short(1e3 * others[best])}"] if best else [""]
            cells += [f"{others[best] / ours['seconds']:.2f}"] if best and ours else [""]
            body.append(cells)
    head = ["kernel", "shape", "dtype", "triton, ms", "of the floor", "best other, ms", "times faster"]
    return Columns(head, body, "forward and backward", names=3)


def main(arguments: Sequence[str] | None = None) -> int:
    """1 where a check or a step failed, 2 for what was asked wrongly."""
    given = _parser().parse_args(arguments)
    try:
        return _run(given)
    except (KdzooError, DistillationFailure) as error:
        print(f"kdzoo: {error}", file=sys.stderr)
        return 2 if isinstance(error, KdzooError) else 1


def _run(given: argparse.Namespace) -> int:
    kernels, dtypes = (
        list(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
        for text in (given.kernels or ",".join(ORDER), given.dtypes)
    )
    for kind, chosen, valid in (("kernel", kernels, names()), ("dtype", dtypes, list(DTYPES))):
        for name in chosen:
            if name not in valid:
                raise unknown(kind, name, valid)
    # A NaN is neither above nor below anything.
    if not dtypes or not 0 < given.budget < math.inf or not 0 <= given.seconds < math.inf:
        raise KdzooError("--dtypes names one type at least, --budget is above 0 and --seconds is not below")
    if given.jobs is not None and given.jobs < 1:
        raise KdzooError(f"--jobs is {given.jobs}; at least one check runs at a time")
    if given.dry_run:
        if "triton" in sys.modules and not interpreting():
            raise KdzooError("Triton is imported already; set TRITON_INTERPRET=1 for a dry run")
        os.environ["TRITON_INTERPRET"] = "1"
        for package in ("triton", "torch._inductor.config"):  # once, for all of the processes that are forked
            importlib.import_module(package)
    elif not torch.cuda.is_available():
        raise KdzooError("there is no CUDA device here; --dry-run tries the script on a CPU")
    try:
        given.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise KdzooError(f"{given.out} cannot be made: {error.strerror or error}") from None
    seed = secrets.randbelow(2**31) if given.seed is None else given.seed
    device = "cpu" if given.dry_run else "cuda"
    plan = Plan(
        out=given.out,
        device=device,
        dtypes=tuple(dtypes[:1] if given.dry_run else dtypes),
        seconds=0.0 if given.dry_run else given.seconds,
        seed=seed,
        commit=given.commit,
    )
    records = run_all(plan, kernels, given.budget, given.jobs or max(1, min(8, (os.cpu_count() or 2) - 1)), given.tune)
    checks = [r for name, record in records.items() if name.startswith("check") for r in record["results"]]
    said = list(wrong(records))
    for record in records.values():
        said += [f"{record['step']}: warning: {line}" for line in record.get("warnings", [])]
    if late := [name for name, record in records.items() if record.get("failed") == NO_TIME]:
        said.append(f"no time was left for {', '.join(late)}")
    print(table(records).text(), *said, sep="\n")
    right = sum(not result["wrong"] and "failed" not in result for result in checks)
    none = sum("failed" in result for result in checks)
    much = f", {none} need more memory than there is" if none else ""
    print(f"{right} of {len(checks)} checks are right{much}; the records are in {given.out}, together in summary.json")
    return int(any(wrong(records)))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m kdzoo.bench.measure.gpu", description=__doc__)
    add = parser.add_argument
    add("out", type=Path, metavar="OUT", help="folder for the records")
    add("--budget", type=float, default=480.0, help="seconds in which to be done")
    add("--kernels", default="", help="kernels, separated by commas; all by default")
    add("--dtypes", default="bf16,fp32", help="types to measure in, the most important first")
    add("--seconds", type=float, default=0.1, help="how long each time is taken for")
    add("--jobs", type=int, help="checks at a time")
    add("--seed", type=int, default=None, help="of the inputs of checks; fresh by default, and in the record")
    add("--commit", default=None, help="of the code, where there is no checkout to ask")
    add("--tune", action="store_true", help="try other launch constants, and measure with those that are faster")
    add("--dry-run", action="store_true", help="on a CPU, with Triton's interpreter, at tiny shapes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
