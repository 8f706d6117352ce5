"""The checked rows of one split."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset


def _dataset(task: Task, origin: str, columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """The checked rows of one split; ``origin`` is the file that messages name."""
    from datasets import ClassLabel, Dataset, Features, Value

    for column in (*task.columns, "label"):
        if column not in columns:
            raise KdzooError(f"{origin}: no column {column!r}, which {task.name} needs; it has {', '.join(columns)}")
    if not len(columns["label"]):
        raise KdzooError(f"{origin}: the split is empty, {task.name} needs at least one row")
    for column in task.columns:
        for row, text in enumerate(columns[column], 1):
            if not isinstance(text, str):
                raise KdzooError(f"{origin}, row {row}, column {column!r}: expected text, got {text!r}")
    labels = []
    for row, value in enumerate(columns["label"], 1):
        try:
            labels.append(task.parse_label(value))
        except KdzooError as error:
            raise KdzooError(f"{origin}, row {row}, column 'label': {error}") from None
    features = {column: Value("string") for column in task.columns}
    features["label"] = Value("float32") if task.regression else ClassLabel(names=list(task.labels))
    return Dataset.from_dict({**{c: columns[c] for c in task.columns}, "label": labels}, features=Features(features))


def _from_arrow(task: Task, origin: str, dataset: Dataset) -> Dataset:
    """A split that `datasets` read, checked; class names count for more than their ids, should the order differ."""
    kept = [column for column in (*task.columns, "label") if column in dataset.column_names]
    columns = {column: dataset[column][:] for column in kept} or {column: [] for column in dataset.column_names}
    names = getattr(dataset.features.get("label"), "names", None)
    if names and set(names) == set(task.labels):
        columns["label"] = [names[label] if label in range(len(names)) else label for label in columns["label"]]
    return _dataset(task, origin, columns)


def _splits(task: Task) -> tuple[str, ...]:
    return ("train", *task.validation_splits)
