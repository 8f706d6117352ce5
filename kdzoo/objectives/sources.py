"""Where a recipe's numbers come from: its hyper-parameters by name, and the source of each."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.models.features import feature_of
from kdzoo.objectives.strict import Strict

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe, TermSpec

ORIGINS = {
    "paper": "the paper",
    "authors": "the authors' code",
    "other": "other public code",
    "ours": "this project",
}


WHOLE = ("perturbation", "balance", "student")  # of a recipe, and not of a term or stage
OF_MODELS = {"relation_heads", "num_layers"}  # what a loss takes from its models and layer map, whatever its default is


class Source(Strict):
    """Where some of a recipe's hyper-parameters come from.

    Attributes:
        origin: ``"paper"``, ``"authors"`` (their code), ``"other"`` (somebody else's public code) or ``"ours"``.
        where: in which table, section or file; or why, for what is ours.
        of: which ones: `hyper_parameters` names them. ``TERM.KEY`` without its stage stands
            for all stages that have it.
    """

    origin: Literal["paper", "authors", "other", "ours"]
    where: str = Field(min_length=1)
    of: tuple[str, ...] = Field(min_length=1)

    def __str__(self) -> str:
        return f"{self.origin} ({self.where})"


def hyper_parameters(recipe: Recipe) -> dict[str, Any]:
    """Everything in a recipe that is a choice of the method's, by the name that its ``sources`` give it.

    ``stages.0.TERM.KEY`` and ``general.TERM.KEY`` are a term's weight, layer map, temperature, the numbers that its
    loss has by itself and whatever else the recipe sets of it, a term being called by its name; ``stages.0.KEY`` what
    a stage sets; ``training.KEY`` and ``general.training.KEY`` the training's; then ``student``, ``perturbation``,
    ``targets.KEY`` and ``balance``, where it has them.
    """
    found: dict[str, Any] = {}
    for index, stage in enumerate(recipe.stages):
        if len(recipe.stages) > 1:
            found[f"stages.{index}.fraction"] = stage.fraction
        own = stage.model_dump(mode="json", exclude_defaults=True, exclude={"terms", "fraction"})
        found |= {f"stages.{index}.{key}": value for key, value in own.items()}
        found |= _of_terms(f"stages.{index}", stage.terms)
    if recipe.general is not None:
        found |= _of_terms("general", recipe.general.terms)
        training = recipe.general.training.model_dump(exclude_none=True)
        found |= {f"general.training.{key}": value for key, value in training.items()}
    whole = recipe.model_dump(mode="json", exclude_defaults=True, include={*WHOLE})
    if recipe.targets is not None:
        found |= {f"targets.{key}": value for key, value in recipe.targets.model_dump(mode="json").items()}
    found |= {key: whole[key] for key in WHOLE if key in whole}
    return found | {f"training.{key}": value for key, value in recipe.training.model_dump(exclude_none=True).items()}


def _of_terms(place: str, terms: Iterable[TermSpec]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for spec in terms:
        own = spec.model_dump(mode="json", exclude_defaults=True, exclude={"loss", "name"})
        chosen = {"weight": spec.weight} | own
        term = spec.term(1.0)
        if feature_of(term.feature).by_layer:
            chosen.setdefault("layers", term.layers)
        for option, value in options_of(loss_class(spec.loss)).items():
            if option == "temperature" or (_is_number(value) and option not in OF_MODELS):
                chosen.setdefault(option, value)
        found |= {f"{place}.{term.name}.{key}": value for key, value in chosen.items()}
    return found


def _is_number(value: Any) -> bool:
    """Whether an option's default is a number other than zero, which leaves something out."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value != 0


def sources_of(recipe: Recipe) -> dict[str, Source]:
    """The source of each hyper-parameter that has one, by its whole name.

    Raises:
        KdzooError: for a name that is no hyper-parameter of the recipe, or one that has two sources.
    """
    known = hyper_parameters(recipe)
    found: dict[str, Source] = {}
    for source in recipe.sources:
        for name in source.of:
            whole = meant(name, known)
            if not whole:
                raise unknown(f"hyper-parameter of {recipe.name}", name, {*known, *map(_within, known)})
            for key in whole:
                if key in found:
                    raise KdzooError(f"sources: {key} has two sources, {found[key]} and {source}")
                found[key] = source
    return {key: found[key] for key in known if key in found}


def meant(name: str, known: Iterable[str]) -> list[str]:
    """The hyper-parameters that a name stands for: itself, or ``TERM.KEY`` in every stage that has it."""
    known = list(known)
    if name in known:
        return [name]
    return [key for key in known if key.startswith(("stages.", "general.")) and _within(key) == name]


def _within(key: str) -> str:
    """A name without its place: ``kd.weight`` of ``stages.0.kd.weight`` and ``general.kd.weight``."""
    if key.startswith("stages."):
        return key.split(".", 2)[-1]
    return key if key.startswith("general.training.") else key.removeprefix("general.")


def still_true(recipe: Recipe, changed: Recipe) -> tuple[Source, ...]:
    """A recipe's sources less what does not hold for a changed copy: what it sets otherwise, or no longer has."""
    before, after = hyper_parameters(recipe), hyper_parameters(changed)
    same = {key for key, value in before.items() if key in after and after[key] == value}
    left = []
    for source in recipe.sources:
        names: list[str] = []
        for name in source.of:
            whole = meant(name, before)
            unchanged = same.issuperset(whole) and meant(name, after) == whole
            names += [name] if unchanged else [key for key in whole if key in same]
        if names:
            left.append(source.model_copy(update={"of": tuple(names)}))
    return tuple(left)


def table(recipe: Recipe) -> list[tuple[str, str, str, str]]:
    """Rows for a reader: a hyper-parameter, its value, from whom it is, and where it stands there."""
    sources = sources_of(recipe)
    rows = []
    for key, value in hyper_parameters(recipe).items():
        source = sources.get(key)
        origin, where = (ORIGINS[source.origin], source.where) if source else ("set here", "")
        rows.append((key, _written(value), origin, where))
    return rows


def _written(value: Any) -> str:
    if hasattr(value, "model_dump"):
        value = value.model_dump(mode="json", exclude_defaults=True)
    if isinstance(value, dict):
        return ", ".join(f"{key} {_written(inner)}" for key, inner in value.items())
    if isinstance(value, (list, tuple)):
        written = ((inner, _written(inner)) for inner in value)
        return " ".join(f"({text})" if isinstance(inner, (list, tuple)) else text for inner, text in written)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
