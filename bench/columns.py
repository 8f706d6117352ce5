"""A table of text, as it stands on the terminal and in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdzoo.bench import escape

if TYPE_CHECKING:
    from rich.table import Table


@dataclass(frozen=True)
class Columns:
    """Text in columns.

    Attributes:
        head: what each column is.
        body: its rows.
        title: what stands above it.
        names: the first so many columns are words, set to the left; the others are numbers.
    """

    head: Sequence[str]
    body: Sequence[Sequence[str]]
    title: str = ""
    names: int = 1

    def terminal(self) -> Table:
        """For a rich console."""
        from rich.table import Table  # here, since profiling goes without

        table = Table(title=escape.terminal(self.title) if self.title else None, title_justify="left")
        for place, name in enumerate(self.head):
            table.add_column(escape.terminal(name), justify="left" if place < self.names else "right")
        for cells in self.body:
            table.add_row(*map(escape.terminal, cells))
        return table

    def text(self) -> str:
        """In plain text, where rich is not installed."""
        lines = [[escape.printable(cell) for cell in cells] for cells in (self.head, *self.body)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        shown = [
            "  ".join(
                cell.ljust(width) if place < self.names else cell.rjust(width)
                for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
            ).rstrip()
            for cells in lines
        ]
        return "\n".join(([escape.printable(self.title)] if self.title else []) + shown) + "\n"

    def markdown(self) -> str:
        """In Markdown."""
        above = f"{' '.join(self.title.split())}.\n\n" if self.title else ""
        rule = ["---" if place < self.names else "---:" for place in range(len(self.head))]
        lines = [[escape.markdown(cell) for cell in cells] for cells in (self.head, *self.body)]
        return above + "".join(f"| {' | '.join(cells)} |\n" for cells in (lines[0], rule, *lines[1:]))


def short(number: float) -> str:
    """A number with three digits, or as many as it has before the point."""
    return f"{number:.0f}" if abs(number) >= 100 else f"{number:.3g}"
