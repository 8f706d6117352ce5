"""The table of a comparison, from its records: on the terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from rich.table import Table

from kdzoo.bench.columns import Columns
from kdzoo.bench.record import TEACHER as TEACHER
from kdzoo.bench.record import read_config, read_record, record_paths
from kdzoo.bench.report.uncertainty import AVERAGE, LEVEL, Bootstrap, marks
from kdzoo.errors import KdzooError, unknown

PARTS = ("teacher", "forward", "loss", "backward", "optimizer", "other", "student", "update")  # of a step; old and new
COSTS = ("samples_per_second", "tokens_per_second", "train_seconds", "steps", "peak_memory", "parameters",
         "loss_parameters", "flops", "evaluation_samples_per_second", "cached", "threads", "device")  # fmt: skip
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
         "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
         **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip


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
    def means(self) -> dict[str, float]:
        """The mean score by task."""
        return {task: fmean(scores) for task, scores in self.scores.items()}

    @property
    def average(self) -> float:
        """The mean over tasks of the mean over seeds."""
        return fmean(self.means.values())


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


def means_of(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each student's mean score by task, and on the average where it has all tasks."""
    tasks = {record["task"] for record in records}
    students = [row for row in rows_of(records) if row.method != TEACHER]
    return {row.method: row.means | ({AVERAGE: row.average} if tasks == row.scores.keys() else {}) for row in students}


def seeds_of(records: Sequence[dict[str, Any]], failed: Sequence[tuple[str, str, int]] = ()) -> int:
    """How many seeds the students have; the most that any of them has on a task, those that failed included."""
    jobs = {(record["task"], record["method"], record["seed"]) for record in records} | set(failed)
    return max(Counter(job[:2] for job in jobs if job[1] != TEACHER).values(), default=0)


def seeds_note(found: int, failed: int, seeds: int) -> str:
    """What a cell of a table is told to lack: ``2 of 3 seeds, 1 failed``; empty where it has all."""
    short = f"{found} of {seeds} seeds" if 0 < found < seeds and found + failed < seeds else ""
    return ", ".join(part for part in (short, f"{failed} failed" if failed else "") if part)


def cells_of(
    records: Sequence[dict[str, Any]],
    against: str | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    *,
    running: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """The table's head and body as text: mean ± std over seeds, average, retention, speed, parameters.

    Args:
        records: of a comparison.
        against: a method; one column more has each other's difference to it with its interval.
        failed: task, method and seed of trainings without a record; their columns count them.
        running: seeds that are missing are still to come, and not worth a word.

    Raises:
        KdzooError: when there is no such method.
    """
    tasks = list({record["task"]: None for record in records} | {task: None for task, _, _ in failed})
    rows = rows_of(records)
    teacher = next((row for row in rows if row.method == TEACHER), None)
    if against is not None and against not in (row.method for row in rows):
        raise unknown("method", against, {row.method for row in rows})
    head = ["method", *tasks, "average", "retention", "train rows/s", "parameters"]
    body = []
    seeds = 0 if running else seeds_of(records, failed)

    def told(method: str, task: str, scores: list[float]) -> str:
        lost = sum(job[:2] == (task, method) for job in failed)
        note = seeds_note(len(scores), lost, 0 if method == TEACHER else seeds)
        return ", ".join(part for part in (_mean_std(scores), note) if part)

    for row in rows:
        complete = all(task in row.scores for task in tasks)
        retention = row.average / teacher.average if teacher is not None and complete and teacher.average else None
        body.append(
            [
                row.method,
                *(told(row.method, task, row.scores.get(task, [])) for task in tasks),
                f"{row.average:.1f}" if complete else "",
                "" if retention is None else f"{retention:.1%}",
                f"{row.samples_per_second:.0f}",
                f"{row.parameters / 1e6:.2f} M",
            ]
        )
    if against is not None:
        bootstrap = Bootstrap(records)
        if bootstrap.unlabelled:
            raise KdzooError(
                f"the records of {', '.join(bootstrap.unlabelled)} hold no labels, so no interval can be given; "
                "compare with a version that keeps them, into another folder"
            )
        head.append(f"to {against} [{LEVEL:.0%}]")
        for row, cells in zip(rows, body, strict=True):
            gain = None if row.method == against else bootstrap.difference(row.method, against)
            cells.append("" if gain is None else str(gain))
    for method in dict.fromkeys(method for _, method, _ in failed if method not in (row.method for row in rows)):
        body.append([method, *(told(method, task, []) for task in tasks), *[""] * (len(head) - 1 - len(tasks))])
    return head, body


def terminal_table(
    records: Sequence[dict[str, Any]],
    title: str,
    against: str | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    *,
    running: bool = False,
) -> Table:
    """The table for a rich console, as `cells_of` has it; the best student of each task in bold."""
    head, body = cells_of(records, against, failed, running=running)
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


def markdown_table(
    records: Sequence[dict[str, Any]], against: str | None = None, failed: Sequence[tuple[str, str, int]] = ()
) -> str:
    """The table in Markdown."""
    return Columns(*cells_of(records, against, failed)).markdown()


def latex_table(
    records: Sequence[dict[str, Any]],
    against: str | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    bootstrap: Bootstrap | None = None,
) -> str:
    """The table in LaTeX: the best of each column in bold, what cannot be told from it underlined.

    Args:
        records: of a comparison.
        against, failed: as in `cells_of`.
        bootstrap: the records', where it has been made already.
    """
    head, body = cells_of(records, against, failed)
    seen = marks(means_of(records), bootstrap or Bootstrap(records), head[1 : head.index(AVERAGE) + 1])
    commands = {"best": "textbf", "level": "underline"}

    def line(cells: Sequence[str], method: str = "") -> str:
        written = []
        for column, cell in zip(head, cells, strict=True):
            mark = seen.get((method, column))
            written.append(f"\\{commands[mark]}{{{latex(cell)}}}" if mark else latex(cell))
        return " & ".join(written) + r" \\"

    rows = [line(cells, cells[0]) for cells in body]
    after_teacher = [r"\midrule"] if body[0][0] == TEACHER and len(body) > 1 else []
    seeds = len({record["seed"] for record in records if record["method"] != TEACHER})
    return "\n".join(
        [
            r"% needs \usepackage{booktabs}",
            r"\begin{table}",
            r"\centering",
            r"\setlength{\abovetopsep}{1ex}",  # LaTeX's own classes leave no room between a caption and what is below
            r"\caption{Validation scores"
            + (rf", mean $\pm$ standard deviation over {seeds} seeds" if seeds > 1 else "")
            + r". Bold: the best student; underlined: its difference to the best has 0 within the "
            rf"{latex(f'{LEVEL:.0%}')} interval of a paired bootstrap over validation rows"
            + (" and seeds" if seeds > 1 else "")
            + ".}",
            rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
            r"\toprule",
            line(head),
            r"\midrule",
            rows[0],
            *after_teacher,
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def latex(text: str) -> str:
    """Text with what LaTeX gives a meaning to escaped, and minus signs for those of numbers."""
    return re.sub(r"(?<![\w.])-(?=\d)", "$-$", "".join(LATEX.get(sign, sign) for sign in text))


def csv_table(records: Sequence[dict[str, Any]]) -> str:
    """One line a cell: score, every metric, speed, step split, memory, parameters, FLOPs and inference as CSV."""
    metrics = list({name: None for record in records for name in record.get("metrics", {})})
    batches = sorted({batch for record in records for batch in record.get("inference", {})}, key=int)
    parts = [part for part in PARTS if any(part in record.get("step_seconds", {}) for record in records)]
    plain = ("task", "method", "seed", "score")
    head = [*plain, *metrics, *COSTS, *(f"step_{part}_seconds" for part in parts)]
    for batch in batches:
        head += [f"inference_{batch}_latency_ms", f"inference_{batch}_rows_per_second"]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for record in records:
        values = [record[name] for name in plain]
        values += [record.get("metrics", {}).get(name, "") for name in metrics]
        values += [record.get(name, "") for name in COSTS]
        values += [record.get("step_seconds", {}).get(part, "") for part in parts]
        for batch in batches:
            of_batch = record.get("inference", {}).get(batch, {})
            values += [of_batch.get(name, "") for name in ("latency_ms", "rows_per_second")]
        writer.writerow(values)
    return text.getvalue()


def read_records(folder: Path) -> list[dict[str, Any]]:
    """All records of a comparison's folder: each task's teacher, then its cells.

    Raises:
        KdzooError: when there is none, or one is damaged or written by a newer kdzoo.
    """
    paths = record_paths(folder)
    if not paths:
        raise KdzooError(f"{folder} holds no records; `kdzoo compare --out {folder}` writes them")
    records = [read_record(path) for path in paths]
    order = read_config(folder / "config.json").get("order", {})
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
