"""What a terminal shows while trainings run; elsewhere, a line for each that has ended, or a line a minute for one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

REFRESHES = 2  # of the screen a second
SPEED_OVER = 900.0  # seconds that the time left is estimated from; methods differ in their steps' time
LINE_EVERY = 60.0  # seconds, where there is no terminal
STEPS, ROWS = "steps", "teacher rows"  # what a training is counted in: first, where a cache is filled, the latter


class Progress(Protocol):
    """Is told how much is done, of how much, and of what."""

    def __call__(self, done: int, total: int, unit: str = STEPS) -> None: ...


class Progressed(Protocol):
    """The same, where the total and the unit may have been said before."""

    def __call__(self, done: int, total: int | None = None, unit: str = ...) -> None: ...


@contextmanager
def progress(console: Console, what: str, total: int | None = None, unit: str = STEPS) -> Iterator[Progressed]:
    """How far one piece of work is: a bar with the time left on a terminal, a line a minute elsewhere.

    Args:
        console: what to show it on.
        what: the work.
        total: how much there is to do; None where the first call says it.
        unit: of what is counted.

    Yields:
        What to call with the progress.
    """
    said = console.get_time()
    bar = progress_bar(console)
    with bar if console.is_terminal else nullcontext():  # some releases of rich print a line for one that is not shown
        shown = bar.add_task(what, total=total, unit=unit)

        def progressed(done: int, total: int | None = total, unit: str = unit) -> None:
            nonlocal said
            if unit != bar.tasks[shown].fields["unit"]:
                bar.reset(shown, unit=unit)
            bar.update(shown, completed=done, total=total)
            left = bar.tasks[shown].time_remaining
            if console.is_terminal or not left or console.get_time() - said < LINE_EVERY:
                return
            said = console.get_time()
            line = f"{what}: {done} of {total} {unit}, {timedelta(seconds=left)} left"
            console.print(line, highlight=False, markup=False, soft_wrap=True)

        yield progressed


def progress_bar(console: Console) -> Bar:
    """The bar of a piece of work, hidden where there is no terminal."""
    return Bar(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[unit]}, elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        speed_estimate_period=SPEED_OVER,
    )
