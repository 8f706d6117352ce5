"""Metrics for a reader: what each is called, and its value as text."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kdzoo.tasks.metrics import METRICS


def in_words(metrics: Mapping[str, float], kind: str) -> str:
    """A task's metrics in a line, see `figures`."""
    return ", ".join(f"{name} {value}" for name, value in figures(metrics, kind).items())


def figures(metrics: Mapping[str, float], kind: str) -> dict[str, str]:
    """By name as `shown` has it, the value: shares and correlations times 100, errors and ranks as they are.

    An error below 1 has two digits that are not 0, for it depends on the labels' unit.
    """
    known = METRICS.get(kind, {})
    scales = {name: 100 if name not in known or known[name].greater_is_better else 1 for name in metrics}
    small = {name for name, value in metrics.items() if scales[name] == 1 and abs(value) < 1}
    return {
        shown(name, metrics): f"{value:.2g}" if name in small else f"{scales[name] * value:.1f}"
        for name, value in metrics.items()
    }


def shown(name: str, beside: Iterable[str] = ()) -> str:
    """A metric's name for a reader: without its classes' numbers, unless another one beside it differs by these."""
    plain = name.partition("[")[0]
    return plain if [one.partition("[")[0] for one in beside].count(plain) < 2 else name
