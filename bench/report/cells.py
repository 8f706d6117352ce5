"""The cells and tables that a report is made of."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from kdzoo.bench.report.uncertainty import Estimate

BASELINE = "none"
REACHED = 0.95  # of the best student's score: the score that the time to reach is told of
SHOWN = 6  # methods with a colour in the learning curves; more could not be told apart
NOTHING = "–"

Record = dict[str, Any]


@dataclass(frozen=True)
class Cell:
    """A cell of a table: its text, a second line in small print, how it is marked, and what to beware of."""

    text: str
    note: str = ""
    mark: str = ""
    warning: str = ""


@dataclass(frozen=True)
class Table:
    """A table as the template takes it; the first cell of a row names the row, a line follows the rows ``above``."""

    caption: str
    head: list[str]
    rows: list[list[Cell]]
    above: int = 0


@dataclass(frozen=True)
class Plot:
    """A plot with its title and what is said of it below."""

    title: str
    caption: str
    svg: str


@dataclass(frozen=True)
class Download:
    """A file within the page."""

    name: str
    link: str
    size: int

    @classmethod
    def of(cls, name: str, text: str, kind: str) -> Download:
        """A file of that name, text and media type."""
        return cls(name, f"data:{kind};charset=utf-8,{quote(text, safe=',:[]{}.-_/')}", len(text.encode()))


def _number(value: float | None, pattern: str) -> str:
    return NOTHING if value is None else format(value, pattern)


def _amount(value: float | None) -> str:
    """A speed or a time; 0 stands for one that was not measured."""
    return _number(value or None, ",.1f" if value and value < 100 else ",.0f")


def _scaled(value: float | None, unit: str = "") -> str:
    """A count in thousands, millions, ..."""
    if value is None:
        return NOTHING
    power = min(int(math.log10(max(value, 1)) // 3), 4)
    return f"{value / 1000**power:.3g} {('', 'k', 'M', 'G', 'T')[power]}{unit}".strip()


def _interval(found: Estimate | None) -> str:
    return f"{found.low:.1f} to {found.high:.1f}" if found else ""


def _holds(found: Estimate) -> str:
    return "excludes" if found.sure else "contains"


def _inference(record: Record, batch: str, name: str) -> float | None:
    return record.get("inference", {}).get(batch, {}).get(name)


def _flat(settings: dict[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Settings as pairs of a name and a value."""
    found = []
    for name, value in settings.items():
        if isinstance(value, dict):
            found += _flat(value, f"{before}{name}.")
        else:
            found.append((before + name, NOTHING if value in (None, []) else str(value)))
    return found


def _short(value: Any) -> Any:
    """The same JSON with whole numbers written without a fraction, which predictions are."""
    if isinstance(value, dict):
        return {key: _short(of) for key, of in value.items()}
    if isinstance(value, list):
        return [_short(of) for of in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value
