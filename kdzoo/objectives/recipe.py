"""Recipe and Stage: a published method as data, to and from YAML."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import (
    AfterValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from kdzoo.errors import KdzooError, check_name, unknown
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.models.layers import layer_map
from kdzoo.objectives.expression import is_expression, name_and_terms, parse_terms
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.reading import split_setting
from kdzoo.objectives.registry import available, recipe_factory
from kdzoo.objectives.schedule import Schedule, Weight
from kdzoo.objectives.sources import Source as Source
from kdzoo.objectives.sources import sources_of, still_true
from kdzoo.objectives.strict import Strict
from kdzoo.objectives.term import OWN_OPTIONS, Term
from kdzoo.objectives.tunable import check_tunable, ranges_of
from kdzoo.yaml_files import UNREADABLE, read_value, read_yaml

# Deep enough that any explicit pair, and any slice of a named map, is in range when only its form is checked.
LARGE, DEEP = 10_000, 100


class Citation(Strict):
    """Where a method was published."""

    authors: str
    title: str
    venue: str
    year: int
    url: str = ""

    def __str__(self) -> str:
        return f"{self.authors} ({self.year}). {self.title}. {self.venue}. {self.url}".strip()


class WeightSchedule(Strict):
    """A weight over the fraction of its stage: see `kdzoo.objectives.schedule.Schedule`."""

    points: tuple[tuple[float, float], ...] = Field(min_length=1)
    interpolate: bool = False


def _form(weight: Any) -> str:
    return "schedule" if isinstance(weight, (dict, WeightSchedule)) else "number"


WeightSpec = Annotated[
    Annotated[float, Tag("number")] | Annotated[WeightSchedule, Tag("schedule")], Discriminator(_form)
]


class TermSpec(Strict):
    """A `Term` as data; the loss's own options stand beside the other keys."""

    model_config = ConfigDict(extra="allow", frozen=True, allow_inf_nan=False)

    if TYPE_CHECKING:

        def __init__(self, **data: Any) -> None: ...  # the loss's own options are not fields

    loss: str
    feature: str | None = None
    layers: str | tuple[tuple[int, int], ...] | None = None
    weight: WeightSpec = 1.0
    layer_reduction: Literal["sum", "mean"] = "sum"
    layer_schedule: Literal["together", "progressive", "stacked"] = "together"
    shared: bool = False
    name: Annotated[str, AfterValidator(lambda name: check_name("term", name))] | None = None

    @property
    def options(self) -> dict[str, Any]:
        """The loss's own options."""
        return dict(self.model_extra or {})

    @property
    def identity(self) -> str:
        """What makes two terms of different stages the same one: all but the weight."""
        return repr(sorted(self.model_dump(exclude={"weight"}, mode="json").items()))

    @model_validator(mode="after")
    def _valid(self) -> TermSpec:
        kind = loss_class(self.loss)
        known, types = options_of(kind), get_type_hints(kind.__init__)
        for option, value in self.options.items():
            if option not in known:
                raise unknown(f"key of the term {self.loss!r}", option, {*known, *type(self).model_fields})
            try:
                # A text is no number, though it may look like one; a list will do for a tuple.
                TypeAdapter(types.get(option, Any)).validate_python(value, strict=isinstance(value, str))
            except ValidationError as error:
                raise KdzooError(f"{self.loss}.{option} is {value!r}: {error.errors()[0]['msg']}") from None
        self.term(self.weight_at(0.0, 1.0))
        if self.layers is not None:
            depth = DEEP if isinstance(self.layers, str) else LARGE
            layer_map(self.layers, depth, depth)
        return self

    def weight_at(self, start: float, end: float) -> Schedule:
        """The weight over the whole run, for a stage from ``start`` to ``end`` of it."""
        within = (
            self.weight if isinstance(self.weight, WeightSchedule) else WeightSchedule(points=((0.0, self.weight),))
        )
        points = [(start + (end - start) * fraction, weight) for fraction, weight in within.points]
        if within.interpolate:
            # The line stops at the stage's ends: there the weight jumps from zero and back.
            before = [(start, 0.0)] if start > 0 else []
            points = [*before, (start, points[0][1]), *points, *([(end, points[-1][1])] if end < 1 else [])]
        return Schedule((*points, *([(end, 0.0)] if end < 1 else [])), interpolate=within.interpolate)

    def term(self, weight: Weight) -> Term:
        """The term with a weight over the whole run."""
        own = {name: getattr(self, name) for name in OWN_OPTIONS}
        return Term(self.loss, **own | {"weight": weight}, **self.options)


class Stage(Strict):
    """A part of the training with an objective of its own.

    Attributes:
        terms: the losses added up.
        fraction: its share of the training steps; the stages' shares add up to 1.
        lr_scheduler: the learning rate within the stage: ``"constant"``, ``"linear"`` (to zero at its end), or what
            the training arguments say for the whole run when not given.
        lr_factor: the stage's highest learning rate, as a share of the run's.
        warmup_ratio: the share of the stage's own steps in which the learning rate rises from zero.
    """

    terms: tuple[TermSpec, ...] = Field(min_length=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    lr_scheduler: Literal["constant", "linear"] | None = None
    lr_factor: float = Field(default=1.0, gt=0, le=1)
    warmup_ratio: float = Field(default=0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _distinct(self) -> Stage:
        for index, term in enumerate(self.terms):
            if term.identity in {other.identity for other in self.terms[:index]}:
                raise KdzooError(f"the term {term.name or term.loss!r} is in one stage twice; give one another name=")
        return self


class Training(Strict):
    """The hyper-parameters a method was published with; ``kdzoo distill`` starts from them."""

    learning_rate: float | None = Field(default=None, gt=0)
    batch_size: int | None = Field(default=None, gt=0)
    epochs: float | None = Field(default=None, gt=0)
    warmup_ratio: float | None = Field(default=None, ge=0, lt=1)
    weight_decay: float | None = Field(default=None, ge=0)
    max_length: int | None = Field(default=None, gt=0)


class General(Strict):
    """A method's distillation on unlabelled text, before any task, whose student the stages on a task start from.

    Attributes:
        terms: the losses added up; none needs a task's labels.
        training: the published hyper-parameters.
    """

    terms: tuple[TermSpec, ...] = Field(min_length=1)
    training: Training = Training()


class Perturbation(Strict):
    """LRC-BERT's gradient perturbation: a second forward pass, whose loss is trained on, with moved embeddings.

    Attributes:
        norm: over what the gradient's norm is taken: ``"tensor"`` (the whole batch), ``"sample"`` or ``"token"``;
            see `kdzoo.training.perturbation.gradient_perturbation`.
        epsilon: how far that is moved.
    """

    norm: Literal["tensor", "sample", "token"]
    epsilon: float = Field(default=1.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _over_the_batch(cls, data: Any) -> Any:
        # No default of the field: a recipe that is written down names its norm.
        return {"norm": "tensor", **data} if isinstance(data, dict) else data


class Targets(Strict):
    """Targets that the teacher writes, in place of the training rows' own.

    Attributes:
        beam: hypotheses kept while it writes.
        choose: the ``"best"`` by the teacher, or the ``"closest"`` to the reference by sentence BLEU.
    """

    beam: int = Field(default=5, ge=1, le=1000)
    choose: Literal["best", "closest"] = "best"

    @model_validator(mode="after")
    def _several(self) -> Targets:
        if self.choose == "closest" and self.beam == 1:
            raise KdzooError("the closest of a beam of 1 is its only hypothesis; give a wider beam, or choose: best")
        return self


class Recipe(Strict):
    """A published method whole: stages, objectives, perturbation, student, hyper-parameters and citation.

    Two stages that hold the same term (all but its weight) share its module and what it learns.

    Attributes:
        name: the name it goes by.
        title: one line that says what it does.
        citation: where it was published.
        stages: in order.
        general: what comes before them, on text, where there is such a stage; ``kdzoo pretrain`` runs it.
        perturbation: LRC-BERT's gradient perturbation, or None.
        targets: of a task that writes text, those that the teacher writes to train on; None for the rows' own.
        balance: how the terms are weighed against each other: see `kdzoo.objectives.objective.Objective`.
        student: the student it was published with, in the notation of ``--student``, as advice.
        training: the published hyper-parameters.
        notes: what a reader should know, such as how it departs from the authors' code.
        sources: where its hyper-parameters come from; each one of a published recipe has a source.
        tunable: what ``kdzoo compare --tune`` may set beside the learning rate, ``LOSS.OPTION``, and between what;
            `ranges` has what holds where there is nothing.

    Raises:
        KdzooError: from `parse`, `load` and `override`, for anything that does not fit.
    """

    name: Annotated[str, AfterValidator(lambda name: check_name("recipe", name))]
    title: str = ""
    citation: Citation | None = None
    stages: tuple[Stage, ...] = Field(min_length=1)
    general: General | None = None
    perturbation: Perturbation | None = None
    targets: Targets | None = None
    balance: Literal["fixed", "uncertainty", "gradient_norm"] = "fixed"
    student: str | None = None
    training: Training = Training()
    notes: str = ""
    sources: tuple[Source, ...] = ()
    tunable: dict[str, tuple[float, float]] = Field(default={})

    @field_validator("perturbation", mode="before")
    @classmethod
    def _norm_named(cls, value: Any) -> Any:
        if isinstance(value, str):
            raise KdzooError(
                f"it is {value!r}; write {{norm: tensor, epsilon: 1.0}}, the norm tensor, sample or token"
                + (" (which 'gradient' stood for)" if value == "gradient" else "")
                + ", or null for none"
            )
        return value

    @model_validator(mode="after")
    def _shares(self) -> Recipe:
        total = sum(stage.fraction for stage in self.stages)
        if abs(total - 1) > 1e-6:
            raise KdzooError(f"the stages' fractions add up to {total:g}, they must add up to 1")
        self.objective()
        sources_of(self)
        check_tunable(self)
        return self

    @property
    def ranges(self) -> dict[str, tuple[float, float]]:
        """What may be tuned and between what: see `kdzoo.objectives.tunable.ranges_of`."""
        return ranges_of(self)

    @property
    def losses(self) -> tuple[str, ...]:
        """The names of its losses, in order of appearance."""
        return tuple({term.loss: None for stage in self.stages for term in stage.terms})

    @property
    def needs_teacher(self) -> bool:
        """Whether any of its losses looks at a teacher."""
        return any(loss_class(name).needs_teacher for name in self.losses)

    def spans(self) -> list[tuple[float, float, Stage]]:
        """Each stage with the fractions of the run at which it starts and ends."""
        spans, start = [], 0.0
        for stage in self.stages:
            # Rounded, so that a step on the border falls into the later stage: 0.1 + 0.2 is more than 0.3.
            end = 1.0 if stage is self.stages[-1] else round(start + stage.fraction, 9)
            spans.append((start, end, stage))
            start = end
        return spans

    def on_text(self) -> Recipe:
        """What it does on text, as a recipe of its own: its general stage, or where it has none, itself.

        Raises:
            KdzooError: the general stage's terms make none.
        """
        if self.general is None:
            return self
        try:
            return Recipe(
                name=f"{self.name[:56]}_general",  # a name has 64 letters at most
                title=f"the general distillation of {self.name}",
                citation=self.citation,
                stages=(Stage(terms=self.general.terms),),
                student=self.student,
                training=self.general.training,
            )
        except ValidationError as error:
            said = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise KdzooError(f"{self.name}: general: {said}") from None

    def objective(self) -> Objective:
        """The objective of the whole run, each term weighted by stage; not bound to models yet."""
        merged: dict[str, tuple[TermSpec, list[Schedule]]] = {}
        for start, end, stage in self.spans():
            for spec in stage.terms:
                merged.setdefault(spec.identity, (spec, []))[1].append(spec.weight_at(start, end))
        terms = [spec.term(_join(schedules)) for spec, schedules in merged.values()]
        return Objective(terms, balance=self.balance)

    def to_yaml(self) -> str:
        """The recipe as YAML that `parse` reads back to an equal one."""
        data = self.model_dump(mode="json", exclude_defaults=True)
        return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=100)

    @classmethod
    def parse(cls, data: Any, source: str = "recipe") -> Recipe:
        """A recipe from plain data.

        Args:
            data: a mapping, as YAML gives it.
            source: what errors call it.
        """
        if not isinstance(data, dict):
            raise KdzooError(f"{source}: a recipe is a mapping with 'name' and 'stages', got {type(data).__name__}")
        try:
            recipe = cls.model_validate(data)
            recipe.on_text()
            return recipe
        except ValidationError as error:
            first = error.errors(include_input=False, include_context=False, include_url=False)[0]
            where = ".".join(str(part) for part in first["loc"])
            message = str(first["msg"]).removeprefix("Value error, ")
            raise KdzooError(f"{source}{': ' + where if where else ''}: {message}") from None
        except KdzooError:
            raise
        except (TypeError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise KdzooError(f"{source}: a value in it cannot be read ({type(error).__name__}: {error})") from None

    @classmethod
    def load(cls, name: str | Path) -> Recipe:
        """A recipe by its registered name, from a YAML file, or from an expression (`kdzoo.objectives.expression`)."""
        if is_expression(str(name)):
            text = str(name).strip()
            called, terms = name_and_terms(text)
            data = {"name": called, "title": terms, "stages": [{"terms": parse_terms(terms)}]}
            return cls.parse(data, f"method {text!r}")
        path = Path(name)
        if path.suffix in (".yaml", ".yml"):
            return cls.parse(read_yaml(path), str(path))
        if name in available() and name not in available("recipes"):
            advice = f"'{name} + ce', or '{name}*1' to train on it alone"
            if loss_class(str(name)).text_labels is not None:  # of text, which has no task's labels
                advice = "'hidden_mse + mlm + sop', or others of these, for kdzoo pretrain"
            raise KdzooError(f"{name} is a loss and no recipe; write {advice}")
        return recipe_factory(str(name))()

    def override(self, settings: Iterable[str]) -> Recipe:
        """A copy with settings changed, each ``key=value`` with a YAML value.

        A key is ``LOSS.OPTION`` for every term of that loss (``kd.temperature=2``, ``ce.weight=0.5``), or the path to
        a key of the recipe (``training.learning_rate=3e-5``, ``stages.0.fraction=0.5``); ``NAME:`` before it says
        which recipe is meant, and must be this one's name. What is changed loses its source.
        """
        settings = list(settings)
        sourced = any(setting.strip().startswith("sources") for setting in settings)
        data = self.model_dump(mode="json", exclude_defaults=True, exclude=None if sourced else {"sources"})
        for setting in settings:
            method, key, text = split_setting(setting)
            parts = key.split(".")
            if method not in ("", self.name):
                raise unknown("method", method, [self.name])
            try:
                value = read_value(text)
            except UNREADABLE:
                raise KdzooError(f"setting {setting!r}: {text!r} is not a YAML value") from None
            terms = [term for stage in data["stages"] for term in stage["terms"] if term["loss"] == parts[0]]
            if terms and len(parts) == 2:
                for term in terms:
                    term[parts[1]] = value
                continue
            if parts[0] not in type(self).model_fields:
                if parts[0] in available():
                    held = ", ".join(self.losses)
                    raise KdzooError(f"setting {setting!r}: {self.name} has no term {parts[0]!r}; it has {held}")
                raise unknown("setting", parts[0], {*self.losses, *type(self).model_fields})
            part, _, within = key.partition(".")
            if within and type(self).model_fields[part].default is None and data.get(part) is None:
                raise KdzooError(
                    f"setting {setting!r}: {self.name} has no {part}; write {part}={{{within}: {text}}} to give it one"
                )
            _set(data, parts, value, setting)
        changed = type(self).parse(data, f"{self.name} with {', '.join(settings)}")
        return changed if sourced else changed.with_sources_of(self)

    def with_sources_of(self, original: Recipe) -> Recipe:
        """This recipe, made by changing another, with the other's sources of what is still the same."""
        return self.model_copy(update={"sources": still_true(original, self)})


def _join(schedules: list[Schedule]) -> Schedule:
    """One schedule from those of successive stages; a stage's start replaces the zero at its predecessor's end."""
    if len(schedules) == 1:
        return schedules[0]
    if any(schedule.interpolate for schedule in schedules):
        raise KdzooError("a term with an interpolated weight can stand in one stage only; give the others a name=")
    points: dict[float, float] = {}
    for schedule in schedules:
        points.update(schedule.points)
    return Schedule(tuple(sorted(points.items())))


def _set(data: Any, parts: list[str], value: Any, setting: str) -> None:
    for index, part in enumerate(parts):
        if isinstance(data, list) and (not part.isdecimal() or len(part) > 9 or int(part) >= len(data)):
            raise KdzooError(f"setting {setting!r}: {part!r} is not an index from 0 to {len(data) - 1}")
        if not isinstance(data, (dict, list)):
            raise KdzooError(f"setting {setting!r}: {parts[index - 1]!r} is the value {data!r}, which has no keys")
        key: Any = int(part) if isinstance(data, list) else part
        if index == len(parts) - 1:
            data[key] = value
        else:
            data = data[key] if isinstance(data, list) else data.setdefault(key, {})
