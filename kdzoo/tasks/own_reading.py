"""The rows of one's own data, by split: from files, folders, the hub, and objects in memory."""

from __future__ import annotations

import gzip
import os
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.reading import check_file
from kdzoo.tasks.sources.files import SHARDS, SUFFIXES, read_parquet, read_table, suffix_of
from kdzoo.tasks.sources.folder import files_of, load_saved
from kdzoo.tasks.sources.hub import named_on_hub
from kdzoo.tasks.sources.rows import columns_of

if TYPE_CHECKING:
    from datasets import Dataset

NAMES: dict[str, tuple[str, ...]] = {  # what a split may be called
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "eval"),
    "test": ("test",),
}

PARTS = {b";": "semicolons", b"\t": "tabs"}  # what CSV files are separated by that have no commas

Read = TypeVar("Read")  # what a split is read by
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
        check_splits(sources, splits)
        readers: dict[str, Callable[[], Table]] = {
            split: partial(_table, value, text, label) for split, value in sources.items()
        }
        found, unused = renamed("the data", readers, splits)
    elif isinstance(data, (str, os.PathLike)):
        found, unused = _of_path(Path(data), text, label, splits)
    elif hasattr(data, "column_names") or hasattr(data, "iloc"):
        check_alone("the data", splits)
        found, unused = {"train": partial(_table, data, text, label)}, ()
    else:
        raise KdzooError(f"data is {type(data).__name__}; give a path, a hub name, a DataFrame or a datasets.Dataset")
    return {split: read() for split, read in found.items()}, unused


def _of_path(path: Path, text: Sequence[str], label: Sequence[str], splits: Mapping[str, str] | None) -> Readers:
    if path.is_file() or (path / "state.json").is_file():
        check_alone(path, splits)
    if path.is_file():
        return {"train": partial(_table, path, text, label)}, ()
    if path.is_dir():
        if (path / "dataset_dict.json").is_file():
            saved = load_saved(path)
            return renamed(str(path), {s: partial(_of_arrow, f"{path / s}", saved[s]) for s in saved}, splits)
        if (path / "state.json").is_file():
            return {"train": partial(_of_arrow, str(path), load_saved(path))}, ()
        there = {name: files for name in sorted(names_of(splits)) if (files := files_of(path, name))}
        if not there:
            raise KdzooError(f"{path} holds no train split; it needs train with one of {', '.join(SUFFIXES)}")
        readers: dict[str, Callable[[], Table]] = {
            name: partial(_of_files, path / name, files, text, label) for name, files in there.items()
        }
        taken, unused = renamed(str(path), readers, splits)
        return taken, (*unused, *_called_alike(path, names_of(splits)))
    check_file(path)
    if (loaded := named_on_hub(path)) is not None:
        return renamed(str(path), {s: partial(_of_arrow, f"{path} {s}", loaded[s]) for s in loaded}, splits)
    raise KdzooError(f"there is no {path}; data is a file ({', '.join(SUFFIXES)}), a folder or a hub data set's name")


def _called_alike(folder: Path, names: set[str]) -> list[str]:
    """Files that are called as a split is with more behind it (``test2016``), and so are none."""
    found = set()
    for file in folder.iterdir():
        suffix = suffix_of(file)
        if suffix is not None and file.is_file():
            shard = SHARDS.fullmatch(file.name)
            found.add(shard["split"] if shard else file.name.removesuffix(suffix))
    return sorted(stem for stem in found - names if "." not in stem and stem.startswith(tuple(names)))


def names_of(splits: Mapping[str, str] | None, known: Mapping[str, Sequence[str]] = NAMES) -> set[str]:
    """All that the data's splits may be called."""
    return {name for names in known.values() for name in names} | set((splits or {}).values())


def check_splits(
    found: Mapping[str, Any], splits: Mapping[str, str] | None, known: Mapping[str, Sequence[str]] = NAMES
) -> None:
    """Refuse a mapping with a split that is none.

    Raises:
        KdzooError: offers the nearest.
    """
    for split in found:
        if split not in names_of(splits, known):
            raise unknown("split", split, known)


def check_alone(origin: str | os.PathLike[str], splits: Mapping[str, str] | None) -> None:
    """Refuse names of splits for data that has none.

    Raises:
        KdzooError: names the data and what was asked for.
    """
    if splits:
        told = ", ".join(f"{own}: {theirs}" for own, theirs in splits.items())
        raise KdzooError(
            f"{origin} is one table of training rows, and splits says what its splits are called ({told}); leave "
            "splits out, or give a folder or a file a split"
        )


def renamed(
    origin: str,
    found: Mapping[str, Read],
    splits: Mapping[str, str] | None,
    known: Mapping[str, Sequence[str]] = NAMES,
) -> tuple[dict[str, Read], tuple[str, ...]]:
    """The splits under kdzoo's names, and the names of those that are left.

    Args:
        origin: of the data, for messages.
        found: by the data's own names.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        known: what a split may be called without it.

    Raises:
        KdzooError: a split is asked for that is not there, two mean the same one, or none is for training.
    """
    taken: dict[str, Read] = {}
    for own, theirs in (splits or {}).items():
        if own not in known:
            raise unknown("split", own, known)
        if theirs not in found:
            raise KdzooError(f"{origin}: no split {theirs!r}; it has {', '.join(found) or 'none'}")
        taken[own] = found[theirs]
    for own, names in known.items():
        there = [name for name in names if name in found and name not in (splits or {}).values()]
        if own in taken or not there:
            continue
        if len(there) > 1:
            raise KdzooError(f"{origin} has {' and '.join(there)}; keep one, or say which with splits")
        taken[own] = found[there[0]]
    if "train" not in taken:
        raise KdzooError(f"{origin} has no train split; it has {', '.join(found) or 'none'}")
    return taken, tuple(name for name in found if not any(found[name] is one for one in taken.values()))


def _table(value: Any, text: Sequence[str], label: Sequence[str]) -> Table:
    """One split from a file, a DataFrame or a Dataset."""
    if isinstance(value, (str, os.PathLike)):
        path = Path(value)
        check_file(path)
        if not path.is_file():
            raise KdzooError(f"there is no file {path}")
        return _of_files(path, [path], text, label)
    if hasattr(value, "iloc"):
        return Table("the DataFrame", columns_of_frame(value))
    if hasattr(value, "column_names") and hasattr(value, "num_rows"):
        return _of_arrow("the Dataset", value)
    raise KdzooError(f"a split is {type(value).__name__}; give a file, a DataFrame or a datasets.Dataset")


def columns_of_frame(frame: Any) -> dict[str, list[Any]]:
    """A DataFrame's columns in Python's own types.

    Raises:
        KdzooError: it has a column twice.
    """
    twice = [column for column in frame.columns if list(frame.columns).count(column) > 1]
    if twice:
        raise KdzooError(f"the DataFrame has the column {twice[0]!r} twice; rename one")
    return {str(column): [_plain(value) for value in frame[column].tolist()] for column in frame.columns}


def _plain(value: Any) -> Any:
    """A value of pandas' in Python's own types, arrays as lists; what is missing is None."""
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return None if value is None or str(value) == "<NA>" or value != value else value


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
    if ".csv" in (suffix_of(path) or ""):
        _check_commas(path)
    return Table(str(path), read_table(path, [*text, *label] if text and label else None))


def _check_commas(path: Path) -> None:
    """Refuse a CSV file whose header is separated by something else, as spreadsheets of some languages write it.

    Raises:
        KdzooError: says how to convert it.
    """
    header = b""
    opened = gzip.open if path.suffix == ".gz" else open
    with suppress(OSError, EOFError, zlib.error), opened(path, "rb") as file:  # damage is named by the reader
        header = file.readline()
    for mark, name in PARTS.items():
        if mark in header and b"," not in header:
            shown = header.decode("utf-8-sig", "replace").strip()
            raise KdzooError(
                f"{path}: it seems to be separated by {name} ({shown}), and CSV is read with commas; convert it in "
                f"Python: pandas.read_csv(FILE, sep={mark.decode()!r}).to_csv(OTHER, index=False)"
            )


def _of_arrow(origin: str, dataset: Dataset) -> Table:
    return Table(origin, columns_of(dataset, dataset.column_names))
