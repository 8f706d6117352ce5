"""The folder of a comparison: its configuration, one JSON record a cell, its teachers; all written atomically."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdzoo.errors import DistillationFailure, KdzooError

FORMAT = 1


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        DistillationFailure: when the disk is full or the folder cannot be written.
    """
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise DistillationFailure(f"cannot write {path}: {error.strerror or error}") from error


class Records:
    """The records of one comparison in one folder.

    Args:
        folder: made when it is not there.
        shared: what all cells have in common.
        order: the tasks and methods as the tables show them.
        file: where in the folder both are kept.

    Raises:
        KdzooError: when the folder cannot be written, is in use, or holds another configuration's records; the
            difference is named.
    """

    def __init__(
        self, folder: Path, shared: dict[str, Any], order: dict[str, list[str]], *, file: str = "config.json"
    ) -> None:
        self.folder = folder
        self.config = folder / file
        self.shared = shared
        self.order = dict(order)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise KdzooError(f"cannot write to the output folder {folder}: {error.strerror or error}") from None
        if self.config.exists():
            old = read_json(self.config)
            if old.get("format", FORMAT) > FORMAT:
                raise KdzooError(f"{folder} was written by a newer kdzoo (format {old['format']}); update kdzoo")
            difference = differences(old.get("shared", {}), shared)
            if difference:
                raise KdzooError(
                    f"{folder} holds the records of another configuration: {'; '.join(difference)}. "
                    "Choose another --out, or the settings it was started with"
                )
            # What an earlier run had, and this one has not, comes after.
            for axis, names in old.get("order", {}).items():
                self.order[axis] = list(dict.fromkeys([*self.order.get(axis, []), *names]))

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Hold the folder for this process, so that two runs cannot mix their records.

        Raises:
            KdzooError: when another run holds it.
            DistillationFailure: from within the block, when something could not be written.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / ".lock", timeout=0), _writing(self.folder):
                self.write(self.config, {"format": FORMAT, "shared": self.shared, "order": self.order})
                yield
        except Timeout:
            raise KdzooError(f"{self.folder} is in use by another run; wait for it, or choose another --out") from None

    def cell(self, task: str, method: str, seed: int) -> Path:
        """Where a cell's record is."""
        return self.folder / "cells" / f"{task}-{method}-{seed}.json"

    def teacher(self, task: str) -> Path:
        """Where a task's teacher is; its record is ``record.json`` in there."""
        return self.folder / "teachers" / task

    def find(self, path: Path, configuration: dict[str, Any]) -> dict[str, Any] | None:
        """The record at a path, when it is there.

        Raises:
            KdzooError: when it cannot be read, or was made with another configuration; the difference is named.
        """
        if not path.exists():
            return None
        record = read_json(path)
        difference = differences(record.get("configuration", {}), configuration)
        if difference:
            raise KdzooError(f"{path} is of another configuration: {'; '.join(difference)}. Choose another --out")
        return record

    def write(self, path: Path, data: dict[str, Any]) -> None:
        """Write a record atomically."""
        write_atomically(path, json.dumps(data, indent=1, sort_keys=True) + "\n")

    @contextmanager
    def building(self, final: Path) -> Iterator[Path]:
        """A scratch folder that becomes ``final`` when the block ends well, and goes away otherwise."""
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{final.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = Path(tempfile.mkdtemp(dir=final.parent, prefix=f".{final.name}-"))
        try:
            yield scratch
            shutil.rmtree(final, ignore_errors=True)
            os.replace(scratch, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What a full disk makes of it: each library says it with an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        of_torch = "PytorchStreamWriter" in str(error) or "inline_container" in str(error)
        if isinstance(error, RuntimeError) and not of_torch:
            raise
        reason = f"a file came out short, as on a full disk ({error})" if of_torch else error
        raise DistillationFailure(f"cannot write to {folder}: {reason}; what was finished before is kept") from error


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        KdzooError: when it is not one; the file is named.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise KdzooError(f"{path} cannot be read: {error}; remove it, and what it held is computed again") from None
    if not isinstance(data, dict):
        raise KdzooError(f"{path} is not a record; remove it, and what it held is computed again")
    return data


def differences(old: Any, new: Any, name: str = "") -> list[str]:
    """Which settings differ, in words; mappings and lists of one length are looked into."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = sorted({*old, *new})
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
        keys = list(old)
    else:
        return [] if old == new else [f"{name} is {old!r} there and {new!r} here"]
    return [
        line for key in keys for line in differences(old.get(key), new.get(key), f"{name}.{key}" if name else str(key))
    ]
