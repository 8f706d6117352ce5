"""Rows from files: TSV, CSV, JSONL and Parquet, also gzipped."""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset


SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")


_Reader = Callable[[], "Dataset"]


def _read_file(task: Task, path: Path) -> Mapping[str, Sequence[Any]]:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        return _read_parquet([path])
    with _open(path) as file:
        if kind == "jsonl":
            return _read_jsonl(task, path, file)
        rows = _tsv(file) if kind == "tsv" else _csv(path, file)
        header = next(rows, [])
        return _columns(path, header, rows, {name: name for name in (*task.columns, "label")})


# --- files ---


def _open(path: Path) -> io.StringIO:
    """The text of a file. Read whole, so that damage shows here and not in the middle of a reader."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise KdzooError(f"{path}: not readable as UTF-8{' gzip' * (path.suffix == '.gz')} text ({error})") from error
    return io.StringIO(text, newline="")


def _tsv(file: Iterable[str]) -> Iterator[list[str]]:
    # Not the csv module: it takes a stray carriage return inside a sentence for the end of a row.
    text = "".join(file)
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return (line.removesuffix("\r").split("\t") for line in lines)


def _csv(path: Path, file: Iterable[str]) -> Iterator[list[str]]:
    reader = csv.reader(file, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise KdzooError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from None


def _columns(
    path: Path,
    header: list[str],
    rows: Iterator[list[str]],
    fields: Mapping[str, str],
    *,
    skip_short: bool = False,
) -> dict[str, list[str]]:
    """The wanted columns of rows under a header; rows are numbered from 1, the header not counted."""
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


def _read_jsonl(task: Task, path: Path, file: Iterable[str]) -> dict[str, list[Any]]:
    names = (*task.columns, "label")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, line in enumerate("".join(file).rstrip("\n").split("\n"), 1):
        if not line and number == 1:
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise KdzooError(f"{path}, row {number}: malformed JSON ({error})") from None
        if not isinstance(row, dict):
            raise KdzooError(f"{path}, row {number}: expected an object with {', '.join(names)}, got {line[:40]}")
        for name in names:
            if name not in row:
                raise KdzooError(f"{path}, row {number}: no column {name!r}; it has {', '.join(row) or 'none'}")
            columns[name].append(row[name])
    return columns


def _read_parquet(paths: Sequence[Path]) -> dict[str, list[Any]]:
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {}
    for path in paths:
        try:
            table = parquet.ParquetFile(path).read()
        except (OSError, pyarrow.ArrowException) as error:
            raise KdzooError(f"{path}: not readable as Parquet ({error})") from error
        for name in table.column_names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return columns
