"""The text of a task's files, plain or gzipped, and the place that an error names."""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kdzoo.errors import KdzooError


def read_text(path: str | os.PathLike[str]) -> str:
    """The whole text, so that damage shows here and not in the middle of a reader.

    Raises:
        KdzooError: the file is not there, or is no UTF-8 text.
    """
    path = Path(path)
    check_file(path)
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except FileNotFoundError:
        raise KdzooError(f"there is no file {path}") from None
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise KdzooError(f"{path}: not readable as UTF-8{' gzip' * (path.suffix == '.gz')} text ({error})") from error


def check_file(path: Path) -> None:
    """Refuse to read a folder, or a pipe, a device or the like, which may never end.

    Raises:
        KdzooError: names it.
    """
    if path.exists() and not path.is_file():
        what = "a folder" if path.is_dir() else "no plain file"
        raise KdzooError(f"{path} is {what}; name a file (write a pipe's contents to one first)")


def half_letters(value: Any) -> bool:
    """Whether a value of text, or of lists of it, holds a surrogate by itself, which JSON can say and UTF-8 cannot."""
    return any("\ud800" <= letter <= "\udfff" for letter in json.dumps(value, ensure_ascii=False, default=str))


def numbered_lines(path: str | os.PathLike[str]) -> Iterator[tuple[int, str]]:
    """The lines with their numbers from 1, ended by a line feed alone; other separators are part of the text."""
    lines = read_text(path).split("\n")
    if not lines[-1]:
        lines.pop()
    return ((number, line.removesuffix("\r")) for number, line in enumerate(lines, 1))


def find_file(folder: str | os.PathLike[str], *names: str, suffixes: tuple[str, ...] = (".tsv", ".txt")) -> Path | None:
    """The one file of these names in a folder, with any of the suffixes, plain or gzipped; ``None`` without one.

    Raises:
        KdzooError: there are several.
    """
    tried = [Path(folder) / f"{name}{suffix}{end}" for name in names for suffix in suffixes for end in ("", ".gz")]
    found = [path for path in tried if path.is_file()]
    if len(found) > 1:
        raise KdzooError(f"{folder} has {names[0]} more than once ({', '.join(p.name for p in found)}); keep one")
    return found[0] if found else None
