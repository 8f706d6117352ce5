"""The report's costs: of training by method, of inference by architecture, each against the score."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from statistics import fmean, stdev

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report import plots
from kdzoo.bench.report.cells import Cell, Plot, Record, Table, _amount, _inference, _scaled
from kdzoo.bench.report.findings import Findings, in_prose
from kdzoo.bench.report.table import PARTS


@dataclass(frozen=True)
class Speed:
    """Of one architecture: the mean over all its cells, and how far the methods' own means deviate.

    What they deviate by is the machine's doing, for models of one architecture do the same work.
    """

    mean: float
    deviation: float

    def __str__(self) -> str:
        return _amount(self.mean) + (f" ± {_amount(self.deviation)}" if self.deviation else "")


# --- training ---------------------------------------------------------------------------------------------------------


def training_plot(found: Findings) -> Plot | None:
    """Score against training throughput."""
    points = _points(found, found.students, lambda record: record["samples_per_second"] or None)
    return _frontier(points, "Training cost: average score against training rows/s", "training rows/s", 14)


def training_table(found: Findings) -> Table:
    """What training costs, by method."""
    rows = []
    for method in found.methods:
        tasks, parts = len(found.rows[method].scores), _parts(found, method)

        def of(name: str, method: str = method) -> float | None:
            return found.mean(method, lambda record: record.get(name))

        rows.append(
            [
                Cell(method, f"{tasks} of {len(found.tasks)} tasks" if tasks < len(found.tasks) else ""),
                Cell(_amount(of("samples_per_second"))),
                Cell(_amount(of("tokens_per_second"))),
                Cell(_amount(1000 * sum(parts.values()))),
                Cell(_amount(of("train_seconds"))),
                Cell(_scaled(of("peak_memory"), "B")),
                Cell(_scaled(of("loss_parameters"))),
            ]
        )
    head = ["method", "train rows/s", "tokens/s", "step, ms", "training, s", "peak memory", "parameters of the loss"]
    return Table("What training costs", head, rows, above=int(TEACHER in found.rows))


def _parts(found: Findings, method: str) -> dict[str, float]:
    """Mean seconds of a training step by part."""
    splits = [record.get("step_seconds", {}) for record in found.of([method])]
    by_part = {part: [split[part] for split in splits if part in split] for part in PARTS}
    return {part: fmean(seconds) for part, seconds in by_part.items() if seconds}


def step_plot(found: Findings) -> str | None:
    """Where the time of a training step goes."""
    parts = {method: of for method in found.students if (of := _parts(found, method))}
    if not parts:
        return None
    said = "; ".join(
        f"{method}: " + ", ".join(f"{part} {1000 * seconds:.0f}" for part, seconds in of.items())
        for method, of in parts.items()
    )
    return plots.steps(parts, "Where the time of a training step goes", f"Milliseconds a step. {said}.")


# --- inference --------------------------------------------------------------------------------------------------------


def architectures(found: Findings) -> list[list[str]]:
    """The methods by the architecture of their models: one task's models of as many parameters have the same."""
    groups: list[tuple[set[tuple[str, int]], list[str]]] = []
    for method in found.methods:
        sizes = {(record["task"], record["parameters"]) for record in found.of([method])}
        same = [group for group in groups if group[0] & sizes]
        joined = (sizes.union(*(of for of, _ in same)), [name for _, names in same for name in names] + [method])
        groups = [group for group in groups if group not in same] + [joined]
    return [names for _, names in groups]


def inference_table(found: Findings) -> Table | None:
    """What inference costs, by architecture."""
    if not any(record.get("inference") for record in found.records):
        return None
    groups = architectures(found)
    speeds = [_pooled(found, names, lambda record: _inference(record, "32", "rows_per_second")) for names in groups]
    teacher = next((speed for names, speed in zip(groups, speeds, strict=True) if TEACHER in names), None)
    rows = []
    for names, speed in zip(groups, speeds, strict=True):
        of_batch = [_pooled(found, names, partial(_inference, batch=batch, name="latency_ms")) for batch in ("1", "32")]
        size, flops = (_mean_of(found, names, partial(_field, name)) for name in ("parameters", "flops"))
        ratio = f"{speed.mean / teacher.mean:.2f} × the teacher" if speed and teacher and TEACHER not in names else ""
        rows.append(
            [
                Cell(_title(names), _members(names)),
                Cell(_scaled(size)),
                Cell(_scaled(flops)),
                *(Cell(str(latency or _amount(None))) for latency in of_batch),
                Cell(str(speed or _amount(None)), ratio),
            ]
        )
    head = ["architecture", "parameters", "FLOPs a row", "latency, batch 1, ms", "latency, batch 32, ms",
            "rows/s, batch 32"]  # fmt: skip
    return Table("What inference costs", head, rows, above=int(TEACHER in found.rows and TEACHER in groups[0]))


def inference_plot(found: Findings) -> Plot | None:
    """Score against the speed of each method's architecture."""
    measured = any(_inference(record, "32", "rows_per_second") for record in found.of(found.students))

    def speed_of(record: Record) -> float | None:
        own = _inference(record, "32", "rows_per_second")
        return own if measured else record.get("evaluation_samples_per_second") or None

    label = "inference rows/s at batch 32" if measured else "validation rows/s"
    points: list[plots.Point] = []
    for names in architectures(found):
        speed = _pooled(found, names, speed_of)
        if speed is not None:
            points += _points(found, names, partial(_same, speed.mean), speed.deviation)
    return _frontier(points, f"Inference cost: average score against {label}", label, 8)


def _field(name: str, record: Record) -> float | None:
    return record.get(name)


def _same(value: float, _: Record) -> float:
    return value


def _title(names: list[str]) -> str:
    """What an architecture is called: by its one method, or as the students'."""
    students = [name for name in names if name != TEACHER]
    if len(students) < 2:
        return " and ".join(names)
    return ("teacher and " if TEACHER in names else "") + f"{len(students)} students"


def _members(names: list[str]) -> str:
    return "" if len(names) < 2 else ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def _mean_of(found: Findings, names: Iterable[str], get: Callable[[Record], float | None]) -> float | None:
    values = [value for record in found.of(names) if (value := get(record)) is not None]
    return fmean(values) if values else None


def _pooled(found: Findings, names: Iterable[str], get: Callable[[Record], float | None]) -> Speed | None:
    names = list(names)
    whole = _mean_of(found, names, get)
    each = [mean for name in names if (mean := found.mean(name, get)) is not None]
    return None if not whole else Speed(whole, stdev(each) if len(each) > 1 else 0.0)


# --- against the score ------------------------------------------------------------------------------------------------


def _points(
    found: Findings, methods: Iterable[str], get: Callable[[Record], float | None], deviation: float = 0.0
) -> Iterator[plots.Point]:
    for method in methods:
        speed = found.mean(method, get)
        if found.complete(method) and speed:
            yield plots.Point(method, speed, found.rows[method].average, found.bootstrap.score(method), deviation)


def _frontier(points: Iterable[plots.Point], title: str, label: str, named: int) -> Plot | None:
    points = list(points)
    if not points:
        return None
    front = ", ".join(f"{in_prose(p.name)} ({p.y:.1f} at {p.x:,.0f})" for p in plots.front(points))
    text = "All methods: " + ", ".join(f"{p.name} ({p.y:.1f} at {p.x:,.0f})" for p in points) + "."
    caption = f"On the Pareto front: {front}."
    return Plot(title, caption, plots.frontier(points, label, title, text, named=named))
