"""What there is and whether it works: ``kdzoo list``, ``show`` and ``check``."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table

from kdzoo.bench.grid.settings import Settings, resolve
from kdzoo.bench.runs.budget import OwnColumns
from kdzoo.cli.options import METHODS, METHODS_HELP, Fields, Given, Set, Tasks, console, tasks_of
from kdzoo.errors import KdzooError, unknown

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe


def list_(
    needs: Annotated[
        str, typer.Option(help="Losses that are taken on or need this alone: logits, hidden, cls, qkv, labels, ...")
    ] = "",
    no_params: Annotated[bool, typer.Option("--no-params", help="Losses that learn nothing of their own.")] = False,
    year: Annotated[str, typer.Option(help="Published in a year, or from one to another: 2019-2021.")] = "",
    tasks: Annotated[bool, typer.Option("--tasks", help="The tasks instead.")] = False,
) -> None:
    """The losses and the recipes; with a filter, the losses it leaves."""
    if tasks:
        if needs or no_params or year:
            raise KdzooError("--needs, --no-params and --year choose losses; leave them out beside --tasks")
        console.print(_tasks())
        return
    losses = _losses(needs, no_params, *_years(year))
    if not losses.rows:
        raise KdzooError("no loss fits; `kdzoo list` shows all of them")
    console.print(losses)
    if not (needs or no_params or year):
        console.print(_recipes())


def _losses(needs: str, no_params: bool, first: int, last: int) -> Table:
    from kdzoo.losses.registry import describe
    from kdzoo.objectives.registry import available

    described = [describe(name) for name in available()]
    known = {word for loss in described for word in (*loss.features, *loss.needs)}
    if needs and needs not in known:
        raise unknown("need", needs, known)
    table = _table("Losses", "name", "compares", "needs", "learns", "year", "what it does")
    for loss in described:
        fits = not needs or needs in (*loss.features, *loss.needs)
        if fits and first <= loss.year <= last and not (no_params and loss.learns == "parameters of its own"):
            year, compared, needed = str(loss.year or ""), ", ".join(loss.features), ", ".join(loss.needs)
            table.add_row(loss.name, compared, needed, loss.learns, year, loss.summary)
    return table


def _recipes() -> Table:
    from kdzoo.objectives.recipe import Recipe
    from kdzoo.objectives.registry import available

    table = _table("Recipes", "name", "year", "what it does")
    for name in available("recipes"):
        recipe = Recipe.load(name)
        table.add_row(name, str(recipe.citation.year) if recipe.citation else "", recipe.title)
    return table


def _tasks() -> Table:
    from kdzoo.objectives.registry import available
    from kdzoo.tasks import get_task

    table = _table("Tasks", "name", "reads", "is scored by")
    for name in available("tasks"):
        task = get_task(name)
        table.add_row(name, ", ".join(task.columns), ", ".join(task.headline))
    return table


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def show(
    name: Annotated[str, typer.Argument(help="A loss, a recipe, a recipe's YAML file, or an expression.")],
    yaml: Annotated[bool, typer.Option("--yaml", help="The recipe as YAML, to edit and use as a method.")] = False,
    set_: Set = None,
) -> None:
    """What a loss or a recipe is."""
    from kdzoo.losses.registry import describe
    from kdzoo.objectives.expression import is_expression
    from kdzoo.objectives.recipe import Recipe
    from kdzoo.objectives.registry import available

    is_loss = name in available()
    is_recipe = name in available("recipes") or name.endswith((".yaml", ".yml")) or is_expression(name)
    if not is_loss and not is_recipe:
        raise unknown("loss or recipe", name, [*available(), *available("recipes")])
    if yaml and not is_recipe:
        raise KdzooError(f"{name} is a loss; only a recipe can be written as YAML ({', '.join(available('recipes'))})")
    recipe = Recipe.load(name).override(set_ or []) if is_recipe else None
    if yaml and recipe is not None:
        typer.echo(recipe.to_yaml(), nl=False)
        return
    if recipe is not None:
        typer.echo(f"recipe {recipe.name}: {recipe.title}")
        if recipe.citation is not None:
            typer.echo(f"  {recipe.citation}")
        if recipe.notes:
            typer.echo(f"  {recipe.notes}")
        typer.echo("\n" + recipe.model_copy(update={"sources": ()}).to_yaml())
        if recipe.sources:
            console.print(_sources(recipe))
    if is_loss:
        typer.echo(f"loss {describe(name)}\n\n{describe(name).documentation}")


def _sources(recipe: Recipe) -> Table:
    from kdzoo.objectives.sources import table as rows

    table = _table("Where its numbers come from", "hyper-parameter", "value", "from", "where")
    for row in rows(recipe):
        table.add_row(*row)
    return table


def check(
    columns: Annotated[Given, Fields(OwnColumns)],
    shared: Annotated[Given, Fields(Settings, "data", "teacher", "student", "train_rows")],
    methods: Annotated[str, typer.Argument(help=METHODS_HELP)] = METHODS,
    tasks: Tasks = "",
    set_: Set = None,
) -> None:
    """Whether methods can work on a task, a teacher and a student; trains nothing."""
    from kdzoo.bench.grid.comparison import Comparison
    from kdzoo.objectives.expression import split_methods
    from kdzoo.objectives.overrides import ALL

    asked = tasks_of(tasks, shared, columns)
    grid = {"tasks": asked.tasks, "methods": tuple(split_methods(methods))}
    settings = resolve(**grid, **{**shared, "data": asked.data}, overrides=tuple(set_ or ()))
    with tempfile.TemporaryDirectory() as folder:
        comparison = Comparison(settings, Path(folder), console, leave_out=True)
    wide = max(map(len, comparison.recipes))
    for name, recipe in comparison.recipes.items():
        stages = "; then ".join(" + ".join(t.loss for t in stage.terms) for stage in recipe.stages)
        works = [task for task in settings.tasks if (task, name) not in comparison.impossible]
        typer.echo(f"{name:<{wide}} works on {', '.join(works) or 'none of the tasks'}: {stages}")
    if comparison.impossible and ALL not in settings.methods:
        ((task, name), why), *others = comparison.impossible.items()
        raise KdzooError(f"{name} on {task}: {why}" + (f", and {len(others)} more" if others else ""))


def _years(text: str) -> tuple[int, int]:
    first, _, last = text.partition("-")
    if not text:
        return 0, 9999
    if not re.fullmatch("[0-9]{1,4}", first) or not re.fullmatch("[0-9]{0,4}", last):
        raise KdzooError(f"--year is {text!r}; give a year such as 2020, or two such as 2019-2021")
    return int(first), int(last or first)
