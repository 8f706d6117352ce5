"""The folder of a comparison: its configuration, one JSON record a cell, its teachers; all written atomically."""

from __future__ import annotations

import copy
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from kdzoo.bench.files import DamagedRecord, _writing, make_folder, read_json, scratch_folder, write_atomically
from kdzoo.bench.record import (
    FORMAT,
    differences,
    failure_paths,
    read_config,
    read_failure,
    read_record,
    read_trial,
    record_paths,
    trial_paths,
)
from kdzoo.errors import DistillationFailure, KdzooError, printable

LOCK = ".lock"
# What a comparison or a training keeps in its folder.
FILES = (LOCK, "config.json", "run.json", "record.json")
FOLDERS = (
    *("cells", "teachers", "students", "trials", "failed", "logs"),
    *("work", "augmented", "tokenizer", "text", "cache"),
)
# What a refused request may have left of these, of which nothing is the result of a training.
EARLY = (LOCK, "config.json", "run.json", "augmented", "tokenizer", "text")
READERS = {"failed": read_failure, "trials": read_trial}  # by folder; of the others read_record


def check_same(folder: Path, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse a folder whose records were made with other settings.

    Raises:
        KdzooError: names what differs.
    """
    if difference := differences(old, new):
        raise KdzooError(
            f"{folder} holds the records of another configuration: {'; '.join(difference)}. "
            "Choose another --out, or the settings it was started with"
        )


class Records:
    """The records of one comparison in one folder.

    Args:
        folder: made when it is not there.
        shared: what all cells have in common.
        order: the tasks and methods as the tables show them.
        file: where in the folder both are kept.

    Raises:
        KdzooError: when the folder cannot be written, or holds another configuration's records; the difference is
            named.
    """

    def __init__(
        self, folder: Path, shared: dict[str, Any], order: dict[str, list[str]], *, file: str = "config.json"
    ) -> None:
        self.folder = folder
        self.config = folder / file
        self.shared = shared
        self.order = dict(order)
        self.contents: dict[str, str] = {}
        self._commands: list[str] = []
        self._held: int | None = None  # which lock is ours, while we hold the folder
        _check_names(self.order)
        make_folder(folder)
        _check_parts(folder)
        if old := read_config(self.config):
            check_same(folder, old.get("shared", {}), shared)
            # What an earlier run had, and this one has not, comes after.
            for axis, names in old.get("order", {}).items():
                self.order[axis] = list(dict.fromkeys([*self.order.get(axis, []), *names]))
            self.contents = old.get("contents", {})
            self._commands = old.get("commands", [])

    @classmethod
    def of_model(cls, folder: Path, configuration: dict[str, Any]) -> tuple[Records, dict[str, Any] | None]:
        """Those of one model that is trained into a folder, and its record once it is done.

        Args:
            folder: the model's, whose own config.json stands beside these.
            configuration: what the model depends on.

        Raises:
            KdzooError: also for a folder that holds another model.
        """
        records = cls(folder, configuration, {}, file="run.json")
        if (folder / "config.json").exists() and not records.config.exists():
            raise KdzooError(f"{folder} holds a model or a comparison of another command; choose another --out")
        return records, read_json(records.model) if records.model.exists() else None

    def check_contents(self, contents: dict[str, str]) -> None:
        """Refuse files that have changed since the folder's first run, though their names have not.

        Args:
            contents: by what they are in words, a hash of them; new ones are kept with the configuration.

        Raises:
            KdzooError: names what has changed.
        """
        changed = [what for what, found in contents.items() if self.contents.get(what, found) != found]
        if changed:
            raise KdzooError(
                f"{self.folder} holds records made from other contents of {' and '.join(changed)}, which have changed. "
                "Choose another --out, or put back what it was started with"
            )
        self.contents = self.contents | contents

    @property
    def model(self) -> Path:
        """Where the record of one model is, which is beside its weights."""
        return self.folder / "record.json"

    def moved(self, folder: Path) -> Records:
        """The same in another folder, whose files are left as they are."""
        moved = copy.copy(self)
        moved.folder, moved.config, moved._held = folder, folder / self.config.name, None
        return moved

    @contextmanager
    def claimed(self, command: str = "") -> Iterator[list[str]]:
        """Hold the folder for this process, so that two runs cannot mix their records.

        Args:
            command: what was asked for, as it was typed; kept beside the configuration, after those of earlier runs.

        Yields:
            A line about each damaged record, which has been set aside.

        Raises:
            KdzooError: when another run holds it, or it has a record of a newer kdzoo.
            DistillationFailure: from within the block, when something could not be written; when the folder was removed
                meanwhile.
        """
        from filelock import FileLock, Timeout

        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self.folder / LOCK, timeout=0), _writing(self.folder):
                self._held = (self.folder / LOCK).stat().st_ino
                damaged = self._set_aside_damaged()
                kept = {"format": FORMAT, "shared": self.shared, "order": self.order}
                commands = list(dict.fromkeys([*self._commands, *([command] if command else [])]))
                more = {"contents": self.contents, "commands": commands}
                self.write(self.config, kept | {name: value for name, value in more.items() if value})
                yield damaged
                self._check_there()
        except Timeout:
            raise KdzooError(f"{self.folder} is in use by another run; wait for it, or choose another --out") from None
        finally:
            self._held = None

    def _check_there(self) -> None:
        """That the folder is the one that was claimed: a lock that is held lends its number to no other file."""
        if self._held is None:
            return
        with suppress(OSError):
            if (self.folder / LOCK).stat().st_ino == self._held:
                return
        raise DistillationFailure(
            f"the output folder {self.folder} was removed while it was written; run the same command to begin again"
        )

    def cell(self, task: str, method: str, seed: int) -> Path:
        """Where a cell's record is."""
        return self.folder / "cells" / f"{task}-{method}-{seed}.json"

    def seeds(self, task: str, method: str) -> list[int]:
        """The seeds of which there are cells."""
        stems = [path.stem for path in (self.folder / "cells").glob(f"{task}-{method}-*.json")]
        ends = [stem.removeprefix(f"{task}-{method}-") for stem in stems]
        return sorted(int(end) for end in ends if end.isascii() and end.isdecimal())

    def trial(self, task: str, method: str, seed: int) -> Path:
        """Where the record of a trial is."""
        return self.folder / "trials" / f"{task}-{method}-{seed}.json"

    def teacher(self, task: str) -> Path:
        """Where a task's teacher is; its record is ``record.json`` in there."""
        return self.folder / "teachers" / task

    def failed(self, task: str, method: str, seed: int) -> Path:
        """Where it says why a cell, or a task's teacher, failed."""
        return self.folder / "failed" / f"{task}-{method}-{seed}.json"

    def _set_aside_damaged(self) -> list[str]:
        """Rename the damaged records of the folder, a teacher's with its folder; a line about each.

        Raises:
            KdzooError: for a record of a newer kdzoo.
        """
        lines = []
        for path in [*record_paths(self.folder), *trial_paths(self.folder), *failure_paths(self.folder)]:
            try:
                READERS.get(path.parent.name, read_record)(path)
            except DamagedRecord as error:
                of_teacher = path.name == "record.json"
                aside = self.set_aside(path.parent if of_teacher else path, "damaged")
                lines.append(printable(f"{str(error).partition(';')[0]}; set aside as {aside}"))
        return lines

    @staticmethod
    def set_aside(path: Path, why: str) -> Path:
        """Rename a record, or a teacher's folder, to one that no one reads; the new path."""
        # Under a name that begins with a dot a teacher is none.
        name = f".{path.name}" if path.is_dir() else path.name
        free = (path.with_name(f"{name}.{why}-{number}") for number in count(1))
        aside = next(path for path in free if not path.exists())
        os.replace(path, aside)
        return aside

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
        """Write a record atomically.

        Raises:
            DistillationFailure: when it cannot be written, or the folder was removed meanwhile.
        """
        self._check_there()
        write_atomically(path, json.dumps(data, indent=1, sort_keys=True) + "\n")

    @contextmanager
    def building(self, final: Path) -> Iterator[Path]:
        """A scratch folder that becomes ``final`` when the block ends well, and goes away otherwise."""
        self._check_there()
        final.parent.mkdir(parents=True, exist_ok=True)
        for left in final.parent.glob(f".{final.name}-*"):
            shutil.rmtree(left, ignore_errors=True)
        scratch = scratch_folder(final.parent, final.name)
        try:
            yield scratch
            self._check_there()
            shutil.rmtree(final, ignore_errors=True)
            os.replace(scratch, final)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)


def _check_names(order: dict[str, list[str]]) -> None:
    """Refuse tasks and methods of which two make the same file: task ``a-b`` and method ``c``, ``a`` and ``b-c``."""
    by_file: dict[str, tuple[str, str]] = {}
    for task in order.get("tasks", []):
        for method in order.get("methods", []):
            other = by_file.setdefault(f"{task}-{method}".lower(), (task, method))
            if other != (task, method):
                raise KdzooError(
                    f"the records of {method} on {task} and of {other[1]} on {other[0]} would be one file, "
                    f"{task}-{method}; give a task or a method another name"
                )


def check_output(folder: Path) -> None:
    """Refuse an output folder that cannot be written, or in which something else is; it is left as it was.

    Raises:
        KdzooError: says why.
    """
    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    try:
        make_folder(folder)
        _check_parts(folder)
    finally:
        for path in missing:
            with suppress(OSError):
                path.rmdir()


def _check_parts(folder: Path) -> None:
    """Refuse a folder in which something else stands where a part of ours goes.

    Raises:
        KdzooError: names it.
    """
    instead = "remove it, or choose another --out"
    for path in [folder / name for name in FILES]:
        if path.is_symlink() or (path.exists() and not path.is_file()):
            kind = "a link" if path.is_symlink() else "no file"
            raise KdzooError(f"{path} is {kind}, and a file of kdzoo's goes there; {instead}")
    parts = [folder / name for name in FOLDERS]
    for path in [*parts, *folder.glob("teachers/[!.]*"), *folder.glob("logs/[!.]*")]:
        link = path.is_symlink() and (path not in parts or not path.is_dir())
        if link or (path.exists() and not path.is_dir()):
            kind = "a link" if link else "no folder"
            raise KdzooError(
                f"{path} is {kind}, and a folder of kdzoo's goes there; remove it, or choose another --out"
            )


@contextmanager
def undone(folder: Path) -> Iterator[None]:
    """Take back what a request that is refused within the block has left in its output folder.

    Only what was not there before goes, and nothing once something was trained, or while another run holds the folder.
    """
    from filelock import FileLock, Timeout

    missing = [path for path in (folder, *folder.parents) if not os.path.lexists(path)]
    before = set() if missing else {path.name for path in folder.iterdir()} if folder.is_dir() else None
    try:
        yield
    except KdzooError:
        if before is None or not folder.is_dir():
            raise
        new = [path for path in folder.iterdir() if path.name not in before]
        if not any(path.name not in EARLY for path in new):
            with suppress(Timeout, OSError), FileLock(folder / LOCK, timeout=0):
                for path in [*new, *([] if LOCK in before else [folder / LOCK])]:
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
            for path in missing:
                with suppress(OSError):
                    path.rmdir()
        raise
