"""What the methods of a comparison were trained with, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from kdzoo.bench.record import TEACHER
from kdzoo.bench.trials import parted

Budgets = Iterable[tuple[str, Mapping[str, Any]]]
WORDS = {"warmup_ratio": "warm-up"}  # of what is not called as it is said


def training_in_words(shared: Mapping[str, Any], budgets: Budgets) -> str:
    """One budget for all, or each recipe's own training, and what differs; with the trials, and which weights.

    Args:
        shared: the settings that all cells have in common; an older comparison's may lack some.
        budgets: methods and their budgets before a tuning; an empty one is the one for all.
    """
    own: dict[str, set[str]] = {}
    for method, budget in budgets:
        changed = {name for name, value in budget.items() if value != shared.get("budget", {}).get(name)}
        own.setdefault(method, set()).update(changed)
    alike: dict[str, list[str]] = {}  # methods by the numbers that they have of their own
    for method, names in own.items():
        said = ", ".join(WORDS.get(name, name.replace("_", " ")) for name in sorted(names))
        alike.setdefault(said, []).append(method)
    plain = alike.pop("", [])
    numbers = "; ".join(f"{names} of {', '.join(methods)}" for names, methods in alike.items())
    told = "one budget for all"
    if shared.get("recipe_training"):
        told = _recipes_own(numbers, plain)
    elif numbers:
        told += f" but for {numbers}"
    tuned = f", {'and' if numbers else 'but'} what {shared['tune']} trials a method chose" if shared.get("tune") else ""
    kept = ", the best weights on held-out training rows kept" if shared.get("keep") == "best" else ""
    return told + tuned + kept


def _recipes_own(numbers: str, plain: Sequence[str]) -> str:
    """Each recipe's own training: its own numbers where it has some that hold, all else from one budget."""
    if numbers:
        rest = f"all else and all of {', '.join(plain)}" if plain else "all else"
        return f"each recipe's own training: {numbers}; {rest} as one budget"
    return "each recipe's own training, which is one budget for all here" if plain else "each recipe's own training"


def budgets_of(
    records: Sequence[dict[str, Any]], trials: Sequence[dict[str, Any]] = ()
) -> Iterator[tuple[str, dict[str, Any]]]:
    """The methods of cells and their budgets, without what a tuning chose; empty where it is the one for all.

    Args:
        records: of cells; teachers are left out.
        trials: of a tuning, each of which says what it tried in place of what.
    """
    tuned = set()
    for trial in trials:
        method, _ = parted(trial["method"])
        tuned.add(method)
        budget = trial.get("configuration", {}).get("budget", {})
        yield method, {name: value for name, value in budget.items() if name not in trial.get("tried", {})}
    for record in records:
        if record["method"] != TEACHER and record["method"] not in tuned:
            yield record["method"], record.get("configuration", {}).get("budget", {})
