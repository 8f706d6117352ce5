"""A comparison in one file: its configuration, records and failures as gzipped JSON lines, from a folder and back."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from kdzoo.bench.files import DamagedRecord, scratch_folder, write_atomically, write_bytes_atomically
from kdzoo.bench.record import (
    TEACHER,
    check_config,
    check_failure,
    check_record,
    check_trial,
    failure_paths,
    read_config,
    read_failure,
    read_record,
    read_trial,
    record_paths,
    trial_paths,
)
from kdzoo.bench.trials import parted
from kdzoo.errors import KdzooError

Part = tuple[str, Callable[[], dict[str, Any]]]  # a file's name, and what reads and checks it
SUFFIX = ".jsonl.gz"
CONFIG = "config.json"
LONGEST = 2**28  # characters of a line, which is one record


@dataclass(frozen=True)
class Study:
    """All that is read of a comparison.

    Attributes:
        config: what its records have in common; empty where it was not kept.
        records: each task's teacher, then its cells, in the configuration's order of tasks and methods.
        failures: of the trainings that failed.
        trials: of a tuning, scored on training rows, in the same order.
        damaged: a line about each part that could not be read and was left out.
    """

    config: dict[str, Any] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    failures: list[dict[str, Any]] = field(default_factory=list)
    trials: list[dict[str, Any]] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)


def is_packed(path: Path) -> bool:
    """Whether a path is a comparison in one file, by its name."""
    return path.name.endswith(SUFFIX)


def read_study(path: Path, *, whole: bool = True) -> Study:
    """A comparison, from its folder or from the one file it was packed into.

    Args:
        path: of either.
        whole: refuse it where a record or a failure is damaged; otherwise that is left out and named in ``damaged``.

    Raises:
        KdzooError: when a part is damaged or of a newer kdzoo, or the path is neither.
    """
    study = Study()
    for name, take in _packed_parts(path, study) if is_packed(path) else _folder_parts(path, study):
        try:
            _of(study, name).append(take())
        except DamagedRecord as error:
            if whole:
                raise
            study.damaged.append(f"left out: {error}")
    order = study.config.get("order", {})
    tasks, methods = order.get("tasks", []), [TEACHER, *order.get("methods", [])]
    study.records.sort(key=lambda r: (_place(tasks, r["task"]), _place(methods, r["method"]), r["seed"]))
    study.trials.sort(key=lambda r: (_place(tasks, r["task"]), _place(methods, parted(r["method"])[0]), r["method"]))
    return study


def _place(names: list[str], name: str) -> tuple[int, str]:
    return (names.index(name) if name in names else len(names), name)


def _folder_parts(path: Path, study: Study) -> Iterator[Part]:
    """The parts of a folder but its configuration, which goes into the study."""
    if path.exists() and not path.is_dir():
        raise KdzooError(f"{path} is neither the folder of a comparison nor one packed into a file (*{SUFFIX})")
    study.config.update(read_config(path / CONFIG))
    for paths, read in ((record_paths, read_record), (trial_paths, read_trial), (failure_paths, read_failure)):
        for file in paths(path):
            yield file.relative_to(path).as_posix(), partial(read, file)


def _packed_parts(path: Path, study: Study) -> Iterator[Part]:
    """Likewise of a packed one."""
    checks = {"trials": check_trial, "failed": check_failure}
    for name, data in _lines(path):
        where = f"{name} in {path}"
        if name == CONFIG:
            study.config.update(check_config(data, where))
        else:
            yield name, partial(checks.get(_kind(name), check_record), data, where, PurePosixPath(name))


def _of(study: Study, name: str) -> list[dict[str, Any]]:
    """Where a part goes, by its file's name."""
    return {"trials": study.trials, "failed": study.failures}.get(_kind(name), study.records)


def _kind(name: str) -> str:
    return PurePosixPath(name).parts[0]


def pack(folder: Path, out: Path) -> int:
    """Write a comparison's folder into one file, a line for each file of it; models, logs and caches stay behind.

    The same folder gives the same bytes.

    Args:
        folder: of a comparison.
        out: the file, whose name ends with ``.jsonl.gz``.

    Returns:
        How many records it holds.

    Raises:
        KdzooError: when there is no record, one is damaged, or the file has another ending.
        DistillationFailure: when it cannot be written.
    """
    if not is_packed(out):
        raise KdzooError(f"a comparison is packed into a file whose name ends with {SUFFIX}, not into {out}")
    if not folder.is_dir() or not record_paths(folder):
        raise KdzooError(f"{folder} holds no records to pack; name the folder of a comparison")
    config = folder / CONFIG
    found = [(CONFIG, read_config(config))] if config.exists() else []
    records = [(path.relative_to(folder).as_posix(), read_record(path)) for path in record_paths(folder)]
    trials = [(path.relative_to(folder).as_posix(), read_trial(path)) for path in trial_paths(folder)]
    failures = [(path.relative_to(folder).as_posix(), read_failure(path)) for path in failure_paths(folder)]
    lines = [
        json.dumps({"file": name, "data": data}, separators=(",", ":"), sort_keys=True)
        for name, data in [*found, *records, *trials, *failures]
    ]
    write_bytes_atomically(out, gzip.compress("".join(f"{line}\n" for line in lines).encode(), mtime=0))
    return len(records)


def unpack(path: Path, folder: Path) -> int:
    """Write a packed comparison's files into a folder again, as a comparison would have.

    Args:
        path: the packed file.
        folder: one that is not there, or is empty.

    Returns:
        How many records it holds.

    Raises:
        KdzooError: when the file is damaged, or the folder holds something.
        DistillationFailure: when it cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise KdzooError(f"{folder} exists already; name a new folder to unpack {path} into")
    study = read_study(path)
    if not study.records:
        raise KdzooError(f"{path} holds no records to unpack")
    folder.parent.mkdir(parents=True, exist_ok=True)
    scratch = scratch_folder(folder.parent, folder.name)
    try:
        for name, data in _lines(path):
            write_atomically(scratch / name, json.dumps(data, indent=1, sort_keys=True) + "\n")
        scratch.replace(folder)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return len(study.records)


def _lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of each file that was packed."""
    number, seen = 0, set[str]()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(iter(partial(file.readline, LONGEST), ""), 1):
                if len(line) == LONGEST:  # a small file may hold one that fills the memory
                    raise KdzooError(f"line {number} of {path} has over {LONGEST} characters; pack its folder again")
                entry = json.loads(line)
                if not (isinstance(entry, dict) and isinstance(entry.get("data"), dict) and _named(entry.get("file"))):
                    raise KdzooError(f"line {number} of {path} is no file of a comparison; pack its folder again")
                if entry["file"] in seen:
                    raise KdzooError(f"line {number} of {path} is {entry['file']} a second time; pack its folder again")
                seen.add(entry["file"])
                yield entry["file"], entry["data"]
    except KdzooError:
        raise
    except (ValueError, EOFError, gzip.BadGzipFile, RecursionError) as error:
        raise KdzooError(f"{path} cannot be read after line {number}: {error}; pack its folder again") from None
    except OSError as error:
        raise KdzooError(f"{path} cannot be read: {error.strerror or error}") from None


def _named(name: Any) -> bool:
    """Whether it is a name that a comparison's folder may have, and none that leads out of it."""
    if not isinstance(name, str) or "\\" in name:
        return False
    parts = PurePosixPath(name).parts
    teacher = len(parts) == 3 and parts[0] == "teachers" and parts[2] == "record.json"
    of_cell = len(parts) == 2 and parts[0] in ("cells", "trials", "failed") and parts[1].endswith(".json")
    return name == CONFIG or ((teacher or of_cell) and ".." not in parts and "/".join(parts) == name)
