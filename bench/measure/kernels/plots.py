"""A profile's plots: time and share of the floor by shape, and the roofline."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from kdzoo.bench.measure.kernels.showing import title
from kdzoo.bench.measure.workloads import workload

BARS = 5  # shapes up to which there is a bar a provider; of more, which are mostly a sweep, a line
MARKS = "osD^vPX*"


def plot_times(path: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Time by shape, and the floor's share by shape, a bar or a line a provider."""
    shapes = list(dict.fromkeys(shape for shape, _ in setting["asked"]))
    providers = list(dict.fromkeys(provider for _, provider in setting["asked"]))
    wide = 1.2 * len(shapes) * len(providers) / 2 + 3 if len(shapes) <= BARS else len(shapes) + 3
    figure = Figure(figsize=(min(max(7.0, wide), 24.0), 7.0), layout="constrained")
    panels = (("seconds", 1e3, "forward and backward, ms"), ("of_floor", 1.0, "of the floor"))
    for axes, (key, factor, label) in zip(figure.subplots(2, 1), panels, strict=True):
        for number, provider in enumerate(providers):
            found = {r["shape"]: r["both"] for r in results if r["provider"] == provider and "both" in r}
            at = [place for place, shape in enumerate(shapes) if shape in found]
            heights = [factor * found[shapes[place]][key] for place in at]
            if len(shapes) > BARS:
                axes.plot(at, heights, marker=MARKS[number % len(MARKS)], label=provider)
                continue
            places = [place + (number + 0.5) * 0.8 / len(providers) - 0.4 for place in at]
            axes.bar(places, heights, 0.8 / len(providers), label=provider)
        axes.set_xticks(range(len(shapes)), shapes, rotation=0 if len(shapes) <= BARS else 30)
        axes.set_ylabel(label)
        if any("both" in result for result in results):
            axes.set_yscale("log")
    figure.axes[0].legend()
    figure.axes[1].axhline(1.0, color="black", linewidth=0.8)
    figure.suptitle(title(setting), fontsize=9)
    figure.savefig(path, dpi=100, metadata={"Software": None})


def plot_roofline(path: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Operations a second by operations a byte, both of what the task needs, under the measured roof."""
    bandwidth, rate = setting["copy_bytes_per_second"], setting["matmul_flops_per_second"]
    item = {"fp32": 4, "bf16": 2, "fp16": 2}[setting["dtype"]]
    work = workload(setting["kernel"])
    figure = Figure(figsize=(8.0, 5.5), layout="constrained")
    axes = figure.subplots()
    reached = []
    for number, provider in enumerate(dict.fromkeys(provider for _, provider in setting["asked"])):
        points = []
        for result in results:
            if result["provider"] == provider and "both" in result:
                floor = work.floor(work.sizes(result["shape"]), item)[1]
                points.append((floor.flops / floor.bytes, result["both"]["flops_per_second"]))
        reached += points
        axes.plot(*zip(*points, strict=True), MARKS[number % len(MARKS)], label=provider) if points else None
    edge = rate / bandwidth
    ends = [min([edge, *(x for x, _ in reached)]) / 4, max([edge, *(x for x, _ in reached)]) * 4]
    axes.plot([ends[0], edge, ends[1]], [ends[0] * bandwidth, rate, rate], color="black", linewidth=1)
    axes.set(xscale="log", yscale="log", xlabel="operations a byte", ylabel="operations a second")
    axes.grid(True, which="major", linewidth=0.3)
    if reached:
        axes.legend()
    figure.suptitle(title(setting), fontsize=9)
    figure.savefig(path, dpi=100, metadata={"Software": None})
