"""What a comparison or a single run is told to do, validated."""

from __future__ import annotations

from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field

from kdzoo.bench.runs.budget import Budget, validated
from kdzoo.errors import KdzooError
from kdzoo.tasks.sources import check_source

PRETRAINED_TASKS = ("sst2", "mrpc", "stsb", "qnli")

# Three kinds of task, sized so that the whole comparison takes under five minutes on two cores.
QUICKSTART: dict[str, Any] = {
    "tasks": ("sst2", "rte", "stsb"),
    "seeds": 2,
    "teacher": "3x96,heads=4",
    "student": "2x48,heads=4",
    "train_rows": 4000,
    "validation_rows": 1000,
    "cache_limit": 0.05,  # a teacher this small runs as fast as its hidden states are read
    "budget": {"epochs": 1.5, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64},
    "teacher_budget": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64},
}


AXES = {"tasks", "methods", "seeds"}
MEASURING = {"evaluations", "cache_folder", "cache_limit"}  # no score depends on them
# Left out of the records while they are at their defaults.
OPTIONAL = {"cache_precision", "augment", "augment_model", "glove"}


class Settings(BaseModel):
    """A comparison whole: the grid and everything its cells share.

    Attributes:
        tasks, methods: names; a method may also be a recipe's YAML file.
        seeds: cells run with seeds 0 to ``seeds - 1``.
        data: ``"synthetic"``, ``"hub"`` or a folder.
        teacher: a folder or hub name, or a size such as ``"4x128"`` to train one from scratch on synthetic data.
        finetune_teacher: fine-tune the teacher on each task first; False takes it as it is.
        student: see `kdzoo.models.students.parse_student`; every other layer of the teacher when None.
        train_rows, validation_rows: how many to take; all when None.
        budget: of every student.
        teacher_budget: of the teacher.
        augment: copies of each training row in which words are exchanged, added to the students' training rows.
        augment_model: whose words they are, a folder or hub name; the teacher when None.
        glove: a GloVe file for words that are several pieces, or where the model predicts none.
        overrides: settings of recipes changed, ``LOSS.OPTION=VALUE``.
        evaluations: how often each training is interrupted to take its score, for the learning curves.
        cache_folder: where the teachers' activations are kept; in the output folder when None.
        cache_limit: the most gigabytes of them a task; the methods that do not fit ask the live teacher.
        cache_precision: in which they are kept.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    tasks: tuple[str, ...] = Field(min_length=1)
    methods: tuple[str, ...] = Field(min_length=1)
    seeds: int = Field(default=1, ge=1)
    data: str
    teacher: str
    finetune_teacher: bool = True
    student: str | None = None
    train_rows: int | None = Field(default=None, ge=1)
    validation_rows: int | None = Field(default=None, ge=1)
    budget: Budget = Budget()
    teacher_budget: Budget = Budget()
    augment: int = Field(default=0, ge=0)
    augment_model: str | None = None
    glove: str | None = None
    overrides: tuple[str, ...] = ()
    evaluations: int = Field(default=4, ge=0)
    cache_folder: str | None = None
    cache_limit: float = Field(default=1.0, ge=0)
    cache_precision: Literal["fp32", "bf16", "fp16"] = "fp32"

    def shared(self) -> dict[str, Any]:
        """What all cells have in common and depend on: neither the axes of the grid nor what changes no result."""
        found = self.model_dump(mode="json", exclude={*AXES, *MEASURING})
        return {name: value for name, value in found.items() if name not in OPTIONAL or name in self._changed()}

    def _changed(self) -> set[str]:
        return {name for name in OPTIONAL if getattr(self, name) != type(self).model_fields[name].default}

    def of_teacher(self) -> dict[str, Any]:
        """What a task's teacher depends on."""
        fields = {"data", "teacher", "finetune_teacher", "train_rows", "validation_rows", "teacher_budget"}
        return self.model_dump(mode="json", include=fields)


def resolve(**given: Any) -> Settings:
    """Settings with what was not given filled in: the quickstart's on synthetic data, plain fine-tuning's elsewhere.

    Args:
        given: fields of `Settings`; budgets as mappings; None or an empty tuple for what is not given.

    Raises:
        KdzooError: for a value that does not fit, or a teacher missing where there is no default one.
    """
    given = {name: value for name, value in given.items() if value not in (None, ())}
    check_source(given["data"])
    quickstart = given["data"] == "synthetic" and "teacher" not in given
    defaults: dict[str, Any] = QUICKSTART if quickstart else {"tasks": PRETRAINED_TASKS, "seeds": 1}
    if "teacher" not in given and not quickstart:
        raise KdzooError(f"--data {given['data']} needs a --teacher: a pretrained model's folder or hub name")
    merged = {**defaults, **given}
    for name in ("budget", "teacher_budget"):
        merged[name] = validated(Budget, **{**defaults.get(name, {}), **given.get(name, {})})
    return cast(Settings, validated(Settings, **merged))
