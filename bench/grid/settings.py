"""What a comparison is told to do, and where it runs, validated.

The text under a field is also the help of the command line's option, which is made of it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, cast

from pydantic import BeforeValidator, Field, PlainSerializer, PlainValidator

from kdzoo.bench.runs.budget import Budget, Distilled, Told, validated
from kdzoo.errors import KdzooError
from kdzoo.models.spec import ModelSpec
from kdzoo.models.tokenizers import told_of_targets
from kdzoo.objectives.overrides import RECIPES_OWN, fixed_for, trained_with
from kdzoo.objectives.recipe import Recipe, Training
from kdzoo.tasks import get_task
from kdzoo.tasks.sources import check_source

PRETRAINED_TASKS = ("sst2", "mrpc", "stsb", "qnli")

# Three kinds of task, sized so that the whole comparison takes under five minutes on two cores. The students start from
# the teacher's upper layers, as the methods presuppose, and train so briefly that there is something to learn from it.
QUICKSTART: dict[str, Any] = {
    "tasks": ("sst2", "rte", "stsb"),
    "seeds": 3,
    "teacher": "3x96,heads=4",
    "student": "teacher:1,2",
    "train_rows": 4000,
    "validation_rows": 1000,
    "cache_limit": 0.05,  # a teacher this small runs as fast as its hidden states are read
    "budget": {"epochs": 0.5, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64},
    "teacher_budget": {"epochs": 3, "batch_size": 16, "learning_rate": 1e-3, "max_length": 64},
}

AXES = {"tasks", "methods", "seeds"}
MEASURING = {
    "evaluations",
    "cache_folder",
    "cache_limit",
    "save_students",
}  # no score depends on them, but see --keep best
# Left out of the records while they are at their defaults.
OPTIONAL = {
    *("cache_precision", "cache_top", "augment", "augment_model", "glove"),
    *("test_rows", "own_tasks", "recipe_training", "first", "tune", "keep"),
}
# A model that is trained from scratch needs a higher rate and more updates than a pretrained one.
FROM_SCRATCH: dict[str, Any] = {"batch_size": 16, "learning_rate": 1e-3}


def _seeds(value: Any) -> Any:
    """Seeds from how many there are, or from a list of them."""
    if isinstance(value, str):
        parts = [part.strip() for part in value.split(",") if part.strip()]
        if not parts or not all(part.isdecimal() for part in parts):
            raise ValueError("give a number of seeds, or which, such as 0,3,7")
        value = [int(part) for part in parts] if "," in value else int(parts[0])
    if isinstance(value, int) and not isinstance(value, bool):
        if not 1 <= value <= MOST_SEEDS:
            raise ValueError(f"input should be from 1 to {MOST_SEEDS}; the seed {value} alone is '{value},'")
        return tuple(range(value))
    if isinstance(value, (list, tuple)) and len(set(value)) < len(value):
        raise ValueError("a seed is named twice")
    return value


# Read once, here; in records and files it is the text that it was asked for with.
Model = Annotated[ModelSpec, PlainValidator(ModelSpec.parse), PlainSerializer(str, return_type=str)]
MOST_SEEDS = 1000
Seeds = Annotated[
    tuple[Annotated[int, Field(ge=0, lt=2**32)], ...],
    BeforeValidator(_seeds),
    Field(min_length=1, max_length=MOST_SEEDS),
]


class Settings(Distilled):
    """A comparison whole: the grid and everything its cells share."""

    tasks: tuple[str, ...] = Field(min_length=1)
    """Tasks, separated by commas."""
    methods: tuple[str, ...] = Field(min_length=1)
    """Recipes, YAML files or expressions, separated by commas; or 'all' recipes."""
    seeds: Seeds = (0,)
    """How many seeds, or which: 0,3,7 (and 7, alone)."""
    tune: int = Field(default=0, ge=0, le=1000, strict=True)
    """Trials for each method (Optuna) over its rate and what its recipe marks, on held-out training rows; 0: none."""
    teacher: Model
    """Folder, hub name, or a size such as 4x128, which is trained from scratch."""
    finetune_teacher: bool = True
    """Fine-tune the teacher on each task first, or take it as it is."""
    student: Model | None = None
    """4x312, teacher:1,3,5, a folder or a hub name, or bi: before it; every other layer of the teacher by default."""
    budget: Budget = Budget()
    """Of every student."""
    teacher_budget: Budget = Budget()
    """Of the teacher."""
    cache_folder: str | None = None
    """Keep the teachers' activations there; in OUT/cache by default."""
    cache_limit: float = Field(default=1.0, ge=0)
    """Most gigabytes of them a task; where a method needs more, the teacher runs live; 0: none."""
    keep: Literal["last", "best"] = "last"
    """Which weights: 'last', or 'best' on a tenth of the training rows, held out and scored --evaluations times."""
    save_students: Literal["none", "best", "all"] = "none"
    """Keep the trained students in OUT/students: the best seed of each method and task, or all."""
    overrides: tuple[str, ...] = ()
    """Settings of recipes changed, LOSS.OPTION=VALUE or KEY=VALUE, of one method with METHOD: before them."""
    recipe_training: bool = False
    """Train each method with its recipe's own rate, epochs and batch size too, instead of one budget for all."""
    first: tuple[str, ...] = ()
    """Numbers of the budget that hold before a recipe's own, as options that were given do, where a recipe's count."""
    own_tasks: dict[str, dict[str, Any]] = Field(default={})
    """What the tasks of one's own data are, by name."""
    evaluations: int = Field(default=4, ge=0, le=1000)
    """Scores taken while each model trains, for the learning curves."""

    def budget_of(self, recipe: Recipe) -> Budget:
        """The budget of a method's students: the one for all, with what is the method's own."""
        own = recipe.training.model_dump(exclude_none=True, exclude={"max_length"})
        counting = own.keys() if self.recipe_training else own.keys() & RECIPES_OWN
        taken = trained_with(self.overrides, recipe.name) | counting - {*self.first}
        changed = {name: value for name, value in own.items() if name in taken}
        return cast(Budget, validated(Budget, **(self.budget.model_dump() | changed)))

    def fixed_for(self, recipe: Recipe) -> set[str]:
        """What ``--set`` gives to a method and no trial seeks: see `kdzoo.objectives.overrides.fixed_for`."""
        return fixed_for(self.overrides, recipe)

    def idle(self) -> str:
        if self.keep == "best" and not self.evaluations:
            return "--keep best chooses among the scores taken while training, and --evaluations 0 takes none"
        if self.keep == "best" and self.augment:
            return "--keep best holds training rows out, and --augment would train on copies of them; leave one out"
        if self.tune == 1:
            return "--tune 1 tries each recipe's own settings alone and has nothing to choose; give 2 or more trials"
        if self.tune and self.augment:
            return "--tune holds training rows out, and its trials would lack the copies of --augment; leave one out"
        return super().idle()

    def _idle_cache(self) -> str:
        if not self.cache_limit and (given := self.changed("cache_folder", "cache_precision", "cache_top")):
            return f"{given[0]} is about a cache, and --cache-limit 0 is for none; leave one of them out"
        return ""

    def shared(self) -> dict[str, Any]:
        """What all cells have in common and depend on: neither the axes of the grid nor what changes no result."""
        # The best weights depend on how often they were looked at.
        aside = MEASURING - {"evaluations"} if self.keep == "best" else MEASURING
        # A setting of a recipe stands in the recipes of the cells that it is for.
        found = self.model_dump(mode="json", exclude={*AXES, *aside, "overrides"})
        kept = {name: value for name, value in found.items() if name not in OPTIONAL or name in self._changed()}
        return kept | told_of_targets(self.teacher, self.student)

    def _changed(self) -> set[str]:
        return {name for name in OPTIONAL if getattr(self, name) != type(self).model_fields[name].default}

    def of_teacher(self) -> dict[str, Any]:
        """What a task's teacher depends on."""
        fields = {"data", "teacher", "finetune_teacher", "train_rows", "validation_rows", "teacher_budget"}
        fields |= {"test_rows"} & self._changed()
        return self.model_dump(mode="json", include=fields) | told_of_targets(self.teacher)


class Place(Told):
    """Where the trainings of a comparison run."""

    workers: int | None = Field(default=None, ge=1, le=1024)
    """Trainings at the same time, each on its share of the processor's threads."""
    launcher: str = "local"
    """Where they run: 'local', or 'ray' on a Ray cluster."""
    ray_address: str | None = None
    """The cluster's, HOST:PORT or 'auto'; without it one is started here."""
    cpus_per_cell: float | None = Field(default=None, ge=0.001)
    """CPUs that Ray gives each training; 1."""
    gpus_per_cell: float | None = Field(default=None, ge=0)
    """GPUs that Ray gives each training; 1 where the cluster has any."""


def quickstart_of(given: dict[str, Any]) -> dict[str, Any]:
    """The quickstart's settings for the tasks that are asked for: their own where all of them have the same."""
    own = [get_task(name).quickstart for name in given.get("tasks", ())]
    if not own or any(one != own[0] for one in own):
        return QUICKSTART
    budgets = {name: QUICKSTART[name] | own[0].get(name, {}) for name in ("budget", "teacher_budget")}
    return {**QUICKSTART, **own[0], **budgets}


def resolve(**given: Any) -> Settings:
    """Settings with what was not given filled in: the quickstart's on synthetic data, plain fine-tuning's elsewhere.

    Args:
        given: fields of `Settings`; budgets as mappings; None or an empty tuple for what is not given.

    Raises:
        KdzooError: for a value that does not fit, or a teacher missing where there is no default one.
    """
    given = {"data": "synthetic"} | {name: value for name, value in given.items() if value not in (None, ())}
    own = {name: task.identity() for name in given.get("tasks", ()) if (task := get_task(name)).brings_rows}
    if len(own) < len(given.get("tasks", ())) or not own:
        check_source(given["data"])
    quickstart = given["data"] == "synthetic" and "teacher" not in given and not own
    defaults: dict[str, Any] = quickstart_of(given) if quickstart else {"tasks": PRETRAINED_TASKS, "seeds": 1}
    if "teacher" not in given and not quickstart:
        what = f"the task {next(iter(own))}" if own else f"--data {given['data']}"
        raise KdzooError(
            f"{what} needs a --teacher: a pretrained model's folder or hub name, or a size such as 4x128 to train one"
        )
    merged = {**defaults, **given, **({"own_tasks": own} if own else {})}
    merged["teacher"] = ModelSpec.parse(merged["teacher"])
    if not quickstart and merged["teacher"].is_size:
        defaults = defaults | {"budget": FROM_SCRATCH, "teacher_budget": FROM_SCRATCH}
    own_numbers = Training.model_fields if given.get("recipe_training") else RECIPES_OWN
    merged["first"] = tuple(name for name in given.get("budget", {}) if name in own_numbers)
    if given.get("finetune_teacher") is False:
        shared = given.get("budget", {})
        idle = [name for name, value in given.get("teacher_budget", {}).items() if shared.get(name) != value]
        if idle:
            option = f"--teacher-{idle[0].replace('_', '-')}"
            raise KdzooError(f"{option} is for training the teacher, and --no-finetune-teacher does not; leave one out")
    for name in ("budget", "teacher_budget"):
        merged[name] = validated(Budget, **{**defaults.get(name, {}), **given.get(name, {})})
    return cast(Settings, validated(Settings, **merged))
