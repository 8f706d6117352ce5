"""Two comparisons side by side: what differs in their configurations, and their scores with B − A and its interval."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

from kdzoo.bench.columns import Columns
from kdzoo.bench.files import write_atomically
from kdzoo.bench.packed import Study
from kdzoo.bench.record import TEACHER, differing
from kdzoo.bench.report.cells import NOTHING, Cell, Record, Table, _amount
from kdzoo.bench.report.folds import joined
from kdzoo.bench.report.guess import one_answer, one_answer_note
from kdzoo.bench.report.rows import Row, average_std, averages_of, mean_std, rows_of
from kdzoo.bench.report.table import load
from kdzoo.bench.report.uncertainty import AVERAGE, LEVEL, Bootstrap, Estimate

NAMES = ("A", "B")
PLAIN = "settings."  # before the name of a setting, which goes without
OF_A_CELL = {"task", "method", "seed", "shared"}  # of a record's configuration: what all cells or none have in common


class Beside:
    """Two comparisons, A and B.

    Args:
        first, second: their folders, or the files they were packed into.

    Attributes:
        names: of the two.
        tasks: of both, those that they share first.
        common: the tasks that both have, scored on rows with the same labels.
        unlike: the tasks that both have, scored on others, or with labels that were not kept.

    Raises:
        KdzooError: when one of them holds no records.
    """

    def __init__(self, first: Path, second: Path) -> None:
        self.names = (str(first), str(second))
        self.studies = (load(first), load(second))
        self._joined = [joined(study.records) for study in self.studies]
        own = [list(dict.fromkeys(record["task"] for record in records)) for records in self._joined]
        shared = [task for task in own[0] if task in own[1]]
        self.tasks = [*shared, *(task for of in own for task in of if task not in shared)]
        labels = [{task: _labels(records, task) for task in shared} for records in self._joined]
        self.common = [task for task in shared if labels[0][task] and labels[0][task] == labels[1][task]]
        self.unlike = [task for task in shared if task not in self.common]
        self._budgets = [study.config.get("shared", {}).get("budget", {}) for study in self.studies]
        self._rows = [{row.method: row for row in rows_of(records)} for records in self._joined]
        marked = [
            record | {"method": _marked(name, record["method"])}
            for name, records in zip(NAMES, self._joined, strict=True)
            for record in records
            if record["task"] in self.common
        ]
        self._bootstrap = Bootstrap(marked)

    @property
    def methods(self) -> list[str]:
        """All of them, the teacher first."""
        return list(dict.fromkeys(method for rows in self._rows for method in rows))

    def settings(self) -> list[tuple[str, str, str]]:
        """What differs: its name, and what it is in A and in B."""
        facts = [_facts(study) for study in self.studies]
        found = [pair for what in facts[0] for pair in differing(facts[0][what], facts[1][what], what)]
        for method in self.methods:
            found += self._own_settings(method)
        told = [(name.removeprefix(PLAIN), _told(old), _told(new)) for name, old, new in found]
        # A list that is empty, and one that an older record lacks, are nothing both.
        return [row for row in told if row[1:] != (NOTHING, NOTHING)]

    def _own_settings(self, method: str) -> Iterator[tuple[str, Any, Any]]:
        """What differs in a method's recipe and budget; by task where tasks differ in it, as after a tuning."""
        by_task = [_cells(study, method) for study in self.studies]
        shared = [task for task in by_task[0] if task in by_task[1]]
        pairs = [_differing(by_task[0][task], by_task[1][task], self._budgets) for task in shared]
        alike = all(of == pairs[0] for of in pairs)
        for task, of in [*zip(shared, pairs, strict=True)][: 1 if alike else None]:
            for name, old, new in of:
                yield f"{method}{'' if alike else f' on {task}'}: {name}", old, new

    def difference(self, method: str, column: str) -> Estimate | None:
        """How far B's trainings by a method are ahead of A's; None where they share no task or no seed."""
        own = [rows.get(method) for rows in self._rows]
        tasks = self.common if column == AVERAGE else [column] * (column in self.common)
        if not tasks or not all(row is not None and _has(row, tasks) for row in own):
            return None
        return self._bootstrap.difference(_marked("B", method), _marked("A", method), column)

    def lines(self) -> Iterator[tuple[str, str, list[Cell], list[Cell]]]:
        """By method, its row of A, of B, and of B − A: method, which, a cell a task and the average, and the costs."""
        for method in self.methods:
            for name, records, rows in zip(NAMES, self._joined, self._rows, strict=True):
                if (row := rows.get(method)) is not None:
                    own = [record for record in records if record["method"] == method]
                    costs = [_amount(row.samples_per_second), f"{row.parameters / 1e6:.2f} M"]
                    yield method, name, self._scores(row, own), [*map(Cell, costs)]
            if all(method in rows for rows in self._rows):
                yield method, "B − A", [self._gap(method, column) for column in (*self.tasks, AVERAGE)], [Cell("")] * 2

    def _scores(self, row: Row, own: list[Record]) -> list[Cell]:
        cells = []
        for task in self.tasks:
            of = [record for record in own if record["task"] == task]
            told = mean_std(row.scores.get(task, []), constant=bool(of) and all(map(one_answer, of)))
            cells.append(Cell(told, warning=one_answer_note(of)))
        if not self.common or not _has(row, self.common):
            return [*cells, Cell(NOTHING)]
        averaged = [record for record in own if record["task"] in self.common]
        over_seeds = averages_of(averaged, row.method, self.common)
        average = fmean(row.means[task] for task in self.common)
        return [*cells, Cell(average_std(average, over_seeds, constant=all(map(one_answer, averaged))))]

    def _gap(self, method: str, column: str) -> Cell:
        estimate = self.difference(method, column)
        if estimate is None:
            return Cell(NOTHING)
        mark = ("up-alone" if estimate.value > 0 else "down-alone") if estimate.sure else ""
        return Cell(f"{estimate.value:+.1f}", f"{estimate.low:+.1f} to {estimate.high:+.1f}", mark)

    def columns(self) -> list[Columns]:
        """Both tables as text: what differs, and the scores."""
        settings = Columns(("what differs", *NAMES), self.settings() or [("nothing", "", "")], self._title(), names=3)
        body = []
        for method, which, scores, costs in self.lines():
            told = [_text(cell) for cell in scores]
            body.append([method if which == "A" or which == "B" else "", which, *told, *(cell.text for cell in costs)])
        shared = ", ".join(self.common) or "no task"
        title = f"Scores; B − A, of the seeds that both have, with its {LEVEL:.0%} interval; averages over {shared}"
        if self.unlike:
            title += f"; {', '.join(self.unlike)} scored on other rows, or without labels kept, so without a difference"
        return [settings, Columns(self._head(), body, title, names=2)]

    def _title(self) -> str:
        return f"A: {self.names[0]}, B: {self.names[1]}"

    def _head(self) -> list[str]:
        return ["method", "of", *self.tasks, AVERAGE, "train rows/s", "parameters"]

    def html(self) -> str:
        """Both tables as a page."""
        from kdzoo.bench.report.page import rendered  # which loads what plots need

        rows = [[Cell(method), Cell(which), *scores, *costs] for method, which, scores, costs in self.lines()]
        return rendered(
            "beside.html.j2",
            names=self.names,
            settings=self.settings(),
            scores=Table("Scores side by side", self._head(), rows),
            common=self.common,
            unlike=self.unlike,
            level=f"{LEVEL:.0%}",
        )

    def write(self, out: Path) -> Path:
        """Write the page.

        Raises:
            DistillationFailure: when it cannot be written.
        """
        write_atomically(out, self.html())
        return out


def _facts(study: Study) -> dict[str, Any]:
    """What two comparisons can differ in, by what it is in words; the methods' own settings not among it."""
    records = study.records
    ran = {name: _all(record.get(name) for record in records) for name in ("device", "threads")}
    names = sorted({name for record in records for name in record.get("versions", {})})
    versions = {f"{name} version": _all(record.get("versions", {}).get(name) for record in records) for name in names}
    hashes = {f"hash of {what}": found[:12] for what, found in study.config.get("contents", {}).items()}
    return {
        "settings": study.config.get("shared", {}) | hashes | ran | versions,
        "tasks": _all(record["task"] for record in records),
        "methods": _all(record["method"] for record in records if record["method"] != TEACHER),
        "seeds": _all(record["seed"] for record in records if record["method"] != TEACHER),
        "failed trainings": len(study.failures),
    }


def _cells(study: Study, method: str) -> dict[str, dict[str, Any]]:
    """By task, what a method's cells depend on beside the seed and what all methods share."""
    return {
        record["task"]: {k: v for k, v in record.get("configuration", {}).items() if k not in OF_A_CELL}
        for record in study.records
        if record["method"] == method
    }


def _differing(
    first: dict[str, Any], second: dict[str, Any], shared: list[dict[str, Any]]
) -> list[tuple[str, Any, Any]]:
    """What differs between a method's cells in A and B, whose budgets are those for all where they have no own.

    Of the budgets it is what is not said of all methods by ``shared``: the two for all.
    """
    rest = [{name: value for name, value in of.items() if name != "budget"} for of in (first, second)]
    own = [of.get("budget") or budget for of, budget in zip((first, second), shared, strict=True)]
    found = differing(rest[0], rest[1])
    for name in sorted({*own[0], *own[1]}):
        told, common = ([budget.get(name) for budget in budgets] for budgets in (own, shared))
        if told != common and (told[0] != told[1] or common[0] != common[1]):
            found.append((name, *told))
    return found


def _all(values: Any) -> str:
    return "; ".join(dict.fromkeys(str(value) for value in values if value is not None))


def _told(value: Any) -> str:
    if value in (None, "", [], {}):
        return NOTHING
    if isinstance(value, dict):
        return ", ".join(f"{name} {_told(of)}" for name, of in value.items())
    return ", ".join(map(_told, value)) if isinstance(value, list) else str(value)


def _labels(records: list[Record], task: str) -> Any:
    return next((record["references"] for record in records
                 if record["task"] == task and record.get("references")), None)  # fmt: skip


def _has(row: Row, tasks: list[str]) -> bool:
    return all(task in row.scores for task in tasks)


def _marked(name: str, method: str) -> str:
    return f"{name} {method}"


def _text(cell: Cell) -> str:
    text = f"{cell.text} [{cell.note.replace(' to ', ', ')}]" if cell.note else cell.text
    return f"{text}, {cell.warning}" if cell.warning else text
