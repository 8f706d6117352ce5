"""Hashes of contents (files, rows, tensors, settings), and what is built once: under a lock, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

READ = 2**22  # bytes of a file at a time
ROWS = 10_000  # at a time


def of_values(*values: Any) -> str:
    """Of settings: numbers, text, lists and mappings of them; anything else counts by its ``str``.

    Args:
        values: in an order that matters; that of a mapping's keys does not.
    """
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=str).encode()).hexdigest()


def of_files(paths: Iterable[Path], *, skip: int = 0, named: bool = True) -> str:
    """Of the bytes of files, one after the other.

    Args:
        paths: in an order that matters.
        skip: bytes at the start of each that do not count.
        named: the files' names count too (not their folders').
    """
    found = hashlib.sha256()
    for path in paths:
        found.update(f"{path.name if named else ''}\0{path.stat().st_size - skip}\0".encode(errors="surrogateescape"))
        with path.open("rb") as file:
            file.seek(skip)
            while part := file.read(READ):
                found.update(part)
    return found.hexdigest()


def of_rows(dataset: Any, columns: Iterable[str] | None = None) -> str:
    """Of the values of a ``datasets.Dataset``, in the rows' order; its transform is not applied.

    Args:
        dataset: the rows.
        columns: those that count; all by default.
    """
    used = [name for name in dataset.column_names if columns is None or name in set(columns)]
    found = hashlib.sha256(str(len(dataset)).encode())
    for table in dataset.select_columns(used).with_format("arrow").iter(ROWS):
        for name in used:
            found.update(f"{name}\0".encode())
            _add_column(found, table.column(name).combine_chunks())
    return found.hexdigest()


def of_tensors(named: Mapping[str, Any]) -> str:
    """Of tensors by name, such as a state dict; of quantised modules it holds tuples and settings too."""
    found = hashlib.sha256()
    for name, value in named.items():
        found.update(f"{name}\0".encode())
        _add_tensor(found, value)
    return found.hexdigest()


def _add_column(found: Any, column: Any) -> None:
    """An Arrow array's values, whatever buffers they lie in."""
    import pyarrow
    from pyarrow import compute, types

    while isinstance(column, pyarrow.ExtensionArray) or types.is_dictionary(column.type):
        column = column.storage if isinstance(column, pyarrow.ExtensionArray) else column.dictionary_decode()
    kind = column.type
    found.update(f"{kind} {len(column)}\0".encode())
    if column.null_count:
        found.update(column.is_valid().to_numpy(zero_copy_only=False).tobytes())
    if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
        found.update(compute.fill_null(compute.list_value_length(column), 0).to_numpy(zero_copy_only=False).tobytes())
        _add_column(found, column.flatten())
    elif types.is_struct(kind):
        for field, values in zip(kind, column.flatten(), strict=True):
            found.update(f"{field.name}\0".encode())
            _add_column(found, values)
    elif types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        filled = compute.fill_null(column, False if types.is_boolean(kind) else 0) if column.null_count else column
        found.update(filled.to_numpy(zero_copy_only=False).tobytes())
    else:
        found.update(json.dumps(column.to_pylist(), default=repr).encode())


def _add_tensor(found: Any, value: Any) -> None:
    import torch

    if isinstance(value, (tuple, list)):
        for part in value:
            _add_tensor(found, part)
    elif isinstance(value, torch.Tensor):
        plain = value.detach().dequantize() if value.is_quantized else value.detach()
        plain = plain.to_dense() if plain.layout != torch.strided else plain
        found.update(f"{value.dtype} {tuple(value.shape)}\0".encode())
        found.update(plain.cpu().contiguous().flatten().view(torch.uint8).numpy())
    else:
        found.update(f"{value!r}\0".encode())


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Alone with a folder, which is made where it is not there; other processes wait."""
    from filelock import FileLock

    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".lock"):
        yield


@contextmanager
def renamed(path: Path) -> Iterator[Path]:
    """A name to write a file or a folder under, which becomes ``path`` when all went well and else is removed."""
    scratch = path.with_name(f".{path.name}")
    _remove(scratch)  # a process died while it wrote this
    try:
        yield scratch
        if scratch.is_file():
            with scratch.open("rb+") as file:
                os.fsync(file.fileno())
        os.replace(scratch, path)
    finally:
        _remove(scratch)


def built_once(path: Path, build: Callable[[Path], object]) -> Path:
    """A file or a folder, built where it is not there; it is there whole or not at all, and one process builds it.

    Args:
        path: what is built. Its folder is locked meanwhile, and whoever waits finds it there.
        build: given the name to write under, in the same folder.

    Returns:
        The path.
    """
    if not path.exists():
        with locked(path.parent):
            if not path.exists():
                with renamed(path) as scratch:
                    build(scratch)
    return path


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
