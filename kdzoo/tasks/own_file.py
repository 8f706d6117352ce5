"""A task of one's own data from a YAML file: its name, columns, kind, labels, metrics, files and splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
    field_validator,
    model_validator,
)

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.own import Own, from_data
from kdzoo.tasks.own_graphs import GRAPHS
from kdzoo.tasks.own_sequences import SEQUENCES
from kdzoo.yaml_files import read_yaml

FORMS = {  # what a setting may be that has one of two forms, by the names that pydantic gives these
    ("int", "float"): "a number",
    ("int", "str"): "a whole number or a text",
    ("str", "list[str]"): "a text or a list of texts",
    ("str", "dict[str,str]"): "a path or a mapping of splits to paths",
}
EXAMPLE = "columns: {text: [title, body], label: topic}"


class Columns(BaseModel):
    """Which columns are taken.

    Attributes:
        text: one text column, or two.
        label: the label's column; several of numbers.
    """

    model_config = ConfigDict(extra="forbid")

    text: str | list[str]
    label: str | list[str]


class OwnFile(BaseModel):
    """The file's content.

    Attributes:
        name: the task's; the YAML file's stem by default.
        columns: which are taken; tagged sentences and questions need none named.
        files: a file, a folder or a hub data set's name, or one a split; paths are from the YAML file's folder.
        kind, labels, metrics, headline, label_separator, decoding, folds: see `kdzoo.tasks.own.from_data`.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        seed: of the validation rows, where they are taken from the training rows, or of folds that are drawn.
        knowledge: a triple file, from the YAML file's folder, whose facts the teacher reads.
        arm: of the facts: none, random, blind, flat or both (`kdzoo.tasks.with_knowledge.ARMS`).
        max_entities: the most facts of a subject in a sentence.
        graph: settings of a knowledge graph's task (`kdzoo.tasks.own_graphs`).
        questions: settings of questions (`kdzoo.tasks.QuestionAnswering`).
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = ""
    columns: Columns | None = None
    files: str | dict[str, str]
    kind: str | None = None
    labels: list[str] | None = None
    metrics: str | list[str] | None = None
    headline: str | list[str] | None = None
    label_separator: str | None = Field(default=None, min_length=1)
    decoding: dict[str, StrictInt | StrictFloat] | None = None
    splits: dict[str, str] = {}
    seed: int = Field(default=0, ge=0, lt=2**32, strict=True)
    folds: Any = None
    knowledge: str | None = None
    arm: str = ""
    max_entities: int | None = Field(default=None, ge=0, strict=True)
    graph: dict[str, StrictInt | StrictBool | StrictStr] = {}
    questions: dict[str, StrictInt | StrictFloat] = {}

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise KdzooError(f"it is no mapping of keys; it begins as in {EXAMPLE}")
        for key in data:
            if key not in cls.model_fields:
                raise unknown("key", key, cls.model_fields)
        return data

    @field_validator("labels", mode="before")
    @classmethod
    def _as_text(cls, labels: Any) -> Any:
        return [str(label) for label in labels] if isinstance(labels, list) else labels


def _said(error: ValidationError) -> str:
    """What is wrong, in words; of a setting that may have one of two forms pydantic names each by itself."""
    first, *others = error.errors(include_url=False)
    place = first["loc"]
    forms = [*place[-1:], *(other["loc"][-1] for other in others if other["loc"][:-1] == place[:-1])]
    wanted = next((words for pair, words in FORMS.items() if {*forms} == {*pair}), None)
    said = first["msg"].removeprefix("Value error, ")
    if wanted is not None:
        place, said = place[:-1], f"expected {wanted}, got {first['input']!r}"
    return ": ".join(filter(None, (".".join(map(str, place)), said)))


def from_yaml(path: Path) -> Own:
    """The task that a YAML file describes.

    Raises:
        KdzooError: the file is no such description, or its data makes no task; in one line.
    """
    written = read_yaml(path, "the task")
    try:
        read = OwnFile.model_validate(written)
    except ValidationError as error:
        raise KdzooError(f"{path}: {_said(error)}") from None
    except KdzooError as error:
        raise KdzooError(f"{path}: {error}") from None

    if read.columns is None and read.kind not in (*SEQUENCES, *GRAPHS):
        raise KdzooError(f"{path}: columns: field required; it begins as in {EXAMPLE}")

    def place(text: str) -> Any:
        return path.parent / text if (path.parent / text).exists() else text

    data = place(read.files) if isinstance(read.files, str) else {s: place(f) for s, f in read.files.items()}
    for key, value in (("arm", read.arm), ("max_entities", read.max_entities)):
        if value not in ("", None) and read.knowledge is None:
            raise KdzooError(f"{path}: {key}: it is of facts, and there are none; name a triple file with knowledge")
    own = from_data(
        data,
        text=read.columns.text if read.columns else None,
        label=read.columns.label if read.columns else None,
        kind=read.kind,
        labels=read.labels,
        metric=read.metrics,
        headline=read.headline,
        separator=read.label_separator,
        decoding=read.decoding,
        name=read.name or path.stem,
        splits=read.splits,
        seed=read.seed,
        folds=read.folds,
        graph=read.graph,
        questions=read.questions,
    )
    if read.knowledge is None:
        return own
    from kdzoo.tasks.with_knowledge import with_facts

    told = {} if read.max_entities is None else {"max_entities": read.max_entities}
    with_all = with_facts(own.tasks[0], place(read.knowledge), name=own.tasks[0].name, arm=read.arm, **told)
    tasks = tuple(replace(with_all, name=task.name, inner=task) for task in own.tasks)
    return Own(tasks, (f"{own.notes[0]}; {with_all.about()}", *own.notes[1:]))
