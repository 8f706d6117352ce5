"""What a task's rows need before anything is trained: ``kdzoo tag``."""

from __future__ import annotations

from typing import Annotated

import typer

from kdzoo.bench.runs.budget import OwnColumns, Rows
from kdzoo.cli.options import Fields, Given, Out, Tasks, said, tasks_of


def tag(
    columns: Annotated[Given, Fields(OwnColumns, but=("folds", "knowledge", "roles", "arms"))],
    out: Out,
    rows: Annotated[Given, Fields(Rows, "data")],
    tasks: Tasks = "",
    model: Annotated[str, typer.Option(help="An English model of spaCy's that has a parser.")] = "en_core_web_sm",
) -> None:
    """Write dependency-derived predicate-argument tags of a task's rows, which --roles reads; needs spaCy."""
    from kdzoo.bench.runs.tagging import MADE, parser, tag_task
    from kdzoo.tasks import get_task

    parse, name = parser(model)
    asked = tasks_of(tasks, rows, columns)
    for task in asked.tasks:
        for file in tag_task(get_task(task), asked.data, out, parse, name):
            said(f"{file.path}: {file.rows} rows, {file.predicates} predicates; {MADE} by {name}")
