"""The record of a training, its schema and its readers; a comparison's configuration and its failures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from kdzoo.bench.files import DamagedRecord, read_json
from kdzoo.errors import KdzooError

FORMAT = 1
_WITHOUT = "remove it: the records beside it say themselves what they were made with"


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
    predictions: dict[str, list[Any]] = {}
    references: dict[str, list[Any]] = {}
    kind: str = "classification"
    headline: list[str] = []
    one_class: bool = False
    guess: dict[str, Any] = {}
    test: dict[str, Any] = {}
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
    return check_failure(read_json(path), str(path))


def check_failure(failure: dict[str, Any], where: str) -> dict[str, Any]:
    """What is kept of a failed training, as it is.

    Raises:
        DamagedRecord: as for `read_failure`; it names where it is.
    """
    return _complete(failure, where, _Failed)


def read_config(path: Path) -> dict[str, Any]:
    """What a folder's records have in common; empty where the file is not there.

    Raises:
        KdzooError: when it cannot be read, or is of a newer kdzoo.
    """
    if not path.exists():
        return {}
    try:
        config = read_json(path)
    except DamagedRecord as error:
        raise KdzooError(f"{str(error).partition(';')[0]}; {_WITHOUT}") from None
    return check_config(config, str(path))


def check_config(config: dict[str, Any], where: str) -> dict[str, Any]:
    """A configuration as it is.

    Raises:
        KdzooError: when it is none, or of a newer kdzoo; it names where it is.
    """
    if wrong := _unfit(_Config, config):
        raise KdzooError(f"{where} holds no {wrong[0]} that could be read; {_WITHOUT}")
    if config.get("format", FORMAT) > FORMAT:
        raise KdzooError(f"{where} was written by a newer kdzoo (format {config['format']}); update kdzoo")
    return config


def read_record(path: Path) -> dict[str, Any]:
    """A record from its file.

    Raises:
        DamagedRecord: when it cannot be read, or lacks what every record has.
        KdzooError: when it is of a newer kdzoo.
    """
    return check_record(read_json(path), str(path))


def check_record(record: dict[str, Any], where: str) -> dict[str, Any]:
    """A record as it is.

    Raises:
        DamagedRecord, KdzooError: as for `read_record`; they name where it is.
    """
    return _complete(record, where, _Record)


def _complete(record: dict[str, Any], where: str, kind: type[BaseModel]) -> dict[str, Any]:
    if isinstance(record.get("format"), int) and record["format"] > FORMAT:
        raise KdzooError(f"{where} was written by a newer kdzoo (format {record['format']}); update kdzoo")
    if lacking := _unfit(kind, record):
        raise DamagedRecord(f"{where} lacks {', '.join(lacking)}; remove it, and what it held is computed again")
    return record


def _unfit(kind: type[BaseModel], data: dict[str, Any]) -> list[str]:
    """The fields that are not there, or of another form."""
    try:
        kind.model_validate(data)
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
        return list(dict.fromkeys(str(part["loc"][0]) for part in found))
    return []


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


TEACHER = "teacher"
