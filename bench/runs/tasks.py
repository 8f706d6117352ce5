"""The tasks of a request: registered ones, a user's YAML files, and data of one's own with its columns named."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks import Task, WithKnowledge, WithRoles, get_task, load, register_task
from kdzoo.tasks.own_graphs import GRAPHS
from kdzoo.tasks.own_sequences import SEQUENCES
from kdzoo.tasks.registry import adapt_task
from kdzoo.tasks.sources.files import suffix_of
from kdzoo.tasks.with_knowledge import ARMS as OF_FACTS
from kdzoo.tasks.with_knowledge import with_facts
from kdzoo.tasks.with_roles import ARMS as OF_ROLES
from kdzoo.tasks.with_roles import with_roles

if TYPE_CHECKING:
    from datasets import DatasetDict

    from kdzoo.bench.runs.budget import Rows

YAML = (".yaml", ".yml")


class Asked(NamedTuple):
    """Which tasks are run.

    Attributes:
        tasks: their names, all registered.
        data: where the rows of those come from that bring none of their own; a path in words where none needs it.
        notes: a line each, of what was found in data of one's own.
    """

    tasks: tuple[str, ...]
    data: str
    notes: tuple[str, ...]


def asked_for(tasks: Sequence[str], data: Any, columns: Mapping[str, Any], *, name: str | None = None) -> Asked:
    """The tasks of a request, with those of one's own data made and registered.

    Args:
        tasks: names, and YAML files that describe data of one's own.
        data: a source of GLUE's rows, or with ``text`` and ``label`` among the columns data of one's own.
        columns: of one's own data, the fields of `OwnColumns`; names may be lists too. Its ``knowledge``,
            ``roles`` and ``arms`` are of any task: each arm makes a task of its own.
        name: of the task of one's own data; the file's or the folder's by default.

    Raises:
        KdzooError: for anything that makes no task, or GLUE tasks without a source.
    """
    more = {option: columns.get(option) for option in ("knowledge", "roles", "arms")}
    own = {option: value for option, value in columns.items() if option not in more}
    asked = _asked_for(tasks, data, own, name=name)
    return asked if all(value is None for value in more.values()) else _with_more(asked, data, **more)


def _with_more(asked: Asked, data: Any, knowledge: str | None, roles: str | None, arms: Any) -> Asked:
    """The tasks with facts or roles from files, in each of the arms."""
    if knowledge is not None and roles is not None:
        raise KdzooError("--knowledge and --roles are for two kinds of teacher; give one of them")
    names, notes = [], [*asked.notes]
    for own in asked.tasks:
        task = get_task(own)
        given = task.brings_rows or str(data) == "synthetic"
        if isinstance(task, (WithKnowledge, WithRoles)) and not (knowledge is None and roles is None):
            option = "--knowledge" if roles is None else "--roles"
            has = "facts" if isinstance(task, WithKnowledge) else "roles"
            raise KdzooError(f"{own} has {has} already; leave {option} out, or name a task of texts alone")
        if knowledge is not None:
            task = with_facts(task, knowledge, read=None if given else partial(load, task, data))
        elif roles is not None:
            rows: Callable[[], Any] = task.rows if task.brings_rows else partial(load, task, data)
            task = with_roles(task, roles, rows)
        if not isinstance(task, (WithKnowledge, WithRoles)):
            raise KdzooError(
                f"--arms are ways of reading facts or roles, and {own} has none; name a triple file with "
                "--knowledge, or a folder with --roles"
            )
        plain, known = ("facts", OF_FACTS) if isinstance(task, WithKnowledge) else ("roles", OF_ROLES)
        for arm in [arm.strip() for arm in (arms.split(",") if isinstance(arms, str) else arms or (plain,))]:
            if arm != plain and not known.get(arm):
                raise unknown(f"arm of {own}", arm, [plain, *filter(None, known)])
            made = task.in_arm("" if arm == plain else arm)
            if arm != plain or knowledge is not None or roles is not None:
                register_task(made)
            names.append(made.name)
            notes.append(made.describe())
    return Asked(tuple(names), asked.data, tuple(notes))


def _asked_for(tasks: Sequence[str], data: Any, columns: Mapping[str, Any], *, name: str | None) -> Asked:
    names: list[str] = []
    notes: list[str] = []
    for entry in tasks:
        if entry.endswith(YAML):
            from kdzoo.tasks.own_file import from_yaml

            if not Path(entry).is_file():
                raise KdzooError(f"there is no file {entry}; a task is a name (kdzoo list --tasks) or a YAML file")
            own = from_yaml(Path(entry))
            names += [register_task(task).name for task in own.tasks]
            notes += own.notes
        else:
            names.append(entry)
            before = get_task(entry).identity()
            if (task := adapt_task(entry, str(data))).identity() != before:
                notes.append(task.describe())
    if not _is_own(data, columns):
        given = [option for option, value in columns.items() if value is not None]
        if given:
            option = given[0].replace("_", "-")
            raise KdzooError(f"--{option} is for data of your own, and --data is {data}; name its file with --data")
        return Asked(tuple(names), str(data), tuple(notes))
    from kdzoo.tasks.own import from_data

    if names:
        raise KdzooError(
            f"--data {_short(data)} is data of your own, so {', '.join(names)} has no source; describe your data in a "
            "YAML file, name that in --tasks too, and give --data for the others"
        )
    told = {option: value for option, value in columns.items() if option != "label_separator"}
    own = from_data(data, separator=columns.get("label_separator"), name=name, **told)
    return Asked(tuple(register_task(task).name for task in own.tasks), _short(data), own.notes)


def _is_own(data: Any, columns: Mapping[str, Any]) -> bool:
    """Whether it is data of one's own: no source by name, but a file, an object, or what has its columns named."""
    if not isinstance(data, (str, Path)):
        return True
    if str(data) in ("synthetic", "hub"):
        return False
    kind = columns.get("kind")
    if kind in (*SEQUENCES, *GRAPHS) or (kind is not None and Path(data).is_file()):
        return True
    return columns.get("text") is not None or columns.get("label") is not None or suffix_of(Path(data)) is not None


def _short(data: Any) -> str:
    return str(data) if isinstance(data, (str, Path)) else type(data).__name__


def load_rows(tasks: Sequence[Task], given: Rows) -> dict[str, DatasetDict]:
    """The splits of each task, with as many rows as are asked for.

    Raises:
        KdzooError: see `kdzoo.tasks.load`; ``test_rows`` are given, and no task has a test split.
    """
    if given.test_rows is not None and all(task.test_split is None for task in tasks):
        names = ", ".join(task.name for task in tasks)
        raise KdzooError(f"--test-rows is about a test split, and {names} {'has' if len(tasks) == 1 else 'have'} none")
    rows = given.model_dump(include={"train_rows", "validation_rows", "test_rows"})
    return {task.name: load(task, given.data, **rows) for task in tasks}
