"""The rows of one's own data, by split: from files, folders, the hub, and objects in memory."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.reading import check_file
from kdzoo.tasks.sources.files import SHARDS, SUFFIXES, read_parquet, read_table, suffix_of
from kdzoo.tasks.sources.folder import files_of, load_saved
from kdzoo.tasks.sources.hub import downloaded
from kdzoo.tasks.sources.rows import columns_of

if TYPE_CHECKING:
    from datasets import Dataset

NAMES = {  # what a split may be called
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}


Readers = tuple[dict[str, Callable[[], "Table"]], tuple[str, ...]]  # by split, and the names of splits not used
Splits = tuple[dict[str, "Table"], tuple[str, ...]]


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


def tables_of(data: Any, text: Sequence[str], label: Sequence[str], splits: Mapping[str, str] | None) -> Splits:
    """The splits of the data, under kdzoo's own names; see `kdzoo.tasks.own.from_data`.

    Args:
        data, text, label, splits: as there.

    Returns:
        The tables by split, and the names of the splits that are not used.

    Raises:
        KdzooError: in one line, for anything that cannot be read.
    """
    if isinstance(data, Mapping):  # of splits, a DatasetDict among them
        sources = {str(split): value for split, value in data.items()}
        readers = {split: partial(_table, value, text, label) for split, value in sources.items()}
        for split in sources:
            if split not in [*(splits or {}).values(), *(name for names in NAMES.values() for name in names)]:
                raise unknown("split", split, NAMES)
        found, unused = _renamed("the data", readers, splits)
    elif isinstance(data, (str, os.PathLike)):
        found, unused = _of_path(Path(data), text, label, splits)
    elif hasattr(data, "column_names") or hasattr(data, "iloc"):
        found, unused = {"train": partial(_table, data, text, label)}, ()
    else:
        raise KdzooError(f"data is {type(data).__name__}; give a path, a hub name, a DataFrame or a datasets.Dataset")
    return {split: read() for split, read in found.items()}, unused


def _of_path(path: Path, text: Sequence[str], label: Sequence[str], splits: Mapping[str, str] | None) -> Readers:
    if path.is_file():
        return {"train": partial(_table, path, text, label)}, ()
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            saved = load_saved(path)
            return _renamed(str(path), {s: partial(_of_arrow, f"{path / s}", saved[s]) for s in saved}, splits)
        if (path / "state.json").is_file():
            return {"train": partial(_of_arrow, str(path), load_saved(path))}, ()
        named = {name for names in NAMES.values() for name in names} | set((splits or {}).values())
        there = {name: files for name in sorted(named) if (files := files_of(path, name))}
        if not there:
            raise KdzooError(f"{path} holds no train split; it needs train with one of {', '.join(SUFFIXES)}")
        readers = {name: partial(_of_files, path / name, files, text, label) for name, files in there.items()}
        return _renamed(str(path), readers, splits)
    check_file(path)
    if re.fullmatch(r"[\w.-]+(/[\w.-]+)?", str(path)) and suffix_of(path) is None and str(path).count("/") < 2:
        try:
            loaded = downloaded(str(path))
        except KdzooError as error:
            raise KdzooError(f"there is no file or folder {path}; {error}") from None
        return _renamed(str(path), {s: partial(_of_arrow, f"{path} {s}", loaded[s]) for s in loaded}, splits)
    raise KdzooError(f"there is no {path}; data is a file ({', '.join(SUFFIXES)}), a folder or a hub data set's name")


def _renamed(origin: str, found: Mapping[str, Any], splits: Mapping[str, str] | None) -> Readers:
    """The splits under kdzoo's names, and the names of those that are left."""
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
    return renamed, tuple(name for name in found if not any(found[name] is taken for taken in renamed.values()))


def _table(value: Any, text: Sequence[str], label: Sequence[str]) -> Table:
    """One split from a file, a DataFrame or a Dataset."""
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        check_file(path)
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
    if hasattr(value, "column_names") and hasattr(value, "num_rows"):
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
    shard = SHARDS.fullmatch(path.name)
    if shard and int(shard["total"]) > 1:
        raise KdzooError(f"{path} is one of {int(shard['total'])} files; name their folder, which is taken whole")
    if suffix_of(path) is None:
        raise KdzooError(f"{path}: data is in {', '.join(SUFFIXES)}; rename the file after what it is, or convert it")
    if ".parquet" in path.name:
        return Table(str(path), read_parquet([path]))
    return Table(str(path), read_table(path, [*text, *label] if text and label else None))


def _of_arrow(origin: str, dataset: Dataset) -> Table:
    return Table(origin, columns_of(dataset, dataset.column_names))
