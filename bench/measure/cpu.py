"""`python -m kdzoo.bench.measure.cpu OUT.json`: each kernel's loss on a CPU beside eager PyTorch and torch.compile.

One thread, forward and backward, called as a user calls it: ours through `kdzoo.create`. They take turns, so that
a busy moment falls on all of them, and the median of each is kept. `kdzoo table OUT.json` prints the table again.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

import kdzoo
from kdzoo.bench.columns import Columns, short
from kdzoo.bench.files import now, write_atomically
from kdzoo.bench.measure.kernels.machine import commit, state
from kdzoo.bench.measure.workloads import Inputs, Workload, workload
from kdzoo.bench.timing import device_name, quiet_stderr, versions
from kdzoo.errors import KdzooError, unknown
from kdzoo.models.activations import QKV

OURS, OURS_COMPILED = "kdzoo", "kdzoo compiled"
LEAST = 7  # calls of each


class Called(NamedTuple):
    """A kernel's loss as a user has it.

    Attributes:
        loss: its name for `kdzoo.create`.
        options: of it, so that it computes what the workload's ``naive`` does.
        shapes: small ones, such as the CLS vectors or classes of a batch, and large ones.
        sides: what the loss is called with, of the workload's inputs.
    """

    loss: str
    options: Mapping[str, Any]
    shapes: Sequence[str]
    sides: Callable[[Inputs], tuple[Any, Any]] = lambda given: (given["student"], given["teacher"])


def _heads(given: Inputs) -> tuple[QKV, QKV]:
    (query, key), (other_query, other_key) = (
        [given[f"{side}_{name}"] for name in ("query", "key")] for side in ("student", "teacher")
    )
    return QKV(query, key, key.detach()), QKV(other_query, other_key, other_key)


ROWS = ("32x768", "256x768", "1024x768", "16x128x768", "32x128x768")
LOSSES = {
    "cosine": Called("cosine", {}, ROWS),
    "normalized_mse": Called("pkd", {}, ROWS),
    "hidden_mse": Called("hidden_mse", {}, ROWS),
    "divergence": Called("kd", {"temperature": 1.0}, ("32x3", "64x1000", "256x1000", "16x30522", "64x30522")),
    "cos_nce": Called("cos_nce", {}, ("16x768", "64x768", "256x768", "1024x768", "64x4x64x384")),
    "info_nce": Called("info_nce", {"temperature": 0.07}, ("16x768", "64x768", "256x768", "1024x768")),
    "relation": Called("attention_kl", {}, ("8x12x32x32", "8x12x64x32", "8x12x128x64"), _heads),
}


def compared(kernel: str, shape: str, seconds: float) -> dict[str, Any]:
    """One result: median seconds of ours and of the usual way, each as it is and compiled, and their ratios.

    Args:
        kernel: one of `LOSSES`.
        shape: of its workload, as text.
        seconds: how long to go on, for all together.
    """
    work, called = workload(kernel), LOSSES[kernel]
    torch.manual_seed(0)
    inputs = work.inputs(work.sizes(shape), torch.float32, torch.device("cpu"))
    loss = kdzoo.create(called.loss, **called.options)

    def run(**given: Any) -> Tensor:
        value: Tensor = loss(*called.sides(given))
        return value

    torch._dynamo.reset()
    steps = {
        OURS: _step(run, work, inputs),
        OURS_COMPILED: _step(torch.compile(run), work, inputs),
        "eager": _step(work.naive, work, inputs),
        "compiled": _step(torch.compile(work.naive), work, inputs),
    }
    with quiet_stderr(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the compiler
        values = {name: step() for name, step in steps.items()}
        for step in steps.values():
            step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    turns = random.Random(0)
    stop = time.perf_counter() + seconds
    while time.perf_counter() < stop or len(times[OURS]) < LEAST:
        # In another order each time: whoever comes after a large one finds the cache emptied.
        for name in turns.sample(list(steps), len(steps)):
            begun = time.perf_counter()
            steps[name]()
            times[name].append(time.perf_counter() - begun)
    medians = {name: statistics.median(taken) for name, taken in times.items()}
    return {
        "kernel": kernel,
        "loss": called.loss,
        "shape": shape,
        "values": values,
        "seconds": medians,
        "calls": len(times[OURS]),
        "ratio": min(medians["eager"], medians["compiled"]) / medians[OURS],
        "ratio_compiled": medians["compiled"] / medians[OURS_COMPILED],
    }


def _step(run: Callable[..., Tensor], work: Workload, inputs: Inputs) -> Callable[[], float]:
    """A training step's share: value and gradient at the student."""
    leaves = {name: inputs[name].detach().clone().requires_grad_() for name in work.gradient}

    def step() -> float:
        for leaf in leaves.values():
            leaf.grad = None
        value = run(**{**inputs, **leaves})
        value.backward()
        return value.item()

    return step


def results(kernels: Sequence[str], seconds: float) -> Iterator[dict[str, Any]]:
    """One result a kernel and shape."""
    for kernel in kernels:
        for shape in LOSSES[kernel].shapes:
            yield compared(kernel, shape, seconds)


def cpu_columns(record: Mapping[str, Any]) -> Columns:
    """The times side by side."""
    names = (OURS, "eager", OURS_COMPILED, "compiled")
    head = ["kernel", "loss", "shape", *(f"{name}, ms" for name in names)]
    ratios = (("eager", OURS), ("compiled", OURS), ("compiled", OURS_COMPILED))
    head += [f"{other} over {ours}" for other, ours in ratios]
    body = [
        [
            *(result[name] for name in ("kernel", "loss", "shape")),
            *(short(1e3 * result["seconds"][name]) for name in names),
            *(f"{result['seconds'][other] / result['seconds'][ours]:.2f}" for other, ours in ratios),
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
        "against": ["eager", "compiled"],
        "threads": 1,
        "results": [],
    }
    for result in results(kernels, given.seconds):
        record["results"].append(result)
        write_atomically(given.out, json.dumps(record, indent=1) + "\n")
        print(f"{result['kernel']} {result['shape']}: {result['ratio']:.2f}", file=sys.stderr, flush=True)
    print(cpu_columns(record).text())
    return 0


if __name__ == "__main__":
    sys.exit(main())
