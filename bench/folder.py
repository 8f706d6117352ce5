"""The folder of a comparison: its configuration, one JSON record a cell, its teachers; all written atomically."""

from __future__ import annotations

import copy
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from itertools import count
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdzoo.errors import DistillationFailure, KdzooError

FORMAT = 1
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class _Failed(BaseModel):
    """What is read of a training that failed."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    task: str
    method: str
    seed: int
    error: str


class _Record(BaseModel):
    """What the tables and the report read of a record; records of earlier versions lack what has a default."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)

    task: str
    method: str
    seed: int
    score: float
    samples_per_second: float
    parameters: int
    tokens_per_second: float = 0
    evaluation_samples_per_second: float = 0
    train_seconds: float = 0
    steps: int = 0
    loss_parameters: int = 0
    flops: int = 0
    peak_memory: int = 0
    configuration: dict[str, Any] = {}
    metrics: dict[str, float] = {}
    predictions: dict[str, list[float]] = {}
    references: dict[str, list[float]] = {}
    rows: dict[str, int] = {}
    step_seconds: dict[str, float] = {}
    inference: dict[str, dict[str, float]] = {}
    curve: list[dict[str, float]] = []
    history: list[dict[str, Any]] = []
    versions: dict[str, str] = {}


class _Config(BaseModel):
    """What a folder's records have in common."""

    model_config = ConfigDict(strict=True)

    format: int = FORMAT
    shared: dict[str, Any] = {}
    order: dict[str, list[str]] = {}
    contents: dict[str, str] = {}
    commands: list[str] = []


class DamagedRecord(KdzooError):
    """A record that cannot be read, or is none."""


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
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise KdzooError(f"cannot write to the output folder {folder}: {error.strerror or error}") from None
        if old := read_config(self.config):
            difference = differences(old.get("shared", {}), shared)
            if difference:
                raise KdzooError(
                    f"{folder} holds the records of another configuration: {'; '.join(difference)}. "
                    "Choose another --out, or the settings it was started with"
                )
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
                f"{self.folder} holds the records of other contents of {' and '.join(changed)}, which changed since. "
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
        moved.folder, moved.config = folder, folder / self.config.name
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
            DistillationFailure: from within the block, when something could not be written.
        """
        from filelock import FileLock, Timeout

        try:
            with FileLock(self.folder / ".lock", timeout=0), _writing(self.folder):
                damaged = self._set_aside_damaged()
                kept = {"format": FORMAT, "shared": self.shared, "order": self.order}
                commands = list(dict.fromkeys([*self._commands, *([command] if command else [])]))
                more = {"contents": self.contents, "commands": commands}
                self.write(self.config, kept | {name: value for name, value in more.items() if value})
                yield damaged
        except Timeout:
            raise KdzooError(f"{self.folder} is in use by another run; wait for it, or choose another --out") from None

    def cell(self, task: str, method: str, seed: int) -> Path:
        """Where a cell's record is."""
        return self.folder / "cells" / f"{task}-{method}-{seed}.json"

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
        for path in [*record_paths(self.folder), *failure_paths(self.folder)]:
            try:
                read = read_failure if path.parent.name == "failed" else read_record
                read(path)
            except DamagedRecord as error:
                of_teacher = path.name == "record.json"
                # Under a name that begins with a dot a teacher is none.
                new = f".{path.parent.name}" if of_teacher else path.name
                old = path.parent if of_teacher else path
                free = (old.with_name(f"{new}.damaged-{number}") for number in count(1))
                aside = next(path for path in free if not path.exists())
                os.replace(old, aside)
                lines.append(f"{str(error).partition(';')[0]}; set aside as {aside}")
        return lines

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
        if isinstance(error, RuntimeError) and not _of_torch(error):
            raise
        reason = f"a file came out short, as on a full disk ({error})" if _of_torch(error) else error
        raise DistillationFailure(f"cannot write to {folder}: {reason}; what was finished before is kept") from error


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error says that nothing more can be written, so that going on makes no sense."""
    from safetensors import SafetensorError

    if isinstance(error, DistillationFailure):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno in FULL
    return _of_torch(error) or (
        isinstance(error, SafetensorError) and any(said in str(error) for said in ("I/O error", "IoError"))
    )


def _of_torch(error: BaseException | None) -> bool:
    """Whether it is what torch.save raises for a file that came out short."""
    said = str(error)
    return isinstance(error, RuntimeError) and ("PytorchStreamWriter" in said or "inline_container" in said)


def record_paths(folder: Path) -> list[Path]:
    """The files of all records of a comparison's folder, its teachers' first."""
    return sorted(folder.glob("teachers/[!.]*/record.json")) + sorted(folder.glob("cells/*.json"))


def failure_paths(folder: Path) -> list[Path]:
    """The files that say why a training of a comparison's folder failed."""
    return sorted(folder.glob("failed/*.json"))


def read_failures(folder: Path) -> list[dict[str, Any]]:
    """The trainings of a comparison's folder that failed.

    Raises:
        DamagedRecord: when what is kept of one cannot be read.
    """
    return [read_failure(path) for path in failure_paths(folder)]


def jobs_of(failures: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Task, method and seed of failed trainings."""
    return [(failure["task"], failure["method"], failure["seed"]) for failure in failures]


def read_failure(path: Path) -> dict[str, Any]:
    """What is kept of a failed training: ``task``, ``method``, ``seed``, ``error`` and more.

    Raises:
        DamagedRecord: when it cannot be read, or lacks one of these.
    """
    return _complete(path, _Failed)


def read_config(path: Path) -> dict[str, Any]:
    """What a folder's records have in common; empty where the file is not there.

    Raises:
        KdzooError: when it cannot be read, or is of a newer kdzoo.
    """
    if not path.exists():
        return {}
    without = "remove it: the records beside it say themselves what they were made with"
    try:
        config = read_json(path)
    except DamagedRecord as error:
        raise KdzooError(f"{str(error).partition(';')[0]}; {without}") from None
    if wrong := _unfit(_Config, config):
        raise KdzooError(f"{path} holds no {wrong[0]} that could be read; {without}")
    if config.get("format", FORMAT) > FORMAT:
        raise KdzooError(f"{path.parent} was written by a newer kdzoo (format {config['format']}); update kdzoo")
    return config


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        DamagedRecord: when it cannot be read, or lacks what every record has.
        KdzooError: when it is of a newer kdzoo.
    """
    return _complete(path, _Record)


def _complete(path: Path, kind: type[BaseModel]) -> dict[str, Any]:
    record = read_json(path)
    if isinstance(record.get("format"), int) and record["format"] > FORMAT:
        raise KdzooError(f"{path} was written by a newer kdzoo (format {record['format']}); update kdzoo")
    if lacking := _unfit(kind, record):
        raise DamagedRecord(f"{path} lacks {', '.join(lacking)}; remove it, and what it held is computed again")
    return record


def _unfit(kind: type[BaseModel], data: dict[str, Any]) -> list[str]:
    """The fields that are not there, or of another form."""
    try:
        kind.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return list(dict.fromkeys(str(part["loc"][0]) for part in found))
    return []


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DamagedRecord: when it is not one; the file is named.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KdzooError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DamagedRecord(f"{path} cannot be read: {error}; remove it, and what it held is computed again") from None
    if not isinstance(data, dict):
        raise DamagedRecord(f"{path} is not a record; remove it, and what it held is computed again")
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


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
