"""What of a recipe a tuning may set beside the learning rate, and between what."""

from __future__ import annotations

from typing import TYPE_CHECKING, get_type_hints

from pydantic import TypeAdapter, ValidationError

from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.registry import loss_class, options_of

if TYPE_CHECKING:
    from kdzoo.objectives.recipe import Recipe

WIDER = 8.0  # a weight is sought between an eighth of the recipe's and eight times as much
TEMPERATURES = (1.0, 10.0)
SOFTENED = ("kd", "soft_ce", "dkd")  # losses whose temperature softens predictions


def ranges_of(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """By ``LOSS.OPTION``, between what it may be set: what the recipe marks as `tunable`, and otherwise this.

    The weights of all terms but the labels' within an eighth and eight times the recipe's, where in some stage there is
    another term: AdamW trains with one alone what it trains with any multiple of it. The temperatures of softened
    predictions within 1 and 10, and up to the recipe's own where that is higher.
    """
    if recipe.tunable:
        return dict(recipe.tunable)
    terms = [term for stage in recipe.stages for term in stage.terms]
    found: dict[str, tuple[float, float]] = {}
    for loss in recipe.losses:
        own = [term for term in terms if term.loss == loss]
        weights = {term.weight for term in own if isinstance(term.weight, float)}
        beside = any(loss in (term.loss for term in stage.terms) and len(stage.terms) > 1 for stage in recipe.stages)
        if loss != "ce" and beside and len(weights) == 1 and (weight := weights.pop()) > 0:
            found[f"{loss}.weight"] = (weight / WIDER, weight * WIDER)
        if loss in SOFTENED:
            given = [float(term.options.get("temperature", TEMPERATURES[0])) for term in own]
            found[f"{loss}.temperature"] = (min(TEMPERATURES[0], *given), max(TEMPERATURES[1], *given))
    return found


def check_tunable(recipe: Recipe) -> None:
    """Refuse marks that no tuning could follow.

    Raises:
        KdzooError: names the term or the option that is none, or takes no fractions; or numbers in the wrong order.
    """
    for key, (low, high) in recipe.tunable.items():
        loss, _, option = key.partition(".")
        if loss not in recipe.losses:
            raise unknown("term of tunable", loss, recipe.losses)
        known = {*options_of(loss_class(loss)), "weight"}
        if option not in known:
            raise unknown(f"tunable option of {loss!r}", option, known)
        types = get_type_hints(loss_class(loss).__init__)
        try:
            TypeAdapter(types.get(option, float)).validate_python(0.5, strict=True)
        except ValidationError:
            raise KdzooError(
                f"tunable: {key} takes no fractions, and any number from {low:g} to {high:g} would be tried; leave it "
                "out, and give it with --set"
            ) from None
        if not low < high:
            raise KdzooError(f"tunable: {key} is from {low:g} to {high:g}; the first number must be the smaller")
