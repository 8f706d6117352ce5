"""kdzoo.compare: a comparison from Python, as the command line makes it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from kdzoo.bench.folder import undone
from kdzoo.bench.grid.comparison import Comparison
from kdzoo.bench.grid.launchers import make_launcher
from kdzoo.bench.grid.settings import Settings, resolve
from kdzoo.bench.report.folds import joined
from kdzoo.bench.report.rows import rows_of
from kdzoo.bench.report.table import terminal_table
from kdzoo.bench.runs.budget import Budget
from kdzoo.bench.runs.tasks import asked_for
from kdzoo.errors import DistillationFailure, unknown

if TYPE_CHECKING:
    import pandas


class Printer:
    """The table and the report of a comparison."""

    table = staticmethod(terminal_table)

    @staticmethod
    def write(folder: Path) -> list[Path]:
        """Write the report and the tables of a folder's records; the files."""
        from kdzoo.bench.report.page import write_results  # matplotlib is loaded for it

        return write_results(folder)


METHODS = ("none", "kd", "pkd", "tinybert", "crd", "lrc")
OUT = Path("runs/compare")


@dataclass(frozen=True)
class Results:
    """What a comparison found.

    Attributes:
        folder: where its records, its report and its tables are.
        records: one a training, the teachers' first.
        notes: what was found in data of one's own.
    """

    folder: Path
    records: list[dict[str, Any]] = field(repr=False)
    notes: tuple[str, ...] = ()

    def table(self) -> pandas.DataFrame:
        """The mean score over seeds by method (a row each, the teacher first) and task, with their ``average``.

        The folds of a task are one column, the mean over them.
        """
        import pandas

        rows = {row.method: {**row.means, "average": row.average} for row in rows_of(joined(self.records))}
        return pandas.DataFrame.from_dict(rows, orient="index").rename_axis("method")

    def report(self) -> Path:
        """The report, written anew: one file that opens offline."""
        return Printer.write(self.folder)[0]


def compare(
    tasks: str | Sequence[str] = (),
    data: Any = "synthetic",
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | Sequence[str] | None = None,
    label_separator: str | None = None,
    decoding: str | None = None,
    folds: str | int | Mapping[str, Any] | None = None,
    knowledge: str | None = None,
    roles: str | None = None,
    arms: str | Sequence[str] | None = None,
    methods: str | Sequence[str] = METHODS,
    teacher: str | None = None,
    student: str | None = None,
    seeds: int | str | Sequence[int] | None = None,
    out: str | Path = OUT,
    workers: int | None = None,
    quiet: bool = False,
    name: str | None = None,
    **settings: Any,
) -> Results:
    """Compare methods over tasks and seeds: same teacher, student, data order and budget for all.

    Records that are in ``out`` already are kept, and what is missing is run, as by the command.

    Args:
        tasks: names of tasks, or YAML files that describe data of one's own.
        data: ``"synthetic"``, ``"hub"`` or a folder of GLUE files; or with ``text`` and ``label`` data of one's own: a
            path, a hub data set's name, a pandas DataFrame, a `datasets.Dataset`, or a mapping of splits to these.
        text, label, kind, labels, metric, label_separator, decoding, folds: see `kdzoo.tasks.own.from_data`.
        knowledge: a triple file, whose facts the teacher reads (`kdzoo.tasks.with_knowledge`).
        roles: a folder with the rows' semantic roles, which the teacher reads (`kdzoo.tasks.with_roles`).
        arms: ways of reading them, each a task of its own: of facts ``"facts"``, ``"none"``, ``"random"``, ``"blind"``,
            ``"flat"``, ``"both"``; of roles ``"roles"``, ``"none"``, ``"shuffled"``.
        methods: recipes, YAML files or expressions.
        teacher, student: folders, hub names or sizes.
        seeds: how many, or which: ``(0, 3, 7)`` or ``"0,3,7"``.
        out: folder for the results.
        workers: trainings at the same time, each in a process of its own.
        quiet: print nothing.
        name: of the task of one's own data.
        settings: further fields of `kdzoo.bench.grid.settings.Settings` and of its `Budget`, and ``teacher_epochs`` and
            ``teacher_learning_rate``: the command's options by their names, and for ``--set`` ``overrides``, a list
            such as ``["kd:kd.temperature=4"]``.

    Raises:
        KdzooError: for anything that cannot work, before training.
        DistillationFailure: when a training failed; what the others found is in ``out``.
    """
    from kdzoo.objectives.expression import split_methods

    known = {*Settings.model_fields, *Budget.model_fields, "teacher_epochs", "teacher_learning_rate"}
    known -= {"budget", "teacher_budget", "first", "own_tasks"}  # made of the others
    for setting in settings:
        if setting not in known:
            raise unknown("setting", setting, known)
    budget = {key: settings.pop(key) for key in list(settings) if key in Budget.model_fields}
    above = {key: settings.pop(f"teacher_{key}") for key in ("epochs", "learning_rate") if f"teacher_{key}" in settings}
    columns = {
        "text": text,
        "label": label,
        "kind": kind,
        "labels": labels,
        "metric": metric,
        "label_separator": label_separator,
        "decoding": decoding,
        "folds": folds,
        "knowledge": knowledge,
        "roles": roles,
        "arms": arms,
    }
    asked = asked_for([tasks] if isinstance(tasks, str) else list(tasks), data, columns, name=name)
    resolved = resolve(
        tasks=asked.tasks,
        methods=tuple(split_methods(methods) if isinstance(methods, str) else methods),
        teacher=teacher,
        student=student,
        seeds=seeds,
        budget=budget,
        teacher_budget=budget | above,
        **{**settings, "data": asked.data},
    )
    console = Console(quiet=quiet)
    for note in asked.notes:
        console.print(note, highlight=False, markup=False, soft_wrap=True)
    with undone(Path(out)):
        comparison = Comparison(resolved, Path(out), console, printer=Printer())
        records = comparison.run(make_launcher("local", workers=workers))
    if comparison.failed:
        raise DistillationFailure(comparison.summary_of_failures())
    return Results(Path(out), records, asked.notes)
