"""The table of a comparison, from its records: on the terminal, as Markdown, LaTeX and CSV."""

from __future__ import annotations

import csv
import io
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from rich.console import Console, ConsoleOptions, RenderResult
from rich.table import Table

from kdzoo.bench import escape
from kdzoo.bench.columns import Columns
from kdzoo.bench.escape import latex, terminal
from kdzoo.bench.files import DamagedRecord
from kdzoo.bench.packed import Study, read_study
from kdzoo.bench.record import TEACHER as TEACHER
from kdzoo.bench.record import check_answers
from kdzoo.bench.report.folds import joined, joined_jobs
from kdzoo.bench.report.guess import Guess, one_answer, one_answer_note
from kdzoo.bench.report.rows import Row, average_std, averages_of, mean_std, means_of, rows_of, seeds_note, seeds_of
from kdzoo.bench.report.uncertainty import AVERAGE, LEVEL, Bootstrap, leading, marks
from kdzoo.errors import KdzooError, KdzooWarning, unknown

PARTS = ("teacher", "forward", "loss", "backward", "optimizer", "other", "student", "update")  # of a step; old and new
COSTS = ("samples_per_second", "tokens_per_second", "train_seconds", "steps", "peak_memory", "parameters",
         "loss_parameters", "flops", "evaluation_samples_per_second", "cached", "threads", "device")  # fmt: skip
AFTER = ["retention", "train rows/s", "parameters"]  # columns after the average, of which a narrow terminal has fewer


def cells_of(
    records: Sequence[dict[str, Any]],
    against: str | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    *,
    running: bool = False,
) -> tuple[list[str], list[list[str]]]:
    """The table's head and body as text: mean ± std over seeds, average, retention, speed, parameters.

    The folds of a task are one column, see `kdzoo.bench.report.folds`.

    After the teacher's comes a row of what a constant guess scores, see `kdzoo.bench.report.guess`.

    Args:
        records: of a comparison.
        against: a method; one column more has each other's difference to it with its interval.
        failed: task, method and seed of trainings without a record; their columns count them.
        running: seeds that are missing are still to come, and not worth a word.

    Raises:
        KdzooError: when there is no such method.
    """
    records = joined(records)
    failed = joined_jobs(failed, records)
    tasks = list({record["task"]: None for record in records} | {task: None for task, _, _ in failed})
    rows = rows_of(records)
    teacher = next((row for row in rows if row.method == TEACHER), None)
    if against is not None and against not in (row.method for row in rows):
        raise unknown("method", against, {row.method for row in rows})
    seeds = 0 if running else seeds_of(records, failed)
    body = [_row(records, row, teacher, tasks, failed, seeds) for row in rows]
    gains = [""] * len(rows) if against is None else _gains(records, rows, against)
    head = ["method", *tasks, AVERAGE, *AFTER]
    if against is not None:
        head.append(f"to {against} [{LEVEL:.0%}]")
        body = [[*cells, gain] for cells, gain in zip(body, gains, strict=True)]
    for method in dict.fromkeys(method for _, method, _ in failed if method not in (row.method for row in rows)):
        told = [_told([], method, task, failed, seeds) for task in tasks]
        body.append([method, *told, *[""] * (len(head) - 1 - len(tasks))])
    guess = Guess(records)
    if guess.name:
        told = [f"{guess.scores[task]:.1f}" if task in guess.scores else "" for task in tasks]
        average = f"{fmean(guess.scores.values()):.1f}" if len(guess.scores) == len(tasks) else ""
        place = 0 if teacher is None else 1
        body.insert(place, [guess.name, *told, average, *[""] * (len(head) - 2 - len(tasks))])
    return head, body


def _row(
    records: Sequence[dict[str, Any]],
    row: Row,
    teacher: Row | None,
    tasks: Sequence[str],
    failed: Sequence[tuple[str, str, int]],
    seeds: int,
) -> list[str]:
    own = [record for record in records if record["method"] == row.method]
    complete = all(task in row.scores for task in tasks)
    retention = row.average / teacher.average if teacher is not None and complete and teacher.average > 0 else None
    by_task = [[record for record in own if record["task"] == task] for task in tasks]
    average = average_std(row.average, averages_of(own, row.method, tasks), constant=all(map(one_answer, own)))
    return [
        row.method,
        *(_told(of, row.method, task, failed, seeds) for task, of in zip(tasks, by_task, strict=True)),
        average if complete else "",
        "" if retention is None else f"{retention:.1%}",
        f"{row.samples_per_second:.0f}",
        f"{row.parameters / 1e6:.2f} M",
    ]


def _told(
    own: Sequence[dict[str, Any]], method: str, task: str, failed: Sequence[tuple[str, str, int]], seeds: int
) -> str:
    """A method's score on a task, with what its records lack, and whether its models answer everything alike."""
    lost = sum(job[:2] == (task, method) for job in failed)
    lacks = seeds_note(len(own), lost, 0 if method == TEACHER else seeds)
    score = mean_std([record["score"] for record in own], constant=bool(own) and all(map(one_answer, own)))
    return ", ".join(part for part in (score, one_answer_note(own), lacks) if part)


def _gains(records: Sequence[dict[str, Any]], rows: Sequence[Row], against: str) -> list[str]:
    """By row, its difference to a method with the interval."""
    bootstrap = Bootstrap(records)
    if bootstrap.unlabelled:
        raise KdzooError(
            f"the records of {', '.join(bootstrap.unlabelled)} hold no labels, so no interval can be given; "
            "compare with a version that keeps them, into another folder"
        )
    gains = [None if row.method == against else bootstrap.difference(row.method, against) for row in rows]
    return ["" if gain is None else str(gain) for gain in gains]


def terminal_table(
    records: Sequence[dict[str, Any]],
    title: str,
    against: str | None = None,
    failed: Sequence[tuple[str, str, int]] = (),
    *,
    running: bool = False,
) -> TerminalTable:
    """The table for a rich console, as `cells_of` has it; the best student of each task in bold."""
    records = joined(records)
    head, body = cells_of(records, against, failed, running=running)
    means = means_of(records)
    bold = {(name, column) for column in head[1 : head.index(AVERAGE) + 1] for name in leading(means, column)}
    return TerminalTable(title, head, body, bold, above_students(records, body))


@dataclass(frozen=True)
class TerminalTable:
    """A table whose scores are whole in a narrow terminal: the columns after the average go first, which it says."""

    title: str
    head: Sequence[str]
    body: Sequence[Sequence[str]]
    bold: set[tuple[str, str]]
    above: int  # rows before the first student

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        for kept in range(len(AFTER), -1, -1):
            table = self._with(kept)
            if console.measure(table, options=options.update(max_width=10_000)).maximum <= options.max_width:
                break
        yield table

    def _with(self, kept: int) -> Table:
        """With so many of the columns after the average."""
        end = self.head.index(AVERAGE) + 1
        spared = range(end + kept, end + len(AFTER))
        table = Table(title=terminal(self.title), title_justify="left", caption_justify="left")
        if spared:
            table.caption = f"a wider terminal also has: {', '.join(self.head[place] for place in spared)}"
        for place, name in enumerate(self.head):
            if place not in spared:
                table.add_column(terminal(name), justify="left" if name == "method" else "right", overflow="fold")
        for row, cells in enumerate(self.body):
            named = [pair for place, pair in enumerate(zip(self.head, cells, strict=True)) if place not in spared]
            marked = [terminal(cell, "bold" if (cells[0], column) in self.bold else "") for column, cell in named]
            table.add_row(*marked, end_section=row == self.above - 1)
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
    records = joined(records)
    head, body = cells_of(records, against, failed)
    seen = marks(means_of(records), bootstrap or Bootstrap(records), head[1 : head.index(AVERAGE) + 1])
    commands = {"best": "textbf", "level": "underline"}

    def line(cells: Sequence[str], method: str = "") -> str:
        written = []
        for column, cell in zip(head, cells, strict=True):
            mark = seen.get((method, column))
            written.append(f"\\{commands[mark]}{{{latex(cell)}}}" if mark else latex(cell))
        return " & ".join(written) + r" \\"

    above = above_students(records, body)
    rows = [line(cells, cells[0]) for cells in body]
    rule = [r"\midrule"] if 0 < above < len(body) else []
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
            *rows[:above],
            *rule,
            *rows[above:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def above_students(records: Sequence[dict[str, Any]], body: Sequence[Sequence[str]]) -> int:
    """How many rows of `cells_of` stand before the first student: the teacher's, and a constant guess's."""
    students = {record["method"] for record in records} - {TEACHER}
    return next((place for place, cells in enumerate(body) if cells[0] in students), len(body))


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
    writer.writerow(map(escape.csv, head))
    for record in records:
        values = [record[name] for name in plain]
        values += [record.get("metrics", {}).get(name, "") for name in metrics]
        values += [record.get(name, "") for name in COSTS]
        values += [record.get("step_seconds", {}).get(part, "") for part in parts]
        for batch in batches:
            of_batch = record.get("inference", {}).get(batch, {})
            values += [of_batch.get(name, "") for name in ("latency_ms", "rows_per_second")]
        writer.writerow(map(escape.csv, values))
    return text.getvalue()


def read_records(path: Path) -> list[dict[str, Any]]:
    """All records of a comparison, of its folder or packed: each task's teacher, then its cells.

    Raises:
        KdzooError: when there is none that can be read, or one was written by a newer kdzoo.
    """
    return load(path).records


def load(path: Path) -> Study:
    """A comparison that has records, see `read_records`; a damaged one is left out, and a `KdzooWarning` names it."""
    study = read_study(path, whole=False)
    labels = {record["task"]: record["references"] for record in study.records if record.get("references")}
    given, study.records[:] = [*study.records], []
    for record in given:
        try:
            check_answers(record, labels.get(record["task"], {}))
            study.records.append(record)
        except DamagedRecord as error:
            study.damaged.append(f"left out: {error}")
    for line in study.damaged:
        warnings.warn(line, KdzooWarning, stacklevel=2)
    if not study.records:
        raise KdzooError(
            f"{path} holds no {'whole ' if study.damaged else ''}records; `kdzoo compare --out {path}` writes them"
        )
    return study
