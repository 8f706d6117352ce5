"""The names of recipes, which published methods register here, and the list of all names there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from kdzoo import plugins
from kdzoo.errors import check_name, unknown
from kdzoo.losses.registry import check_free, hints, loss_names
from kdzoo.tasks.registry import task_names

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

_recipes: dict[str, Callable[[], Recipe]] = {}

R = TypeVar("R", bound="Callable[[], Recipe]")


def register_recipe(name: str) -> Callable[[R], R]:
    """Decorator that makes a recipe known by a name, on a function that returns it.

    Raises:
        KdzooError: when the name is taken, or none (`kdzoo.errors.check_name`).
    """

    def add(recipe: R) -> R:
        check_free("recipe", check_name("recipe", name), _recipes, recipe)
        _recipes[name] = recipe
        return recipe

    return add


def recipe_names() -> list[str]:
    """The names of the registered recipes, sorted."""
    plugins.load_methods()
    return sorted(_recipes)


def recipe_factory(name: str) -> Callable[[], Recipe]:
    """The function behind a recipe's name.

    Raises:
        KdzooError: for an unknown name; the nearest one is offered.
    """
    if name not in _recipes:
        plugins.load_methods()
    if name not in _recipes:
        raise unknown("recipe", name, _recipes)
    return _recipes[name]


_NAMES: dict[str, Callable[[], list[str]]] = {"losses": loss_names, "recipes": recipe_names, "tasks": task_names}


def available(kind: str = "losses") -> list[str]:
    """The registered names, sorted: of the losses, or with ``kind=`` of the ``"recipes"`` or the ``"tasks"``.

    Raises:
        KdzooError: for another kind.
    """
    if kind not in _NAMES:
        raise unknown("kind", kind, _NAMES)
    return _NAMES[kind]()


def _is_a_recipe(name: str) -> str | None:
    """What to say where a recipe's name is taken for a loss's."""
    if name not in _recipes:
        return None
    said = f"{name!r} is a recipe, kdzoo.Recipe.load({name!r})"
    try:
        stages = _recipes[name]().stages
    except ImportError:  # recipes need what kdzoo[bench] installs
        return said
    losses = dict.fromkeys(term.loss for stage in stages for term in stage.terms)
    return f"{said}; the losses it adds up are {', '.join(losses)}"


hints.append(_is_a_recipe)
