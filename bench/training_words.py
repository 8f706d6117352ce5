"""What the methods of a comparison were trained with, in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any


def training_in_words(shared: Mapping[str, Any], budgets: Iterable[tuple[str, Mapping[str, Any]]]) -> str:
    """One budget for all, or each recipe's own training, and what differs; with the trials, and which weights.

    Args:
        shared: the settings that all cells have in common; an older comparison's may lack some.
        budgets: methods and their budgets, where that is not the one for all.
    """
    own: dict[str, set[str]] = {}
    for method, budget in budgets:
        changed = {name for name, value in budget.items() if value != shared.get("budget", {}).get(name)}
        if changed:
            own.setdefault(method, set()).update(changed)
    words = {"warmup_ratio": "warm-up"}
    names = [
        f"{', '.join(words.get(name, name.replace('_', ' ')) for name in sorted(of))} of {method}"
        for method, of in own.items()
    ]
    told = "one budget for all"
    if shared.get("recipe_training"):
        told = "each recipe's own training"
    elif names and not shared.get("tune"):  # after a tuning nearly every method has a rate of its own
        told += f" but for {'; '.join(names)}"
    tuned = f", but what {shared['tune']} trials a method chose" if shared.get("tune") else ""
    kept = ", the best weights on held-out training rows kept" if shared.get("keep") == "best" else ""
    return told + tuned + kept


def budgets_of(records: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The methods and budgets of cells that have one of their own."""
    given = ((record["method"], record.get("configuration", {}).get("budget")) for record in records)
    return [(method, budget) for method, budget in given if budget]
