"""A loss made of a plain function, for `kdzoo.register` on one."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, get_type_hints

from torch import Tensor

from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.base import DistillationLoss
from kdzoo.models.features import FEATURES, LOGITS

GIVEN = ("mask", "labels", "sample_ids")  # what a function may ask for by name; all other names are options


def from_function(name: str, function: Callable[..., Any], feature: str | None) -> type[DistillationLoss]:
    """The class of losses that call a function.

    Args:
        name: what it is registered as.
        function: ``function(student, teacher, ...)`` of two tensors, to a scalar. Its other parameters are ``mask``,
            ``labels`` or ``sample_ids``, which it is given, or have a default and are options of the loss.
        feature: what it is taken on; the logits when None.

    Raises:
        KdzooError: for other parameters, or an unknown feature.
    """
    if feature is not None and feature not in FEATURES:
        raise unknown(f"feature of {name}", feature, FEATURES)
    parameters = [*inspect.signature(function).parameters.values()]
    sides, more = parameters[:2], parameters[2:]
    wrong = [p.name for p in more if p.name not in GIVEN and p.default is p.empty]
    if len(sides) < 2 or wrong or any(p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD) for p in parameters):
        raise KdzooError(
            f"{name}: a loss is a function of (student, teacher), of {', '.join(GIVEN)} if it wants them, and of "
            f"options with a default; got {function.__name__}{inspect.signature(function)}"
        )
    asked = {p.name for p in more if p.name in GIVEN}
    options = {p.name: p.default for p in more if p.name not in GIVEN}

    def __init__(self: DistillationLoss, **chosen: Any) -> None:
        DistillationLoss.__init__(self)
        for option, default in options.items():
            setattr(self, option, chosen.get(option, default))

    def compute(self: DistillationLoss, student: Any, teacher: Any, *, mask: Tensor | None, **context: Any) -> Tensor:
        if mask is not None and "mask" not in asked:
            raise KdzooError(f"{name} takes no mask; give its function a parameter mask=None, and leave padding out")
        given = {"mask": mask, **context}
        value = function(
            student, teacher, **{p: given[p] for p in asked}, **{option: getattr(self, option) for option in options}
        )
        if not isinstance(value, Tensor) or value.dim():
            raise KdzooError(
                f"{name} must return a scalar tensor, got {tuple(getattr(value, 'shape', ())) or type(value)}"
            )
        return value

    own = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    keywords = [p.replace(kind=p.KEYWORD_ONLY) for p in more if p.name in options]
    __init__.__signature__ = inspect.Signature([own, *keywords])  # type: ignore[attr-defined]
    try:
        __init__.__annotations__ = {p: t for p, t in get_type_hints(function).items() if p in options}
    except (NameError, TypeError):  # names that mean something only where it was written
        __init__.__annotations__ = {}
    return type(
        function.__name__,
        (DistillationLoss,),
        {
            "__init__": __init__,
            "compute": compute,
            "__doc__": function.__doc__ or f"The function {function.__name__}.",
            "__module__": function.__module__,
            "__qualname__": function.__qualname__,
            "features": (feature or str(LOGITS),),
            "needs": frozenset(asked - {"mask"}),
        },
    )
