"""The names of losses: they register here, and are created, listed and described from here."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch

from kdzoo import plugins
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.function import from_function
from kdzoo.models.features import feature_of
from kdzoo.models.layers import layer_map
from kdzoo.models.shape import ModelShape

_losses: dict[str, type[DistillationLoss]] = {}
# What an unknown name may be instead, in words; those who give other things names add to it.
hints: list[Callable[[str], str | None]] = []

L = TypeVar("L", bound=Callable[..., Any])


def register(name: str, *, feature: str | None = None) -> Callable[[L], L]:
    """Decorator that makes a loss known by a name: a subclass of `DistillationLoss`, or a plain function.

    >>> import kdzoo, torch
    >>> @kdzoo.register("cosine_distance", feature="cls")
    ... def cosine_distance(student, teacher, scale: float = 1.0):
    ...     return scale * (1 - torch.cosine_similarity(student, teacher, dim=-1)).mean()
    >>> kdzoo.create("cosine_distance", scale=2.0)
    cosine_distance(scale=2.0)

    Args:
        name: of the loss.
        feature: what a function is taken on, the logits by default; a class says it itself.

    Raises:
        KdzooError: when the name is taken, or what is registered is neither (`kdzoo.losses.function`).
    """

    def add(loss: L) -> L:
        if inspect.isfunction(loss):
            kind = from_function(name, loss, feature)
        elif isinstance(loss, type) and issubclass(loss, DistillationLoss):
            if feature is not None:
                raise KdzooError(f"{name!r} is a class, which says its features itself; leave out feature=")
            kind = loss
        else:
            raise KdzooError(
                f"{name!r} must be registered on a subclass of DistillationLoss or a function, got {loss!r}"
            )
        check_free("loss", name, _losses, kind)
        kind.name = name
        _losses[name] = kind
        return loss

    return add


def create(name: str, **options: Any) -> DistillationLoss:
    """A registered loss by name.

    >>> import kdzoo
    >>> loss = kdzoo.create("kd", temperature=2.0)

    Raises:
        KdzooError: for an unknown name or option (the nearest valid one is offered), or a value out of range.
    """
    loss = loss_class(name)
    known = options_of(loss)
    for option in options:
        if option not in known:
            raise unknown(f"option of {name}", option, known)
    missing = [o for o, default in known.items() if default is inspect.Parameter.empty and o not in options]
    if missing:
        raise KdzooError(f"{name} needs {', '.join(f'{option}=' for option in missing)}")
    try:
        return loss(**options)
    except TypeError as error:
        given = ", ".join(f"{option}={value!r}" for option, value in options.items())
        raise KdzooError(f"{name} cannot be made with {given}: {error}") from error


def loss_names() -> list[str]:
    """The names of the registered losses, sorted."""
    plugins.load_methods()
    return sorted(_losses)


def loss_class(name: str) -> type[DistillationLoss]:
    """The class behind a loss's name."""
    if name not in _losses:
        plugins.load_methods()
    if name not in _losses:
        for hint in hints:
            if said := hint(name):
                raise KdzooError(said)
        raise unknown("loss", name, _losses)
    return _losses[name]


def options_of(loss: type[DistillationLoss]) -> dict[str, Any]:
    """The options of a loss with their defaults; ``inspect.Parameter.empty`` where one must be given."""
    parameters = list(inspect.signature(loss.__init__).parameters.values())[1:]
    named = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return {parameter.name: parameter.default for parameter in parameters if parameter.kind in named}


@dataclass(frozen=True, repr=False)
class Description:
    """What the registry knows of one loss."""

    name: str
    summary: str
    features: tuple[str, ...]
    needs: tuple[str, ...]
    options: dict[str, Any]
    variants: tuple[str, ...]
    learns: str
    formula: str
    complexity: str
    related: tuple[str, ...]
    paper: str
    year: int
    url: str
    documentation: str

    def rows(self) -> dict[str, str]:
        """What a table shows of it, by the name of the row; rows without content are left out."""
        options = ", ".join(
            option if default is inspect.Parameter.empty else f"{option}={default!r}"
            for option, default in self.options.items()
        )
        rows = {
            "compares": " or ".join(self.features),
            "needs": ", ".join(self.needs) or "nothing else",
            "learns": self.learns,
            "options": options or "none",
            "variants": ", ".join(self.variants),
            "cost": self.complexity,
            "related": ", ".join(self.related),
            "formula": self.formula,
            "source": f"{self.paper} {self.url}".strip(),
        }
        return {row: text for row, text in rows.items() if text}

    def __str__(self) -> str:
        return "\n".join([f"{self.name}: {self.summary}", *(f"  {row:<9} {text}" for row, text in self.rows().items())])

    __repr__ = __str__  # which a notebook shows


def describe(name: str) -> Description:
    """What a loss compares, needs and takes, and where it was published.

    Raises:
        KdzooError: for an unknown name.
    """
    loss = loss_class(name)
    documentation = inspect.getdoc(loss) or ""
    return Description(
        name=name,
        summary=documentation.split("\n", 1)[0],
        features=loss.features,
        needs=tuple(sorted(loss.needs)),
        options=options_of(loss),
        variants=loss.variants,
        learns=_learns(loss),
        formula=loss.formula,
        complexity=loss.complexity,
        related=loss.related,
        paper=loss.paper,
        year=loss.year,
        url=loss.url,
        documentation=documentation,
    )


def _learns(loss: type[DistillationLoss]) -> str:
    """What a loss learns, seen from one made for a student as wide as its teacher, and one for a narrower student."""
    teacher = ModelShape(num_layers=12, hidden_size=768, num_heads=12, num_labels=3)
    feature = loss.features[0]
    layers = () if not feature_of(feature).by_layer else layer_map("all" if loss.many_to_many else "uniform", 4, 12)
    counts: list[int] = []
    for width in (768, 384):
        student = replace(teacher, num_layers=4, hidden_size=width)
        shapes: dict[str, Any] = {"student": student, "teacher": teacher, "layers": layers, "num_samples": 1000}
        with warnings.catch_warnings(), torch.device("meta"):
            warnings.simplefilter("ignore", KdzooWarning)
            try:
                module = loss(**loss.fit({}, feature=feature, **shapes))
            except KdzooError:
                return "nothing" if counts == [0] else "depends on the models"
        counts.append(sum(parameter.numel() for parameter in module.parameters()))
    if counts[0]:
        return "parameters of its own"
    return "a projection where the widths differ" if counts[1] else "nothing"


def check_free(kind: str, name: str, table: dict[str, Any], new: Any) -> None:
    """Refuse a name that is taken; the same thing defined anew, as in a notebook's cell run twice, replaces the old."""
    old = table.get(name)
    if old is not None and (old.__module__, old.__qualname__) != (new.__module__, new.__qualname__):
        raise KdzooError(f"a {kind} named {name!r} is registered already, by {old.__module__}; choose another name")
