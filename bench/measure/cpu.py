"""`python -m kdzoo.bench.measure.cpu OUT.json`: each kernel's loss on a CPU beside eager PyTorch and torch.compile.

One thread, forward and backward, called as a user calls it: ours through `kdzoo.create`. The three take turns, so that a
busy moment falls on all of them, and the median of each is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kdzoo
from kdzoo.bench.columns import Columns, short
from kdzoo.bench.files import now, write_atomically
from kdzoo.bench.measure.kernels.machine import commit, state
from kdzoo.bench.measure.workloads import Inputs, workload
from kdzoo.bench.timing import device_name, quiet_stderr, versions
from kdzoo.errors import KdzooError, unknown

OURS = "kdzoo"
GOAL = 0.95  # the best of the others over ours; below, `auto` is slower than what a user has without us


class Called(NamedTuple):
    """A kernel's loss as a user has it.

    Attributes:
        loss: its name for `kdzoo.create`.
        options: of it, so that it computes what the workload's ``naive`` does.
        shapes: small ones, such as a batch's classes or CLS vectors, and large ones.
    """

    loss: str
    options: Mapping[str, Any]
    shapes: Sequence[str]


ROWS = ("32x768", "256x768", "1024x768", "16x128x768", "32x128x768", "32x4x128x384")
LOSSES = {
    "cosine": Called("cosine", {}, ROWS),
    "normalized_mse": Called("pkd", {}, ROWS),
    "hidden_mse": Called("hidden_mse", {}, ROWS),
    "divergence": Called(
        "kd", {"temperature": 1.0}, ("32x3", "64x1000", "256x1000", "16x30522", "64x30522", "4x128256")
    ),
    "cos_nce": Called("cos_nce", {}, ("16x768", "64x768", "256x768", "1024x768", "64x4x64x384")),
    "info_nce": Called("info_nce", {"temperature": 0.07}, ("16x768", "64x768", "256x768", "1024x768", "4096x256")),
}


def compared(kernel: str, shape: str, seconds: float) -> dict[str, Any]:
    """One result: the median seconds of ours, eager and compiled, and the best of the others over ours.

    Args:
        kernel: one of `LOSSES`.
        shape: of its workload, as text.
        seconds: how long to go on, for all three together.
    """
    work, called = workload(kernel), LOSSES[kernel]
    torch.manual_seed(0)
    inputs = work.inputs(work.sizes(shape), torch.float32, torch.device("cpu"))
    loss = kdzoo.create(called.loss, **called.options)
    steps = {
        OURS: _step(lambda student, teacher: loss(student, teacher), inputs),
        "eager": _step(work.naive, inputs),
        "compile": _step(work.provider("compile"), inputs),
    }
    with quiet_stderr():
        values = {name: step() for name, step in steps.items()}
    times: dict[str, list[float]] = {name: [] for name in steps}
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[OURS]) < 7:
        for name, step in steps.items():
            begun = time.perf_counter()
            step()
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    best = min(medians["eager"], medians["compile"])
    return {
        "kernel": kernel,
        "loss": called.loss,
        "shape": shape,
        "value": values,
        "seconds": medians,
        "calls": len(times[OURS]),
        "ratio": best / medians[OURS],
    }


def _step(run: Callable[..., Tensor], inputs: Inputs) -> Callable[[], float]:
    """A training step's share: value and gradient at the student."""
    student = inputs["student"].detach().clone().requires_grad_()

    def step() -> float:
        student.grad = None
        value = run(student, inputs["teacher"])
        value.backward()
        return value.item()

    return step


def results(kernels: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """One result a kernel and shape."""
    for kernel in kernels:
        for shape in LOSSES[kernel].shapes:
            yield compared(kernel, shape, seconds)


def table(record: Mapping[str, Any]) -> Columns:
    """The times side by side."""
    head = ["kernel", "loss", "shape", "kdzoo, ms", "eager, ms", "compiled, ms", "best of both over kdzoo"]
    body = [
        [
            *(result[name] for name in ("kernel", "loss", "shape")),
            *(short(1e3 * result["seconds"][name]) for name in (OURS, "eager", "compile")),
            f"{result['ratio']:.2f}",
        ]
        for result in record["results"]
    ]
    return Columns(head, body, "forward and backward, one thread", names=3)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m kdzoo.bench.measure.cpu", description=__doc__)
    parser.add_argument("out", type=Path, metavar="OUT", help="file for the record, JSON")
    parser.add_argument("--kernels", default=",".join(LOSSES), help="separated by commas; all by default")
    parser.add_argument("--seconds", type=float, default=3.0, help="how long each shape is measured for")
    given = parser.parse_args(arguments)
    kernels = [name.strip() for name in given.kernels.split(",")]
    try:
        for name in kernels:
            if name not in LOSSES:
                raise unknown("kernel", name, list(LOSSES))
    except KdzooError as error:
        print(f"kdzoo: {error}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    device = torch.device("cpu")
    record: dict[str, Any] = {
        "device": device_name(device),
        "at": now(),
        "commit": commit(),
        "machine": state(device),
        "versions": versions("numpy"),
        "threads": 1,
        "results": [],
    }
    for result in results(kernels, given.seconds):
        record["results"].append(result)
        write_atomically(given.out, json.dumps(record, indent=1) + "\n")
        print(f"{result['kernel']} {result['shape']}: {result['ratio']:.2f}", file=sys.stderr, flush=True)
    print(table(record).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
