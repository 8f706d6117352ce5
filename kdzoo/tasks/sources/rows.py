"""The checked rows of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.reading import half_letters

if TYPE_CHECKING:
    from datasets import Dataset


def checked(task: Task, origin: str, columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """The rows of one split as the task has them.

    Args:
        task: whose.
        origin: the file that messages name.
        columns: of all rows; those that the task does not have are left out.

    Raises:
        KdzooError: a column or every row is missing, or a row is none of the task's; file, row and column are named.
    """
    from datasets import Dataset

    for column in task.fields:
        if column not in columns:
            raise KdzooError(f"{origin}: no column {column!r}, which {task.name} needs; it has {', '.join(columns)}")
    rows = len(columns[task.fields[0]])
    if not rows:
        raise KdzooError(f"{origin}: the split is empty, {task.name} needs at least one row")
    parsed: dict[str, list[Any]] = {column: [] for column in task.features()}
    for row in range(rows):
        try:
            for column, value in task.parse({column: columns[column][row] for column in task.fields}).items():
                parsed[column].append(value)
        except KdzooError as error:
            raise KdzooError(f"{origin}, row {row + 1}, {error}") from None
    try:
        return Dataset.from_dict(parsed, features=task.features())
    except UnicodeEncodeError:
        row, column = next(
            (row, c) for c, of in parsed.items() for row, value in enumerate(of, 1) if half_letters(value)
        )
        raise KdzooError(
            f"{origin}, row {row}, column {column!r}: half of a letter (a surrogate by itself), which is no text; save "
            "the data as UTF-8"
        ) from None


def of_arrow(task: Task, origin: str, dataset: Dataset) -> Dataset:
    """A split that `datasets` read, checked; class names count for more than their ids, should the order differ."""
    columns = columns_of(dataset, [column for column in task.fields if column in dataset.column_names])
    return checked(task, origin, columns or {column: [] for column in dataset.column_names})


def columns_of(dataset: Dataset, names: Sequence[str]) -> dict[str, list[Any]]:
    """Columns in Python's own types, class ids as the names they stand for."""
    columns: dict[str, list[Any]] = {}
    for name in names:
        values = list(dataset[name][:])
        feature = dataset.features.get(name)
        several = getattr(feature, "feature", None)  # of a column of lists
        if classes := getattr(feature, "names", None):
            values = [_named(classes, value) for value in values]
        elif classes := getattr(several, "names", None):
            values = [value if value is None else [_named(classes, one) for one in value] for value in values]
        columns[name] = values
    return columns


def with_keys(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Columns, with one for each key of those that hold mappings, as the hub has translations: ``translation.en``."""
    found = dict(columns)
    for name, values in columns.items():
        if len(values) and isinstance(values[0], Mapping):
            for key in values[0]:
                taken = [value.get(key) if isinstance(value, Mapping) else None for value in values]
                found.setdefault(f"{name}.{key}", taken)
    return found


def _named(classes: Sequence[str], value: Any) -> Any:
    return classes[value] if value in range(len(classes)) else value
