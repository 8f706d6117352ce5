"""The record of a training, its schema and its readers; a comparison's configuration and its failures."""

from __future__ import annotations

from pathlib import Path, PurePath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from kdzoo.bench.files import DamagedRecord, read_json
from kdzoo.bench.trials import MARK, without_trials
from kdzoo.errors import KdzooError

FORMAT = 1
TEACHER = "teacher"  # in place of a method
_WITHOUT = "remove it: the records beside it say themselves what they were made with"


# What a record's number may be: more is no measurement, and would break the arithmetic of a mean or the axes of a plot.
_Number = Annotated[float, Field(ge=-1e30, le=1e30)]
_Count = Annotated[int, Field(ge=0, le=2**63)]
# Names of earlier versions may be longer than `kdzoo.errors.check_name` has them.
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=250)]
_TrialName = Annotated[str, Field(pattern=rf"^[A-Za-z0-9_][A-Za-z0-9_.-]*{MARK}[0-9]+$", max_length=260)]
_Batch = Annotated[str, Field(pattern=r"^[0-9]{1,9}$")]
_NUMBERED = ("classification", "regression", "multilabel")  # kinds whose answers are one number a row, or several


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, allow_inf_nan=False)


class _Failed(_Strict):
    """What is read of a training that failed, a trial's among them."""

    task: _Name
    method: _Name | _TrialName
    seed: _Count
    error: str


class _Point(_Strict):
    """Of a learning curve."""

    step: _Count
    seconds: _Number
    score: _Number


def _entry(entry: dict[str, Any]) -> dict[str, Any]:
    """An entry of the Trainer's log, whose losses are drawn over its steps."""
    losses = [value for name, value in entry.items() if name == "loss" or name.startswith("loss/")]
    for number in [*losses, *([entry.get("step")] if losses else [])]:
        if not isinstance(number, (int, float)) or isinstance(number, bool) or not abs(number) < 1e39:
            raise ValueError("a loss and its step are numbers")
    return entry


class _Fold(_Strict):
    """Which fold of a whole's rows a training is scored on."""

    of: _Name
    name: str
    count: Annotated[int, Field(ge=2, le=2**31)]


class _Guess(_Strict):
    """What a constant guess scores, where the task has one."""

    score: _Number | None = None
    metrics: dict[str, _Number] = {}


class _Record(_Strict):
    """What the tables and the report read of a record; records of earlier versions lack what has a default."""

    task: _Name
    method: _Name
    seed: _Count
    score: Annotated[float, Field(ge=-1e6, le=1e6)]
    samples_per_second: _Number
    parameters: _Count
    tokens_per_second: _Number = 0
    evaluation_samples_per_second: _Number = 0
    train_seconds: _Number = 0
    steps: _Count = 0
    loss_parameters: _Count = 0
    flops: _Count = 0
    peak_memory: _Count = 0
    configuration: dict[str, Any] = {}
    metrics: dict[str, _Number] = {}
    predictions: dict[str, list[Any]] = {}
    references: dict[str, list[Any]] = {}
    kind: str = "classification"
    headline: Annotated[list[str], Field(min_length=1)] = []
    one_class: bool = False
    fold: _Fold | None = None
    guess: _Guess = _Guess()
    scored_by: dict[str, str] = {}
    sources: list[str] = []
    test: dict[str, Any] = {}
    kept: dict[str, Any] = {}
    rows: dict[str, _Count] = {}
    step_seconds: dict[str, _Number] = {}
    inference: dict[_Batch, dict[str, _Number]] = {}
    curve: list[_Point] = []
    history: list[Annotated[dict[str, Any], AfterValidator(_entry)]] = []
    versions: dict[str, str] = {}
    device: str | None = None
    threads: _Count | None = None
    started: str | None = None
    finished: str | None = None

    @field_validator("predictions", "references")
    @classmethod
    def _answers(cls, answers: dict[str, list[Any]]) -> dict[str, list[Any]]:
        for rows in answers.values():
            forms = {_form(row) for row in rows}
            if len(forms) > 1 or None in forms:
                raise ValueError("the rows of a split have answers of one form")
        return answers

    @model_validator(mode="after")
    def _of_the_kind(self) -> _Record:
        first = [row for of in (*self.predictions.values(), *self.references.values()) for row in of[:1]]
        if self.kind in _NUMBERED and any(_form(row) == "words" for row in first):
            raise ValueError(f"the answers of {self.kind} are numbers")
        labels = [row for of in self.references.values() for row in of[:1]]
        if self.kind == "classification" and any(_form(row) != "number" for row in labels):
            raise ValueError("the label of a row is one number")
        if self.sources and self.references:  # which stand beside them in the report
            right = next(iter(self.references.values()))[: len(self.sources)]
            texts = [of for of in right if isinstance(of, list) and of and isinstance(of[0], str)]
            if len(texts) < len(self.sources):
                raise ValueError("a source has texts that are right")
        return self


class _Trial(_Record):
    """One training of a tuning, scored on training rows."""

    method: _TrialName
    tried: dict[str, _Number] = {}


def _form(answer: Any) -> str | None:
    """The form of a row's answer: a number, so many numbers, or what is of words; None for what is no answer."""
    if isinstance(answer, (int, float)) and not isinstance(answer, bool):
        return "number" if abs(answer) < 1e30 else None
    if isinstance(answer, list) and answer and all(_form(part) == "number" for part in answer):
        return f"{len(answer)} numbers"
    return "words" if isinstance(answer, (str, list)) else None


class _Config(BaseModel):
    """What a folder's records have in common."""

    model_config = ConfigDict(strict=True)

    format: int = FORMAT
    shared: dict[str, Any] = {}
    order: dict[str, list[str]] = {}
    contents: dict[str, str] = {}
    commands: list[str] = []


def new_record(configuration: dict[str, Any], **found: Any) -> dict[str, Any]:
    """The record of a training that has ended, here: what it found, and where and with what it ran.

    Args:
        configuration: all that the training depends on.
        found: what it gave, by field.
    """
    import torch  # a configuration is read, and may be refused, before what trains is loaded

    from kdzoo.bench.timing import device_name, versions

    return {
        "format": FORMAT,
        "configuration": configuration,
        **found,
        "versions": versions("transformers", "datasets"),
        "device": device_name(),
        "threads": torch.get_num_threads(),
    }


def record_paths(folder: Path) -> list[Path]:
    """The files of all records of a comparison's folder, its teachers' first."""
    return sorted(folder.glob("teachers/[!.]*/record.json")) + sorted(folder.glob("cells/*.json"))


def trial_paths(folder: Path) -> list[Path]:
    """The files of the records of a comparison's trials."""
    return sorted(folder.glob("trials/*.json"))


def failure_paths(folder: Path) -> list[Path]:
    """The files that say why a training of a comparison's folder failed."""
    return sorted(folder.glob("failed/*.json"))


def jobs_of(failures: list[dict[str, Any]]) -> list[tuple[str, str, int]]:
    """Task, method and seed of failed trainings; trials are none of a table's."""
    return without_trials((failure["task"], failure["method"], failure["seed"]) for failure in failures)


def read_failure(path: Path) -> dict[str, Any]:
    """What is kept of a failed training: ``task``, ``method``, ``seed``, ``error`` and more.

    Raises:
        DamagedRecord: when it cannot be read, lacks one of these, or is of another training than its name says.
    """
    return check_failure(read_json(path), str(path), path)


def check_failure(failure: dict[str, Any], where: str, path: PurePath) -> dict[str, Any]:
    """What is kept of a failed training, as it is.

    Raises:
        DamagedRecord: as for `read_failure`; it names where it is.
    """
    return _called(_complete(failure, where, _Failed), where, path)


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
        DamagedRecord: when it cannot be read, lacks what every record has, or is of another training than its name
            says.
        KdzooError: when it is of a newer kdzoo.
    """
    return check_record(read_json(path), str(path), path)


def check_record(record: dict[str, Any], where: str, path: PurePath) -> dict[str, Any]:
    """A record as it is, with the path that it has in a comparison's folder.

    Raises:
        DamagedRecord, KdzooError: as for `read_record`; they name where it is.
    """
    record = _called(_complete(record, where, _Record), where, path)
    check_answers(record, record.get("references", {}))
    return record


def check_answers(record: dict[str, Any], labels: dict[str, list[Any]]) -> None:
    """Refuse a record whose predictions are not those of its task's rows.

    Args:
        record: that was read; one without predictions passes.
        labels: the teacher's ``references``, by validation split.

    Raises:
        DamagedRecord: names the record and the split.
    """
    if not record.get("predictions"):
        return
    who = f"the record of {record['task']}, {record['method']}, seed {record['seed']}"
    again = "remove it, and what it held is computed again"
    for split, true in labels.items():
        found = record["predictions"].get(split, [])
        if len(found) != len(true):
            raise DamagedRecord(
                f"{who} has {len(found)} predictions on {split}, where the teacher's has {len(true)} labels; {again}"
            )
        if record.get("kind") in ("regression", "multilabel") and [*map(_form, found[:1])] != [*map(_form, true[:1])]:
            raise DamagedRecord(
                f"{who} predicts a {_form(found[0])} a row of {split}, where a label is a {_form(true[0])}; {again}"
            )


def read_trial(path: Path) -> dict[str, Any]:
    """The record of a trial from its file.

    Raises:
        DamagedRecord, KdzooError: as for `read_record`.
    """
    return check_trial(read_json(path), str(path), path)


def check_trial(record: dict[str, Any], where: str, path: PurePath) -> dict[str, Any]:
    """The record of a trial as it is.

    Raises:
        DamagedRecord, KdzooError: as for `read_record`; they name where it is.
    """
    return _called(_complete(record, where, _Trial), where, path)


def _called(record: dict[str, Any], where: str, path: PurePath) -> dict[str, Any]:
    """A record whose file is called by what it holds."""
    task, method, seed = (record[name] for name in ("task", "method", "seed"))
    of_teacher = path.name == "record.json"
    if (path.parent.name, TEACHER) != (task, method) if of_teacher else path.name != f"{task}-{method}-{seed}.json":
        raise DamagedRecord(
            f"{where} is of {task}, {method}, seed {seed}, which its name does not say; remove it, and what it held "
            "is computed again"
        )
    return record


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
        return list(dict.fromkeys(str((*part["loc"], "answers of its kind")[0]) for part in found))
    return []


# Where a recipe's numbers come from, and how its settings were asked for: what is trained stands in the recipe.
_SAID = {"recipe": {"sources"}, "": {"overrides"}, "shared": {"overrides"}}
# Which options hold before a recipe's own numbers, as the settings name them; and as they are said.
_FIRST, _GIVEN = ("first", "shared.first", "settings.first"), "options given"


def differences(old: Any, new: Any) -> list[str]:
    """Which settings differ, in words; see `differing`."""
    return [
        f"{name}: {one or 'none'} there and {other or 'none'} here"
        if name.endswith(_GIVEN)
        else f"{name} is {one!r} there and {other!r} here"
        for name, one, other in differing(old, new)
    ]


def differing(old: Any, new: Any, name: str = "") -> list[tuple[str, Any, Any]]:
    """Which settings differ: name, old and new; mappings and lists of one length are looked into.

    Left out is what is no setting, though records of before have it among theirs (`_SAID`).
    """
    if name in _FIRST and old != new:
        return [(name.removesuffix("first") + _GIVEN, _as_options(old), _as_options(new))]
    if isinstance(old, dict) and isinstance(new, dict):
        # How often is a setting with --keep best alone, and nobody typed it where that is the other.
        idle = {"evaluations"} if old.get("keep") != new.get("keep") and "evaluations" not in {*old} & {*new} else set()
        keys = sorted({*old, *new} - _SAID.get(name, set()) - idle)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        old, new = dict(enumerate(old)), dict(enumerate(new))
        keys = list(old)
    else:
        return [] if old == new else [(name, old, new)]
    found = [differing(old.get(key), new.get(key), f"{name}.{key}" if name else str(key)) for key in keys]
    return [pair for of in found for pair in of]


def _as_options(fields: Any) -> str:
    """Fields of the budget as the command line calls them."""
    return ", ".join(f"--{str(name).replace('_', '-')}" for name in fields or ())
