"""Options made of the fields of a settings class, so that each stands once: type, default, help text and range.

A parameter annotated ``Annotated[Given, Fields(Budget)]`` stands for one option a field, and gets those that were
given, as a mapping, which the settings class then checks.
"""

from __future__ import annotations

import functools
import inspect
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from rich.console import Console
from typer.core import TyperCommand

from kdzoo.bench.runs.budget import Budget, OwnColumns, validated
from kdzoo.distributed import launched
from kdzoo.objectives.recipe import Training

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic.fields import FieldInfo

    from kdzoo.bench.runs.tasks import Asked

GROUPS = {  # of options in a command's help, by the class that has the field
    "OwnColumns": "Data of your own, and what a teacher reads beside it",
    "Rows": "Rows",
    "Distilled": "Augmentation, and the cache of the teacher's activations",
    "Settings": "Models and seeds",
    "Budget": "Training",
    "Place": "Where trainings run",
}
SIGNS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}

Given = dict[str, Any]
T = TypeVar("T")

first_process = launched()[0] == 0  # of those that torchrun has started; the others write and say nothing
console = Console(quiet=not first_process) if sys.stdout.isatty() else Console(width=160, quiet=not first_process)

METHODS = "none,kd,pkd,tinybert,crd,lrc"
METHODS_HELP = "Recipes, YAML files or expressions, separated by commas; or 'all' recipes."

Methods = Annotated[str, typer.Option(help=METHODS_HELP)]
Out = Annotated[Path, typer.Option(help="Folder for the results; the same command goes on where it stopped.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", help="Change a recipe: LOSS.OPTION=VALUE or KEY=VALUE, of one with METHOD: before it."),
]
Tasks = Annotated[
    str, typer.Option(help="Tasks (kdzoo list --tasks), or YAML files that describe data of your own; with commas.")
]
Push = Annotated[
    str, typer.Option("--push-to-hub", help="Upload the model to the Hugging Face hub, as USER/NAME; needs a token.")
]
Student = Annotated[
    str, typer.Option(help="4x312, teacher:1,3,5, a folder or a hub name; bi:4x312, a bi-encoder of triples.")
]


class Fields:
    """The fields of a settings class as options.

    Args:
        kind: the class.
        names: of the fields; all by default.
        but: fields that are none.
        prefix: of the options' names, where a command takes the same fields twice.
        before: what comes before a field's default where no option is given, such as ``"the recipe's"``, by field.
    """

    def __init__(
        self,
        kind: type[BaseModel],
        *names: str,
        but: tuple[str, ...] = (),
        prefix: str = "",
        before: Mapping[str, str] | None = None,
    ) -> None:
        self.kind = kind
        self.fields = {name: kind.model_fields[name] for name in names or kind.model_fields if name not in but}
        self.prefix, self.before = prefix, before or {}

    def parameters(self) -> dict[str, inspect.Parameter]:
        """The parameter that typer makes an option of, by field."""
        return {name: self._parameter(name, field) for name, field in self.fields.items()}

    def _parameter(self, name: str, field: FieldInfo) -> inspect.Parameter:
        flag = f"--{(self.prefix + name).replace('_', '-')}"
        kind = _plain(field.annotation)
        if kind is bool and field.default is True:
            flag += f"/--no-{flag[2:]}"
        said = " ".join([*(field.description or "").split(), *self._brackets(name, field)])
        option = typer.Option(flag, help=said, rich_help_panel=GROUPS.get(self._declares(name)))
        annotation: Any = Annotated[kind | None, option]
        return inspect.Parameter(
            self.prefix + name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation
        )

    def _declares(self, name: str) -> str:
        """The class that first has a field."""
        return next(of.__name__ for of in reversed(self.kind.__mro__) if name in getattr(of, "__annotations__", {}))

    def _brackets(self, name: str, field: FieldInfo) -> list[str]:
        """The default and the range."""
        silent = field.is_required() or field.default is None or isinstance(field.default, (bool, tuple))
        said = " or ".join(filter(None, (self.before.get(name), "" if silent else str(field.default))))
        parts = [f"default: {said}", _range(field)] if said else [_range(field)]
        return [f"[{'; '.join(filter(None, parts))}]"] if any(parts) else []


class Grouped(TyperCommand):
    """A command whose help lists the options of one settings class after another, as plain text."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        groups: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for option in self.get_params(ctx):
            if (line := option.get_help_record(ctx)) is not None:
                own = "Arguments" if option.param_type_name == "argument" else "Options"
                groups.setdefault(getattr(option, "rich_help_panel", None) or own, []).append(line)
        for title in filter(groups.get, groups):
            with formatter.section(title):
                formatter.write_dl(groups[title])


def command(function: Callable[..., T]) -> Callable[..., T]:
    """A function as typer takes it: `Fields` replaced by their options."""
    signature = inspect.signature(function, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, dict[str, str]] = {}
    for name, parameter in signature.parameters.items():
        fields = next((part for part in get_args(parameter.annotation)[1:] if isinstance(part, Fields)), None)
        if fields is None:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        made = fields.parameters()
        groups[name] = {option.name: field for field, option in made.items()}
        parameters += made.values()

    @functools.wraps(function)
    def call(**values: Any) -> T:
        for name, options in groups.items():
            taken = {field: values.pop(option) for option, field in options.items()}
            values[name] = {field: value for field, value in taken.items() if value is not None}
        return function(**values)

    call.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    call.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return call


def tasks_of(tasks: str, given: Given, columns: Given) -> Asked:
    """The tasks that are asked for, data of one's own among them, of which it says what was found."""
    from kdzoo.bench.runs.tasks import asked_for

    told = validated(OwnColumns, **columns).model_dump()
    if re.fullmatch("[0-9]{1,6}", told["folds"] or ""):
        told["folds"] = int(told["folds"])  # a number of folds, and no column's name
    asked = asked_for(listed(tasks), given.get("data", "synthetic"), told)
    for note in asked.notes:
        said(note)
    return asked


def said(line: str) -> None:
    """Print a line as it is."""
    console.print(line, highlight=False, markup=False, soft_wrap=True)


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _range(field: FieldInfo) -> str:
    """The numbers that a field takes, as ``x>0`` or ``0<=x<1``."""
    bounds = {sign: getattr(part, sign) for part in field.metadata for sign in SIGNS if hasattr(part, sign)}
    low = [(SIGNS[sign], bound) for sign, bound in bounds.items() if sign in ("gt", "ge")]
    high = "".join(f"{SIGNS[sign]}{bound}" for sign, bound in bounds.items() if sign in ("lt", "le"))
    if low and high:
        ((sign, bound),) = low
        return f"{bound}{sign.replace('>', '<')}x{high}"
    return "x" + "".join(f"{sign}{bound}" for sign, bound in low) + high if bounds else ""


def _plain(annotation: Any) -> Any:
    """The type that typer reads: what is no number, switch or path is a text, which the settings class checks."""
    if get_origin(annotation) in (Literal, tuple):
        return str
    if get_origin(annotation) in (Union, UnionType):
        (annotation,) = (part for part in get_args(annotation) if part is not type(None))
        return _plain(annotation)
    return annotation if annotation in (bool, int, float, Path) else str


BudgetOptions = Annotated[Given, Fields(Budget)]
RecipeBudget = Annotated[Given, Fields(Budget, before=dict.fromkeys(Training.model_fields, "the recipe's"))]
