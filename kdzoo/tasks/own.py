"""A user's own data as a task: its kind, its labels and its splits are found from the data, and can be set."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.classification import KINDS, Classification, as_name, as_number
from kdzoo.tasks.sources.files import SUFFIXES, read_parquet, read_table, suffix_of
from kdzoo.tasks.sources.folder import files_of, load_saved
from kdzoo.tasks.sources.hub import downloaded
from kdzoo.tasks.sources.rows import checked, columns_of

if TYPE_CHECKING:
    from datasets import Dataset

MOST_CLASSES = 20  # distinct integers that are still classes, and not numbers
NAMES = {  # what a split may be called
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}
MERGED = "labels"  # the column of several labels that stood in columns of their own


@dataclass(frozen=True)
class Table:
    """The rows of one split as they were read.

    Attributes:
        origin: the file that messages name.
        columns: by name, in Python's own types.
    """

    origin: str
    columns: Mapping[str, Sequence[Any]]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), ()))


@dataclass(frozen=True)
class Own:
    """A task of somebody's own data, with what there is to say of it before anything runs.

    Attributes:
        task: the task, which brings its rows.
        notes: a line each: what was found, what was taken.
    """

    task: Classification
    notes: tuple[str, ...]


def from_data(
    data: Any,
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | Sequence[str] | None = None,
    separator: str = "|",
    name: str | None = None,
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
) -> Own:
    """A task from data of one's own.

    Args:
        data: a CSV, TSV, JSONL or Parquet file (also gzipped), a folder with one a split, a folder that `datasets`
            saved, a hub data set's name, a pandas DataFrame, a `datasets.Dataset` or ``DatasetDict``, or a mapping of
            splits to any of these.
        text: the text column, or two of them.
        label: the label's column; several of numbers, or of 0 and 1 with ``kind="multilabel"``.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``; found from the labels when None.
        labels: their names in order; found from the training rows when None.
        metric: what it is measured by; names of `kdzoo.tasks.metrics`, or ``package.module:function``.
        separator: what parts several labels in one text.
        name: the task's; the file's stem or the folder's name when None.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        seed: of the validation rows that are taken from training where there are none.

    Raises:
        KdzooError: in one line, with file and row, for anything that makes no task.
    """
    texts, columns = _listed(text), _listed(label)
    tables = _tables(data, texts, columns, splits)
    title = name or _title(data)
    train = tables["train"]
    missing = [option for option, given in (("--text", texts), ("--label", columns)) if not given]
    if missing:
        raise KdzooError(
            f"{train.origin}: say which columns to take with {' and '.join(missing)}; it has {_named(train)}"
        )
    for option, given in (("text", texts), ("label", columns)):
        twice = [column for column in given if given.count(column) > 1]
        if twice:
            raise KdzooError(f"the {option} column {twice[0]!r} is named twice; name each once")
    for table in tables.values():
        for column in (*texts, *columns):
            if column not in table.columns:
                raise KdzooError(f"{table.origin}: no column {column!r}; it has {_named(table)}")
        if len(table) < 2:
            has = "one row" if len(table) else "no row"
            raise KdzooError(f"{table.origin}: the split has {has}; it needs two or more")
    if kind is not None and kind not in KINDS:
        raise unknown("kind", kind, KINDS)
    if len(columns) > 1:
        tables, columns, labels = _several_columns(tables, columns, kind, labels)
    found = kind or _kind(tables["train"], columns, separator)
    if found == "regression" and labels:
        raise KdzooError(f"{title}: numbers have no labels; leave --labels out, or set --kind classification")
    if found != "regression":
        names = _listed(labels) or _names(tables["train"], columns[0], found, separator)
        _check_names(title, tables, columns[0], found, names, separator)
    else:
        names = ()
    task = Classification(
        name=title,
        columns=texts,
        labels=names,
        kind=found,
        label_columns=columns,
        separator=separator,
        headline=(),
        metrics=_listed(metric),
        test_split="test" if "test" in tables else None,
    )
    rows = {split: checked(task, table.origin, table.columns) for split, table in tables.items()}
    notes = [f"{task.describe()}"]
    if "validation" not in rows:
        rows["train"], rows["validation"] = held_out(rows["train"], task, seed)
        notes.append(
            f"{title}: no validation rows: {len(rows['validation'])} of {len(tables['train'])} training rows are "
            f"taken, stratified, with seed {seed}"
        )
    notes += _leaks(task, rows)
    return Own(replace(task, read=partial(dict, rows)), tuple(notes))


def held_out(rows: Dataset, task: Classification, seed: int) -> tuple[Dataset, Dataset]:
    """Validation rows taken from training rows, seeded and stratified; see `Task.held_out`.

    Raises:
        KdzooError: there are too few rows.
    """
    kept, taken = task.held_out(rows, seed)
    if len(kept) < 2 or len(taken) < 2:
        raise KdzooError(
            f"{task.name}: {len(rows)} rows are too few to take validation rows from; give a validation split"
        )
    return kept, taken


# --- reading ---


def _tables(data: Any, text: Sequence[str], label: Sequence[str], splits: Mapping[str, str] | None) -> dict[str, Table]:
    """The splits of the data, under kdzoo's own names."""
    if isinstance(data, Mapping) and not hasattr(data, "num_rows"):
        sources = {str(split): value for split, value in data.items()}
        readers = {split: partial(_table, value, text, label) for split, value in sources.items()}
        found = _renamed("the data", readers, splits)
    elif isinstance(data, (str, os.PathLike)):
        found = _of_path(Path(data), text, label, splits)
    elif hasattr(data, "column_names") or hasattr(data, "iloc"):
        found = {"train": partial(_table, data, text, label)}
    else:
        raise KdzooError(f"data is {type(data).__name__}; give a path, a hub name, a DataFrame or a datasets.Dataset")
    return {split: read() for split, read in found.items()}


def _of_path(path: Path, text: Sequence[str], label: Sequence[str], splits: Mapping[str, str] | None) -> dict[str, Any]:
    if path.is_file():
        return {"train": partial(_table, path, text, label)}
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            saved = load_saved(path)
            return _renamed(str(path), {s: partial(_of_arrow, f"{path / s}", saved[s]) for s in saved}, splits)
        if (path / "state.json").is_file():
            return {"train": partial(_of_arrow, str(path), load_saved(path))}
        named = {name for names in NAMES.values() for name in names} | set((splits or {}).values())
        there = {name: files for name in sorted(named) if (files := files_of(path, name))}
        if not there:
            raise KdzooError(f"{path} holds no train split; it needs train with one of {', '.join(SUFFIXES)}")
        readers = {name: partial(_of_files, path / name, files, text, label) for name, files in there.items()}
        return _renamed(str(path), readers, splits)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(path)) and suffix_of(path) is None and str(path).count("/") < 2:
        loaded = downloaded(str(path))
        return _renamed(str(path), {s: partial(_of_arrow, f"{path} {s}", loaded[s]) for s in loaded}, splits)
    raise KdzooError(f"there is no {path}; data is a file ({', '.join(SUFFIXES)}), a folder or a hub data set's name")


def _renamed(origin: str, found: Mapping[str, Any], splits: Mapping[str, str] | None) -> dict[str, Any]:
    """The splits under kdzoo's names."""
    renamed = {}
    for own, theirs in (splits or {}).items():
        if own not in NAMES:
            raise unknown("split", own, NAMES)
        if theirs not in found:
            raise KdzooError(f"{origin}: no split {theirs!r}; it has {', '.join(found)}")
        renamed[own] = found[theirs]
    for own, names in NAMES.items():
        there = [name for name in names if name in found and name not in (splits or {}).values()]
        if own in renamed or not there:
            continue
        if len(there) > 1:
            raise KdzooError(f"{origin} has {' and '.join(there)}; keep one, or say which with splits")
        renamed[own] = found[there[0]]
    if "train" not in renamed:
        raise KdzooError(f"{origin} has no train split; it has {', '.join(found) or 'none'}")
    return renamed


def _table(value: Any, text: Sequence[str], label: Sequence[str]) -> Table:
    """One split from a file, a DataFrame or a Dataset."""
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        if not path.is_file():
            raise KdzooError(f"there is no file {path}")
        return _of_files(path, [path], text, label)
    if hasattr(value, "iloc"):  # a DataFrame
        twice = [column for column in value.columns if list(value.columns).count(column) > 1]
        if twice:
            raise KdzooError(f"the DataFrame has the column {twice[0]!r} twice; rename one")
        wanted = [str(column) for column in value.columns]
        columns = zip(wanted, value.columns, strict=True)
        rows = {name: [_plain(v) for v in value[column].tolist()] for name, column in columns}
        return Table("the DataFrame", rows)
    if hasattr(value, "column_names"):
        return _of_arrow("the Dataset", value)
    raise KdzooError(f"a split is {type(value).__name__}; give a file, a DataFrame or a datasets.Dataset")


def _plain(value: Any) -> Any:
    """A value of pandas' in Python's own types; what is missing is None."""
    if value is None or value != value or str(value) == "<NA>":
        return None
    return value.tolist() if hasattr(value, "tolist") else value


def _of_files(origin: Path, files: Sequence[Path], text: Sequence[str], label: Sequence[str]) -> Table:
    if len(files) == 1 and files[0].is_dir():
        return _of_arrow(str(files[0]), load_saved(files[0]))
    if len(files) > 1:
        return Table(str(origin), read_parquet(files))
    [path] = files
    if suffix_of(path) is None:
        raise KdzooError(f"{path}: data is in {', '.join(SUFFIXES)}; rename the file after what it is, or convert it")
    if ".parquet" in path.name:
        return Table(str(path), read_parquet([path]))
    return Table(str(path), read_table(path, [*text, *label] if text and label else None))


def _of_arrow(origin: str, dataset: Dataset) -> Table:
    return Table(origin, columns_of(dataset, dataset.column_names))


# --- labels ---


def _several_columns(
    tables: dict[str, Table], columns: tuple[str, ...], kind: str | None, labels: Sequence[str] | None
) -> tuple[dict[str, Table], tuple[str, ...], Sequence[str] | None]:
    """Several label columns: targets of a regression, or one label each, which become one column of lists."""
    if kind is None or kind == "classification":
        raise KdzooError(
            f"the label columns {', '.join(columns)} may be several numbers or several labels; say --kind regression, "
            "or --kind multilabel where each holds 0 or 1"
        )
    if kind == "regression":
        return tables, columns, labels
    names = _listed(labels) or columns
    if len(names) != len(columns):
        raise KdzooError(f"{len(columns)} label columns and {len(names)} labels; name one a column")
    merged = {}
    for split, table in tables.items():
        rows: list[list[str]] = []
        for row in range(len(table)):
            marks = [table.columns[column][row] for column in columns]
            for column, mark in zip(columns, marks, strict=True):
                if as_number(mark) not in (0, 1):
                    raise KdzooError(f"{table.origin}, row {row + 1}, column {column!r}: expected 0 or 1, got {mark!r}")
            rows.append([name for name, mark in zip(names, marks, strict=True) if as_number(mark) == 1])
        merged[split] = Table(table.origin, {**table.columns, MERGED: rows})
    return merged, (MERGED,), names


def _kind(table: Table, columns: tuple[str, ...], separator: str) -> str:
    """What the training labels are.

    Raises:
        KdzooError: some are numbers and some are not.
    """
    values = table.columns[columns[0]]
    _check_given(table, columns[0])
    if any(isinstance(value, (list, tuple, np.ndarray)) for value in values):
        return "multilabel"
    numbers = [as_number(value) for value in values]
    if any(isinstance(value, bool) for value in values):
        return "classification"
    numeric = [math.isfinite(number) for number in numbers]
    if all(numeric):
        whole = all(number.is_integer() for number in numbers)
        return "classification" if whole and len(set(numbers)) <= MOST_CLASSES else "regression"
    if any(numeric) and sum(numeric) * 10 >= len(numeric):
        row = numeric.index(not numeric[0])
        raise KdzooError(
            f"{table.origin}, row {row + 1}, column {columns[0]!r}: {values[row]!r} stands among "
            f"{'numbers' if numeric[0] else 'texts'} ({sum(numeric)} of {len(numeric)} labels are numbers); mend the "
            "column, or say --kind classification to take each for a name"
        )
    return "multilabel" if any(separator in str(value) for value in values) else "classification"


def _check_given(table: Table, column: str) -> None:
    for row, value in enumerate(table.columns[column], 1):
        if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
            raise KdzooError(f"{table.origin}, row {row}, column {column!r}: the row has no label")


def _names(table: Table, column: str, kind: str, separator: str) -> tuple[str, ...]:
    """The labels that the training rows have: whole numbers in their order, others by the alphabet."""
    found: set[str] = set()
    if kind == "classification":
        _check_given(table, column)
    for value in table.columns[column]:
        found.update(_marks(value, kind, separator))
    names = sorted(found)
    if all(math.isfinite(as_number(name)) for name in names):
        names = sorted({f"{as_number(n):g}" if as_number(n).is_integer() else n for n in names}, key=as_number)
    rows = len(table)
    if kind == "classification" and len(names) == rows:
        raise KdzooError(
            f"{table.origin}: every row of the column {column!r} has a label of its own ({names[0]!r} ...); "
            "name the label's column, or set --kind"
        )
    return tuple(names)


def _marks(value: Any, kind: str, separator: str) -> list[str]:
    """The names of the labels of one row."""
    if kind == "classification":
        return [as_name(value)]
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    return [as_name(part) for part in (value if value is not None else [])]


def _check_names(
    title: str, tables: Mapping[str, Table], column: str, kind: str, names: Sequence[str], separator: str
) -> None:
    """Refuse labels in other splits that no training row has."""
    known = dict.fromkeys(names)
    trained = {mark for value in tables["train"].columns[column] for mark in _marks(value, kind, separator)}
    numeric = {as_number(name): name for name in names}
    trained |= {numeric[as_number(mark)] for mark in trained if as_number(mark) in numeric}
    for split, table in tables.items():
        if split == "train":
            continue
        for row, value in enumerate(table.columns[column], 1):
            for mark in _marks(value, kind, separator):
                mark = numeric.get(as_number(mark), mark)
                if mark not in trained and (value not in (None, "")):
                    among = "" if mark in known else f"; {title} has {', '.join(names)}"
                    raise KdzooError(
                        f"{table.origin}, row {row}, column {column!r}: no training row has the label {mark!r}{among}"
                    )


def _leaks(task: Classification, rows: Mapping[str, Dataset]) -> list[str]:
    """A line for each split with rows whose texts stand in training too."""
    notes = []
    known = set(zip(*(rows["train"][column][:] for column in task.columns), strict=True))
    for split in rows:
        if split != "train":
            texts = zip(*(rows[split][column][:] for column in task.columns), strict=True)
            twice = sum(row in known for row in texts)
            if twice:
                notes.append(
                    f"{task.name}: {twice} of {len(rows[split])} {split} rows stand in training too, by their text"
                )
    return notes


# --- names ---


def _listed(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several parted by commas, or a sequence of them."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else [str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


def _named(table: Table) -> str:
    return ", ".join(table.columns) or "none"


def _title(data: Any) -> str:
    """The task's name: the file's stem or the folder's name, of letters, digits, dots, hyphens and underscores."""
    if not isinstance(data, (str, os.PathLike)):
        return "data"
    path = Path(data)
    name = path.name if path.is_dir() else path.name.removesuffix(suffix_of(path) or "")
    name = name or path.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:64] or "data"
