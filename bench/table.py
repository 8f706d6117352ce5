"""The table of a comparison, from its records: on the terminal, as Markdown and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from kdzoo.bench.records import read_json, write_atomically
from kdzoo.bench.statistics import LEVEL, difference
from kdzoo.errors import KdzooError, unknown

TEACHER = "teacher"


@dataclass
class Row:
    """One method over all tasks.

    Attributes:
        method: its name; the teacher is one.
        scores: by task, a score a seed.
        samples_per_second: training rows a second, the mean over its cells.
        parameters: of the model.
    """

    method: str
    scores: dict[str, list[float]]
    samples_per_second: float
    parameters: int

    @property
    def average(self) -> float:
        """The mean over tasks of the mean over seeds."""
        return fmean(fmean(scores) for scores in self.scores.values())


def rows_of(records: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a method, the teacher first, the others in the records' order."""
    methods = sorted({record["method"]: None for record in records}, key=lambda method: method != TEACHER)
    rows = []
    for method in methods:
        own = [record for record in records if record["method"] == method]
        scores: dict[str, list[float]] = {}
        for record in own:
            scores.setdefault(record["task"], []).append(record["score"])
        speed = fmean(record["samples_per_second"] for record in own)
        rows.append(Row(method, scores, speed, own[0]["parameters"]))
    return rows


def cells_of(records: Sequence[dict[str, Any]], against: str | None = None) -> tuple[list[str], list[list[str]]]:
    """The table's head and body as text: mean ± std over seeds, average, retention, speed, parameters.

    Args:
        records: of a comparison.
        against: a method; one column more has each other's difference to it with its interval.

    Raises:
        KdzooError: when there is no such method.
    """
    tasks = list({record["task"]: None for record in records})
    rows = rows_of(records)
    teacher = next((row for row in rows if row.method == TEACHER), None)
    if against is not None and against not in (row.method for row in rows):
        raise unknown("method", against, {row.method for row in rows})
    head = ["method", *tasks, "average", "retention", "train rows/s", "parameters"]
    body = []
    for row in rows:
        complete = all(task in row.scores for task in tasks)
        retention = row.average / teacher.average if teacher is not None and complete and teacher.average else None
        body.append(
            [
                row.method,
                *(_mean_std(row.scores.get(task, [])) for task in tasks),
                f"{row.average:.1f}" if complete else "",
                "" if retention is None else f"{retention:.1%}",
                f"{row.samples_per_second:.0f}",
                f"{row.parameters / 1e6:.2f} M",
            ]
        )
    if against is not None:
        head.append(f"to {against} [{LEVEL:.0%}]")
        for row, cells in zip(rows, body, strict=True):
            gain = None if row.method == against else difference(records, row.method, against)
            cells.append("" if gain is None else str(gain))
    return head, body


def terminal_table(records: Sequence[dict[str, Any]], title: str, against: str | None = None) -> Table:
    """The table for a rich console; the best student of each task in bold."""
    head, body = cells_of(records, against)
    table = Table(title=title, title_justify="left")
    for name in head:
        table.add_column(name, justify="left" if name == "method" else "right", no_wrap=True)
    students = [row for row in rows_of(records) if row.method != TEACHER]
    best = {
        task: max(students, key=lambda row: fmean(row.scores.get(task, [-1e9]))).method
        for task in head[1 : head.index("average")]
        if students
    }
    for cells in body:
        named = zip(head, cells, strict=True)
        marked = [f"[bold]{cell}[/bold]" if best.get(name) == cells[0] else cell for name, cell in named]
        table.add_row(*marked, end_section=cells[0] == TEACHER)
    return table


def markdown_table(records: Sequence[dict[str, Any]], against: str | None = None) -> str:
    """The table in Markdown."""
    head, body = cells_of(records, against)
    align = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, align, *body)) + "\n"


def write_csv(path: Path, records: Sequence[dict[str, Any]]) -> None:
    """One line a cell: score, every metric, speed, memory and parameters."""
    metrics = list({name: None for record in records for name in record["metrics"]})
    plain = ("task", "method", "seed", "score")
    costs = ("samples_per_second", "train_seconds", "steps", "peak_memory", "parameters", "loss_parameters", "device")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*plain, *metrics, *costs])
    for record in records:
        values = [record["metrics"].get(name, "") for name in metrics]
        writer.writerow([*(record[name] for name in plain), *values, *(record[name] for name in costs)])
    write_atomically(path, text.getvalue())


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a comparison's folder: each task's teacher, then its cells.

    Raises:
        KdzooError: when there is none, or one is damaged.
    """
    paths = sorted(folder.glob("teachers/[!.]*/record.json")) + sorted(folder.glob("cells/*.json"))
    if not paths:
        raise KdzooError(f"{folder} holds no records; `kdzoo compare --out {folder}` writes them")
    records = [read_json(path) for path in paths]
    for path, record in zip(paths, records, strict=True):
        if missing := {"task", "method", "seed", "score", "samples_per_second", "parameters"} - record.keys():
            lacking = ", ".join(sorted(missing))
            raise KdzooError(f"{path} lacks {lacking}; remove it, and what it held is computed again")
    order = read_json(folder / "config.json").get("order", {}) if (folder / "config.json").exists() else {}
    return sorted(
        records,
        key=lambda record: (
            _place(order.get("tasks", []), record["task"]),
            _place([TEACHER, *order.get("methods", [])], record["method"]),
            record["seed"],
        ),
    )


def _place(names: list[str], name: str) -> tuple[int, str]:
    return (names.index(name) if name in names else len(names), name)


def _mean_std(scores: list[float]) -> str:
    if not scores:
        return ""
    return f"{fmean(scores):.1f}" + (f" ± {stdev(scores):.1f}" if len(scores) > 1 else "")
