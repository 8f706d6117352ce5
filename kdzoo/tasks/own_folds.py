"""A user's rows in folds: a task a fold, which is scored on its rows and trained on all others."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.base import Fold
from kdzoo.tasks.classification import Classification, as_name, as_number, is_missing
from kdzoo.tasks.own_reading import Table
from kdzoo.tasks.splitting import repeated

if TYPE_CHECKING:
    from datasets import Dataset

FORMS = "a column's name, a number of folds, or {column: fold, take: [1, 2]} or {number: 10, take: [1, 2]}"
SETTINGS = ("column", "number", "take")


@dataclass(frozen=True)
class Folds:
    """How rows are divided into folds.

    Attributes:
        by: the column that names each row's fold, or how many folds are drawn, stratified by class.
        take: those that there shall be tasks of; all when empty.
    """

    by: str | int
    take: tuple[str, ...] = ()

    @classmethod
    def parse(cls, given: str | int | Mapping[str, Any]) -> Folds:
        """From a column's name, a number, or a mapping of ``column`` or ``number`` and ``take``.

        Raises:
            KdzooError: for anything else, fewer than two folds, or a fold that is taken twice.
        """
        plain = {"column" if isinstance(given, str) else "number": given}
        told: Mapping[str, Any] = given if isinstance(given, Mapping) else plain
        for setting in told:
            if setting not in SETTINGS:
                raise unknown("setting of folds", str(setting), SETTINGS)
        column, number, take = (told.get(setting) for setting in SETTINGS)
        by: str | int | None = None
        if isinstance(column, str) and column.strip() and number is None:
            by = column
        elif isinstance(number, int) and not isinstance(number, bool) and column is None:
            by = number
        if by is None or not (take is None or (isinstance(take, (list, tuple)) and take)):
            raise KdzooError(f"folds is {given!r}; give {FORMS}")
        if isinstance(by, int) and by < 2:
            raise KdzooError(f"folds is {by}; a row is in the fold that is scored or in training: give two or more")
        names = tuple(as_name(name) for name in take or ())
        twice = [name for name in names if names.count(name) > 1]
        if twice:
            raise KdzooError(f"take names the fold {twice[0]!r} twice; name each once")
        return cls(by, names)

    @property
    def columns(self) -> tuple[str, ...]:
        """The column that it needs, if any."""
        return (self.by,) if isinstance(self.by, str) else ()

    def check(self, title: str, tables: Mapping[str, Table]) -> None:
        """Refuse data that is divided already.

        Raises:
            KdzooError: there are other splits than one.
        """
        others = [split for split in tables if split != "train"]
        if others:
            raise KdzooError(
                f"{title}: each fold is scored by a model of all other rows, and there is a {others[0]} split too; "
                "leave folds out, or give the rows of all folds as one file"
            )

    def of_rows(self, task: Classification, rows: Dataset, table: Table, seed: int) -> list[str]:
        """The fold of each row.

        Raises:
            KdzooError: a row has none, or none can be drawn.
        """
        if isinstance(self.by, str):
            values = table.columns[self.by]
            for row, value in enumerate(values, 1):
                if is_missing(value):
                    raise KdzooError(f"{table.origin}, row {row}, column {self.by!r}: the row has no fold")
            return [as_name(value) for value in values]
        if task.kind != "classification":
            raise KdzooError(
                f"{task.name}: folds are drawn by class, and the kind is {task.kind}; name a column of folds"
            )
        from sklearn.model_selection import StratifiedKFold

        labels = rows[task.label_columns[0]][:]
        found = [""] * len(labels)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a class with fewer rows than there are folds
            try:
                drawn = [*StratifiedKFold(self.by, shuffle=True, random_state=seed).split(labels, labels)]
            except ValueError:
                raise KdzooError(
                    f"{table.origin}: no class has {self.by} rows, one for each of {self.by} folds; draw fewer"
                ) from None
        for number, (_, own) in enumerate(drawn, 1):
            for row in own:
                found[row] = str(number)
        return found


def in_folds(
    task: Classification, rows: Dataset, folds: Folds, table: Table, seed: int
) -> tuple[tuple[Classification, ...], list[str]]:
    """A task a fold, which brings its rows, and what there is to say of them.

    Args:
        task: of all rows.
        rows: all of them.
        folds: how they are divided.
        table: the same rows as they were read.
        seed: of folds that are drawn.

    Raises:
        KdzooError: in one line, for rows that make no folds, or a fold that no model can be trained or scored for.
    """
    own = folds.of_rows(task, rows, table, seed)
    names = sorted(set(own), key=lambda name: (as_number(name) if math.isfinite(as_number(name)) else math.inf, name))
    if len(names) < 2:
        raise KdzooError(f"{table.origin}: all rows are in the fold {names[0]!r}; there must be two or more")
    for name in folds.take:
        if name not in names:
            raise unknown("fold", name, names)
    places: dict[str, list[int]] = {name: [] for name in names}
    for row, name in enumerate(own):
        places[name].append(row)
    _check(task, rows, places, table.origin)
    made, twice = [], {}
    for name in names:
        if folds.take and name not in folds.take:
            continue
        fold = Fold(name, len(names))
        inside = set(places[name])
        numbers = {"train": [row for row in range(len(rows)) if row not in inside], "validation": places[name]}
        parts = {split: rows.select(of) for split, of in numbers.items()}
        one = replace(task, name=fold.task(task.name), fold=fold, read=partial(dict, parts), parted=numbers)
        made.append(one)
        twice[name] = repeated(task, parts["train"], parts["validation"])
    sizes = sorted(map(len, places.values()))
    way = f"of the column {folds.by!r}" if isinstance(folds.by, str) else f"drawn by class with seed {seed}"
    notes = [
        f"{task.name}: {len(names)} folds {way}, {sizes[0]} to {sizes[-1]} rows each; each is scored by a model of all "
        "other rows, and the score is the mean over the folds" + (f"; taken: {', '.join(twice)}" if folds.take else "")
    ]
    if any(twice.values()):
        said = ", ".join(f"{count} of {len(places[name])} in {name}" for name, count in twice.items() if count)
        notes.append(f"{task.name}: rows of a fold that are in its training rows too, by their text, and stay: {said}")
    return tuple(made), notes


def _check(task: Classification, rows: Dataset, places: Mapping[str, Sequence[int]], origin: str) -> None:
    """Refuse folds of one row or one class, and those that have a class for themselves.

    Raises:
        KdzooError: names the fold.
    """
    labels = rows[task.label_columns[0]][:]
    for name, own in places.items():
        if len(own) < 2:
            raise KdzooError(f"{origin}: the fold {name!r} has one row; it needs two or more")
        if task.kind != "classification":
            continue
        classes = {labels[row] for row in own}
        if len(classes) < 2:
            raise KdzooError(
                f"{origin}: all rows of the fold {name!r} are of the class {task.labels[min(classes)]!r}; a fold needs "
                "rows of two classes or more"
            )
        elsewhere = {label for other, at in places.items() if other != name for label in (labels[row] for row in at)}
        if alone := sorted(classes - elsewhere):
            raise KdzooError(
                f"{origin}: all rows of the class {task.labels[alone[0]]!r} are in the fold {name!r}, so that no model "
                "that is scored on it is trained on the class"
            )
