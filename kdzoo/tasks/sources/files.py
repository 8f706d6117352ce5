"""Rows from files: TSV, CSV, JSONL and Parquet, also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.reading import check_file

if TYPE_CHECKING:
    from datasets import Dataset

Reader = Callable[[], "Dataset"]  # of one split
SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet", ".parquet.gz")
SHARDS = re.compile(r"(?P<split>.+)-(?P<number>\d+)-of-(?P<total>\d+)\.parquet")


def read_table(path: Path, names: Sequence[str] | None = None) -> dict[str, list[Any]]:
    """Columns of a file, whose form its suffix names; rows are numbered from 1, a header not counted.

    Args:
        path: one of `SUFFIXES`.
        names: the columns; all of them when None.

    Raises:
        KdzooError: the file cannot be read, is malformed, has a column twice or lacks one; file and row are named.
    """
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[-1]
    if kind == "parquet":
        columns = read_parquet([path])
        return columns if names is None else _picked(path, columns, names)
    with open_text(path) as file:
        if kind == "jsonl":
            return _read_jsonl(path, file, names)
        rows = tsv(file) if kind == "tsv" else _csv(path, file)
        header = next(rows, [])
        return columns_under(path, header, rows, {name: name for name in (header if names is None else names)})


def suffix_of(path: Path) -> str | None:
    """Which of `SUFFIXES` a file's name ends in; None for none."""
    return next((suffix for suffix in sorted(SUFFIXES, key=len, reverse=True) if path.name.endswith(suffix)), None)


def shards_of(folder: Path, split: str) -> list[Path]:
    """The Parquet shards of a split in a folder, in order.

    Raises:
        KdzooError: the set is not whole; the missing file is named.
    """
    found = {
        path: match for path in sorted(folder.glob(f"{split}-*-of-*.parquet")) if (match := SHARDS.fullmatch(path.name))
    }
    found = {path: match for path, match in found.items() if match["split"] == split}
    for path, match in found.items():
        for number in range(int(match["total"])):
            width = len(match["number"])
            beside = folder / f"{split}-{number:0{width}d}-of-{match['total']}.parquet"
            if beside not in found:
                raise KdzooError(f"{beside} is missing, of the {int(match['total'])} files that {path.name} is one of")
    return list(found)


def _picked(path: Path, columns: Mapping[str, list[Any]], names: Sequence[str]) -> dict[str, list[Any]]:
    for name in names:
        if name not in columns:
            raise KdzooError(f"{path}: no column {name!r}; it has {', '.join(columns) or 'none'}")
    return {name: columns[name] for name in names}


def open_text(path: Path) -> io.StringIO:
    """The text of a file. Read whole, so that damage shows here and not in the middle of a reader."""
    check_file(path)
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise KdzooError(f"there is no file {path}") from None
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise KdzooError(
            f"{path}, line {line}: not UTF-8 ({error.reason} {error.object[error.start]:#04x}); save the file as UTF-8"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise KdzooError(f"{path}: not readable as{' gzip' * (path.suffix == '.gz')} text ({error})") from error
    return io.StringIO(text, newline="")


def tsv(file: Iterable[str]) -> Iterator[list[str]]:
    # Not the csv module: it takes a stray carriage return inside a sentence for the end of a row.
    text = "".join(file)
    lines = text.split("\n")
    while lines and lines[-1] in ("", "\r"):
        lines.pop()
    return (line.removesuffix("\r").split("\t") for line in lines)


def _csv(path: Path, file: Iterable[str]) -> Iterator[list[str]]:
    lines = [*file]
    while lines and not lines[-1].strip("\r\n"):  # blank ones at the end are no rows
        lines.pop()
    reader = csv.reader(lines, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise KdzooError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from None


def columns_under(
    path: Path,
    header: list[str],
    rows: Iterator[list[str]],
    fields: Mapping[str, str],
    *,
    skip_short: bool = False,
) -> dict[str, list[str]]:
    """The wanted columns of rows under a header; rows are numbered from 1, the header not counted."""
    twice = [name for name in fields.values() if header.count(name) > 1]
    if twice:
        raise KdzooError(
            f"{path}: the column {twice[0]!r} stands {header.count(twice[0])} times in the header; rename all but one"
        )
    missing = [name for name in fields.values() if name not in header]
    if missing:
        raise KdzooError(f"{path}: no column {missing[0]!r}; it has {', '.join(header) or 'no header'}")
    places = {name: header.index(column) for name, column in fields.items()}
    columns: dict[str, list[str]] = {name: [] for name in fields}
    width = len(header)
    for number, row in enumerate(rows, 1):
        if len(row) < width and skip_short:
            continue
        if len(row) != width:
            where = f"column {header[len(row)]!r} is missing" if len(row) < width else f"more follows {header[-1]!r}"
            raise KdzooError(f"{path}, row {number}: {len(row)} fields where the header has {width}; {where}")
        for name, place in places.items():
            columns[name].append(row[place])
    return columns


def _read_jsonl(path: Path, file: Iterable[str], names: Sequence[str] | None) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {name: [] for name in names or ()}
    for number, line in enumerate("".join(file).rstrip("\n").split("\n"), 1):
        if not line and number == 1:
            break
        try:
            row = json.loads(line, object_pairs_hook=_without_twins)
        except (ValueError, RecursionError) as error:
            raise KdzooError(f"{path}, row {number}: malformed JSON ({error})") from None
        if not isinstance(row, dict):
            wanted = f" with {', '.join(names)}" if names else ""
            raise KdzooError(f"{path}, row {number}: expected an object{wanted}, got {line[:40]}")
        if names is None:
            names = [*row]
            columns = {name: [] for name in names}
        for name in names:
            if name not in row:
                raise KdzooError(f"{path}, row {number}: no column {name!r}; it has {', '.join(row) or 'none'}")
            columns[name].append(row[name])
    return columns


def _without_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object's fields; json itself would keep the last of two with one name."""
    row = dict(pairs)
    if len(row) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return row


def read_parquet(paths: Sequence[Path]) -> dict[str, list[Any]]:
    """The columns of Parquet files, one after the other.

    Raises:
        KdzooError: one cannot be read, or has other columns than the first.
    """
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {}
    for path in paths:
        check_file(path)
        try:
            data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else None
            table = parquet.ParquetFile(path if data is None else io.BytesIO(data)).read()
        except (OSError, EOFError, zlib.error, pyarrow.ArrowException) as error:
            raise KdzooError(f"{path}: not readable as Parquet ({error})") from error
        if columns and set(table.column_names) != set(columns):
            raise KdzooError(
                f"{path}: has the columns {', '.join(table.column_names)}; {paths[0].name} has {', '.join(columns)}"
            )
        if len(set(table.column_names)) < len(table.column_names):
            raise KdzooError(f"{path}: has a column twice; it has {', '.join(table.column_names)}")
        for name in table.column_names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return columns
