"""Many trainings side by side: ``kdzoo compare``."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdzoo.bench.grid.settings import QUICKSTART, Place, Settings, resolve
from kdzoo.bench.runs.budget import Budget, OwnColumns, validated
from kdzoo.cli.options import METHODS, Fields, Given, Methods, Out, Set, Tasks, console, said, tasks_of
from kdzoo.errors import DistillationFailure
from kdzoo.objectives.overrides import RECIPES_OWN

if TYPE_CHECKING:
    from kdzoo.bench.grid.launchers.base import Launcher

ASIDE = ("tasks", "methods", "budget", "teacher_budget", "overrides", "own_tasks", "first")  # with options of their own
FIRST = {name: f"the quickstart's {value}" for name, value in (QUICKSTART | QUICKSTART["budget"]).items()}
OWN = dict.fromkeys(RECIPES_OWN, "each recipe's own")
STUDENTS = dict.fromkeys(Budget.model_fields, "the students'")


def compare(
    context: typer.Context,
    *,
    tasks: Tasks = "",
    methods: Methods = METHODS,
    columns: Annotated[Given, Fields(OwnColumns)],
    shared: Annotated[Given, Fields(Settings, but=ASIDE, before=FIRST)],
    budget: Annotated[Given, Fields(Budget, before=FIRST | OWN)],
    teacher_budget: Annotated[Given, Fields(Budget, "epochs", "learning_rate", prefix="teacher_", before=STUDENTS)],
    place: Annotated[Given, Fields(Place)],
    out: Out = Path("runs/compare"),
    set_: Set = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Run again what failed in an earlier run.")
    ] = False,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Log each training into OUT/logs.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells, the sizes and an estimated time; train nothing.")
    ] = False,
    wandb: Annotated[bool, typer.Option("--wandb", help="Log each training to Weights & Biases.")] = False,
) -> None:
    """Compare methods over tasks and seeds: same teacher, student, data order and budget for all."""
    from kdzoo.bench.folder import undone
    from kdzoo.objectives.expression import split_methods

    where = validated(Place, **place)
    asked = tasks_of(tasks, shared, columns)
    settings = resolve(
        tasks=asked.tasks,
        methods=tuple(split_methods(methods)),
        overrides=tuple(set_ or ()),
        budget=budget,
        teacher_budget=budget | teacher_budget,
        **{**shared, "data": asked.data},
    )
    if not dry_run:
        _check_resumable(out, settings)
    from kdzoo.bench.api import Printer  # which takes seconds to load
    from kdzoo.bench.grid.comparison import Comparison

    launcher = _launcher(where)
    trackers = tuple(name for name, asked in (("tensorboard", tensorboard), ("wandb", wandb)) if asked)
    if dry_run:
        from kdzoo.bench.folder import check_output
        from kdzoo.bench.grid.estimate import estimate

        check_output(out)
        with tempfile.TemporaryDirectory() as folder:
            for line in estimate(Comparison(settings, Path(folder), console)):
                said(line)
        return
    printer = Printer()
    with undone(out):
        comparison = Comparison(settings, out, console, trackers, printer=printer)
        records = comparison.run(launcher, command=context.obj, retry_failed=retry_failed)
    console.print(printer.table(records, comparison.title, failed=comparison.failed_cells))
    if records:
        written = f"report: {out}/report.html, tables: {out}/results.csv and {out}/results.tex, records: {out}/cells"
        console.print(written, highlight=False, soft_wrap=True)
    if comparison.failed:
        raise DistillationFailure(comparison.summary_of_failures())


def _launcher(place: Place) -> Launcher:
    from kdzoo.bench.grid.launchers import make_launcher

    return make_launcher(
        place.launcher,
        workers=place.workers,
        address=place.ray_address,
        cpus=place.cpus_per_cell,
        gpus=place.gpus_per_cell,
    )


def _check_resumable(out: Path, settings: Settings) -> None:
    """Refuse other settings than those of the folder's records at once, before what trains is loaded.

    A student that was not named depends on the teacher, which is looked at later.
    """
    from kdzoo.bench.folder import check_same
    from kdzoo.bench.record import read_config

    old, new = dict(read_config(out / "config.json").get("shared", {})), settings.shared()
    if not old:
        return
    if settings.student is None:
        new["student"] = old.get("student")
    check_same(out, old, new)
