"""A profile from beginning to end, as both command lines make it: each result is written when it is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kdzoo.bench.columns import Columns
from kdzoo.bench.files import make_folder, read_json
from kdzoo.bench.measure.kernels.measuring import measure
from kdzoo.bench.measure.kernels.record import Older, record_path, write_record
from kdzoo.bench.measure.kernels.request import Request
from kdzoo.bench.measure.kernels.showing import profile_columns, warnings
from kdzoo.errors import DistillationFailure


@dataclass(frozen=True)
class Options:
    """How to measure, and where to write.

    Attributes:
        out: the folder of the record and the plots.
        seconds: how long each time is taken for.
        budget: seconds in which to be done, about.
        trace: whether to write a trace of each provider at each shape.
        against: an older record to compare with.
    """

    out: Path
    seconds: float = 1.0
    budget: float | None = None
    trace: bool = False
    against: Path | None = None


@dataclass(frozen=True)
class Profile:
    """What came of it: the table, and lines to print below it."""

    columns: Columns
    said: list[str]


def profiled(request: Request, options: Options, progressed: Callable[[dict[str, Any], int, int], None]) -> Profile:
    """Measure what is asked.

    Args:
        request: what to measure.
        options: how, and where to write.
        progressed: called with each result, how many there are, and how many there will be.

    Raises:
        KdzooError: for an older record that is none, or a folder that cannot be written, before anything is measured.
        DistillationFailure: when something cannot be written.
    """
    older = Older(options.against, request.kernel, request.dtype) if options.against else None
    make_folder(options.out)
    trace = options.out / "traces" if options.trace else None
    measured = measure(request, seconds=options.seconds, budget=options.budget, trace=trace)
    setting = next(measured)
    path = record_path(options.out, setting, request.device.type)
    results: list[dict[str, Any]] = []
    for result in measured:
        results.append(result)
        write_record(path, setting, results)
        progressed(result, len(results), len(setting["asked"]))
    ordered = read_json(path)["results"]
    plots = _plots(path, setting, ordered)
    files = [str(path), *map(str, plots), *([f"{trace}/ (traces)"] if trace else [])]
    said = [*warnings(setting, older), f"record and plots: {', '.join(files)}"]
    if not plots:
        said.append("no plots: matplotlib is not installed")
    return Profile(profile_columns(setting, ordered, older), said)


def _plots(path: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> list[Path]:
    """The plots beside a record: times, and the roofline. None where matplotlib is not installed.

    Raises:
        DistillationFailure: when they cannot be written.
    """
    try:
        from kdzoo.bench.measure.kernels.plots import plot_roofline, plot_times
    except ImportError:
        return []
    files = [path.with_suffix(".png"), path.with_name(f"{path.stem}-roofline.png")]
    for file, plot in zip(files, (plot_times, plot_roofline), strict=True):
        try:
            plot(file, setting, results)
        except OSError as error:
            raise DistillationFailure(f"cannot write {file}: {error.strerror or error}") from error
    return files
