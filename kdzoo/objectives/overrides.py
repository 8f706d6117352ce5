"""Recipes with settings changed, as ``--set`` gives them: each is honoured by a method, or refused."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal

from kdzoo.errors import KdzooError, unknown
from kdzoo.objectives.reading import split_setting
from kdzoo.objectives.recipe import Recipe
from kdzoo.objectives.registry import available
from kdzoo.yaml_files import UNREADABLE, read_value

ALL = "all"  # in place of a method: every registered recipe
OWN = ("perturbation", "targets")  # what a recipe has or has not; without METHOD: a setting is for those that have it
RECIPES_OWN = {"warmup_ratio"}  # of its training, with the stages, even where all have one budget
WORDS = ("title", "citation", "notes", "sources")  # of a recipe; nothing is trained by them


def load_recipes(
    methods: Iterable[str],
    overrides: Iterable[str] = (),
    *,
    training: Literal["one budget", "own", "none"] = "one budget",
    tuned: bool = False,
) -> dict[str, Recipe]:
    """Recipes by name, with settings changed: a loss's in those that hold it, a perturbation's and the targets' in
    those that have one, and what every recipe has in all.

    Args:
        methods: names, YAML files or expressions; ``"all"`` stands for every registered recipe.
        overrides: ``LOSS.OPTION=VALUE`` or ``KEY=VALUE``, with ``METHOD:`` before it for one method alone; see
            `Recipe.override`.
        training: what they are trained with: one budget for all, each recipe's own numbers, or nothing of either.
        tuned: whether settings are sought for them.

    Raises:
        KdzooError: for a method that is none, a loss that no recipe holds, a setting without effect, or two recipes
            of one name.
    """
    methods = list(methods)
    named = [*available("recipes"), *(m for m in methods if m != ALL)] if ALL in methods else methods
    by_name: dict[str, Recipe] = {}
    for recipe in map(Recipe.load, named):
        # Some file systems take capital letters for small ones.
        if same := next((name for name in by_name if name.lower() == recipe.name.lower()), None):
            also = "" if same == recipe.name else f" and {recipe.name!r}"
            raise KdzooError(f"two methods are called {same!r}{also}; give one of them another name")
        by_name[recipe.name] = recipe
    for setting in overrides:
        method, key, value = split_setting(setting)
        first, _, within = key.partition(".")
        if method and method not in by_name:
            raise unknown("method", method, by_name)
        check_effect(setting, tuned=tuned)
        if first == "training":
            _check_training(setting, method, training)
        recipes = [by_name[method]] if method else [*by_name.values()]
        if not method and first in OWN:
            recipes = [recipe for recipe in recipes if getattr(recipe, first) is not None]
            if not recipes:
                whole = f"{first}={{{within}: {value}}}" if within else setting
                raise KdzooError(
                    f"setting {setting!r}: none of the methods has {first}; write METHOD:{whole} for one that is to"
                )
        elif not method and first not in Recipe.model_fields:
            recipes = [recipe for recipe in recipes if first in recipe.losses]
            if not recipes:
                raise unknown("term", first, {name for recipe in by_name.values() for name in recipe.losses})
        by_name |= {recipe.name: recipe.override([setting]) for recipe in recipes}
    return by_name


def check_effect(setting: str, *, tuned: bool = False) -> None:
    """Refuse a setting of a recipe that changes no training.

    Args:
        setting: see `load_recipes`.
        tuned: whether settings are sought.

    Raises:
        KdzooError: says what would.
    """
    _, key, _ = split_setting(setting)
    first = key.split(".")[0]
    instead = {
        "name": "NAME = TERMS as a method, or a recipe's file, names one",
        "student": "a recipe's student is advice; --student gives one",
        "general": "a general stage is trained by kdzoo pretrain, where its keys stand without 'general.'",
        **dict.fromkeys(WORDS, "nothing is trained by it; change it in a recipe's file (kdzoo show NAME --yaml)"),
    }
    if not tuned:
        instead["tunable"] = "kdzoo compare --tune seeks within it, and nothing is sought here"
    if first in instead:
        raise KdzooError(f"setting {setting!r} has no effect: {instead[first]}")


def check_told_once(given: Iterable[str], overrides: Iterable[str], method: str = "") -> None:
    """Refuse a number of the training that an option gives and a setting too.

    Args:
        given: numbers of the budget that options give.
        overrides: the settings.
        method: whose they are beside those of all methods.

    Raises:
        KdzooError: names both.
    """
    if both := sorted({*given} & trained_with(overrides, method)):
        option = f"--{both[0].replace('_', '-')}"
        raise KdzooError(f"{option} and --set training.{both[0]} say the same thing; leave one out")


def trained_with(overrides: Iterable[str], method: str) -> set[str]:
    """The numbers of a recipe's ``training`` that settings give to a method."""
    found: set[str] = set()
    for setting in overrides:
        of, key, value = split_setting(setting)
        first, _, name = key.partition(".")
        if first == "training" and of in ("", method):
            found |= {name} if name else {*_mapping(value)}
    return found


def fixed_for(overrides: Iterable[str], recipe: Recipe) -> set[str]:
    """What settings give to a method, ``LOSS.OPTION`` or a number of the training by its name: nobody seeks it.

    Where they also say what is ``tunable``, nothing of its losses: that is sought from the number that is given.

    Args:
        overrides: the settings.
        recipe: the method's, with them.
    """
    own = [setting for setting in overrides if split_setting(setting)[0] in ("", recipe.name)]
    trained = trained_with(own, recipe.name)
    if any(split_setting(setting)[1].split(".")[0] == "tunable" for setting in own):
        return trained
    return trained.union(*(options_given(setting, recipe) for setting in own))


def options_given(setting: str, recipe: Recipe) -> set[str]:
    """The ``LOSS.OPTION`` of a recipe that a setting gives, in whichever way it names them, or marks as tunable.

    Args:
        setting: see `load_recipes`.
        recipe: the method's, with it.
    """
    method, key, text = split_setting(setting)
    if method not in ("", recipe.name):
        return set()
    parts = key.split(".")
    if parts[0] in recipe.losses and len(parts) == 2:
        return {key}
    if key == "tunable":
        return {*_mapping(text)}
    losses = {
        f"stages.{stage}.terms.{term}": spec.loss
        for stage, of in enumerate(recipe.stages)
        for term, spec in enumerate(of.terms)
    }
    given = [(losses.get(".".join(path[:4])), path[4:5]) for path in _leaves(parts, read_value(text))]
    return {f"{loss}.{option}" for loss, options in given if loss is not None for option in options}


def _mapping(text: str) -> dict[str, Any]:
    """What a setting's value maps; nothing where it is no mapping, which is refused when it is read."""
    try:
        value = read_value(text)
    except UNREADABLE:
        return {}
    return value if isinstance(value, dict) else {}


def _leaves(path: list[str], value: Any) -> Iterator[list[str]]:
    """The paths to all that a value holds, indices as they are counted."""
    if isinstance(value, (dict, list)):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves([*path, str(key)], inner)
    else:
        yield [str(int(part)) if part.isdecimal() else part for part in path]


def settings_without_effect(
    overrides: Iterable[str], cells: Iterable[tuple[str, Recipe, Mapping[str, str]]]
) -> list[tuple[str, str, str]]:
    """What is given where it changes nothing: task, method, a line; a setting that changes nothing at all is refused.

    What a user's own recipe holds is told of as a setting is, and what a registered one holds is not: that was written
    for other tasks and students too.

    Args:
        overrides: the settings.
        cells: a task's name, a method's recipe with the settings, and what is idle there (`Objective.idle`).

    Raises:
        KdzooError: names a setting that changes nothing on any of the tasks, and why.
    """
    cells, overrides = list(cells), list(overrides)
    said: list[tuple[str, str, str]] = []
    for setting in overrides:
        given = [(task, recipe, idle, options_given(setting, recipe)) for task, recipe, idle in cells]
        lines = {
            (task, recipe.name): "; ".join(dict.fromkeys(idle[option] for option in sorted(options & {*idle})))
            for task, recipe, idle, options in given
            if options & {*idle}
        }
        if lines and all({*idle} >= options for _, _, idle, options in given):
            tasks = " and ".join(dict.fromkeys(task for task, _ in lines))
            why = "; ".join(dict.fromkeys(lines.values()))
            raise KdzooError(f"setting {setting!r} has no effect on {tasks}: {why}; leave it out")
        said += [(*cell, f"warning: {setting} has no effect here: {why}") for cell, why in lines.items()]
    for task, recipe, idle in cells:
        told = set[str]().union(*(options_given(setting, recipe) for setting in overrides))
        held = set() if recipe.name in available("recipes") else _options_held(recipe)
        for option in sorted((held - told) & {*idle}):
            said.append((task, recipe.name, f"warning: {option} has no effect here: {idle[option]}"))
    return said


def _options_held(recipe: Recipe) -> set[str]:
    """The ``LOSS.OPTION`` that a recipe's terms are written with."""
    terms = [term for stage in recipe.stages for term in stage.terms]
    return {f"{term.loss}.{option}" for term in terms for option in {*term.model_fields_set, *term.options}}


def _check_training(setting: str, method: str, training: str) -> None:
    _, key, value = split_setting(setting)
    name = key.partition(".")[2]
    if training == "none":
        raise KdzooError(f"setting {setting!r} has no effect: no model is trained to the end here")
    if name == "max_length":
        raise KdzooError(
            f"setting {setting!r} has no effect: the rows of a comparison have one length for all, --max-length"
        )
    if training == "one budget" and not method:
        if name in RECIPES_OWN:
            raise KdzooError(
                f"setting {setting!r}: in a comparison it is each recipe's own; --{name.replace('_', '-')} {value} "
                f"gives all methods this one, and METHOD:{key}={value} one method alone"
            )
        option = f"--{name.replace('_', '-')}" if name else "an option of its own"
        raise KdzooError(
            f"setting {setting!r}: the methods of a comparison have one budget, which {option} gives; write "
            f"METHOD:{key}={value} for one method's own, or add --recipe-training for each recipe's"
        )
