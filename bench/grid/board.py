"""What a terminal shows while a comparison runs; elsewhere, a line for each training that ended, and one a minute."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live

from kdzoo.bench.escape import terminal
from kdzoo.bench.grid.launchers.base import Job
from kdzoo.bench.progress import LINE_EVERY, REFRESHES, STEPS, progress_bar
from kdzoo.tasks.metric_words import in_words

SHOWN = 4  # running trainings that are named
WORTH = "student steps"  # what all trainings are counted in together


class Board:
    """A comparison while it runs: counts, time left and the table as it fills, on one screen of a terminal.

    Where there is no terminal it prints a line for each training that has ended, and one a minute that says how far
    all of it is; what goes wrong is a line everywhere.

    Args:
        console: what to show it on.
        steps: of each training that is to run.
        weights: how many of a student's steps one of a training's is worth, where that is not one: a teacher's.
        table: makes the table of the records and the failed trainings so far.
        wide: the width of a method's name.
        doing: what a training that has been started is, in a word.
    """

    def __init__(
        self,
        console: Console,
        steps: dict[Job, int],
        table: Callable[[Sequence[dict[str, Any]], Sequence[Job]], RenderableType],
        wide: int,
        doing: str = "running",
        weights: Mapping[Job, float] | None = None,
    ) -> None:
        self._console, self._steps, self._make_table = console, dict(steps), table
        self._weights = weights or {}
        self._wide, self._doing = wide, doing
        self._records: list[dict[str, Any]] = []
        self._failed: list[Job] = []
        self._running: dict[Job, int] = {}  # steps done
        self._before: dict[Job, str] = {}  # what is done before the steps
        self._table: RenderableType | None = None
        self._said = console.get_time()  # when the latest line about all of it was due
        self._bar = progress_bar(console)
        self._task = self._bar.add_task("comparing", total=sum(map(self._worth, steps, steps.values())), unit=WORTH)
        self._live = Live(console=console, get_renderable=self._screen, refresh_per_second=REFRESHES, transient=True)

    def __enter__(self) -> Board:
        if self._console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, line: str) -> None:
        """Print a line; on a terminal it stays, above the screen."""
        self._console.print(terminal(line), highlight=False, soft_wrap=True)

    def found(self, record: dict[str, Any]) -> None:
        """A training that an earlier run has finished."""
        self._records.append(record)
        self._table = None

    def started(self, job: Job) -> None:
        """A training has begun."""
        self._running[job] = 0
        self._before.pop(job, None)
        self._say_how_far()

    def advanced(self, job: Job, done: int, total: int, unit: str = STEPS) -> None:
        """So many of its steps are done, or of the teacher's rows before them."""
        if unit != STEPS:
            self._before[job] = f"{unit} {done / max(total, 1):.0%}"
            self._say_how_far()
            return
        done = round(done / max(total, 1) * self._steps[job])
        self._bar.advance(self._task, self._worth(job, done) - self._worth(job, self._running[job]))
        self._running[job] = done
        self._say_how_far()

    def retried(self, job: Job, reason: str) -> None:
        """Its process died, and it begins again."""
        self._bar.advance(self._task, -self._worth(job, self._running.pop(job)))
        self.say(f"{self._name(job)}  its process died ({reason}); it begins again")

    def ended(self, job: Job, record: dict[str, Any]) -> None:
        """A training has ended well."""
        self.advanced(job, 1, 1)
        del self._running[job], self._steps[job]
        self.found(record)
        if not self._console.is_terminal:
            metrics = in_words(record["metrics"], record.get("kind", ""))
            speed = f"{record['samples_per_second']:7.0f} rows/s  {record['train_seconds']:6.1f} s"
            self.say(f"{self._name(job)}  {metrics:<40} {speed}")

    def failed(self, job: Job, what: str, without: Sequence[Job] = ()) -> None:
        """A training has failed, now or before, and others cannot run without it."""
        self._bar.advance(self._task, -self._worth(job, self._running.pop(job, 0)))
        lost = sum(self._worth(one, self._steps.pop(one, 0)) for one in (job, *without))
        self._bar.update(self._task, total=(self._bar.tasks[0].total or 0) - lost)
        self._failed.append(job)
        self._table = None
        self.say(f"{self._name(job)}  {what}")

    def _worth(self, job: Job, steps: int) -> int:
        """Steps of a training in steps of a student, whose time they take."""
        return round(steps * self._weights.get(job, 1))

    def _name(self, job: Job) -> str:
        task, method, seed = job
        return f"{task:<6} {method:<{self._wide}} seed {seed}"

    def _screen(self) -> RenderableType:
        if self._table is None and self._records:
            self._table = self._make_table(self._records, self._failed)
        return Group(
            terminal(self._counts()),
            self._bar.get_renderable(),
            terminal(self._named()),
            *([self._table] if self._table is not None else []),
        )

    def _counts(self) -> str:
        counts = {"done": len(self._records), "failed": len(self._failed), self._doing: len(self._running)}
        counts["waiting"] = len(self._steps) - len(self._running)
        return "trainings: " + ", ".join(f"{number} {state}" for state, number in counts.items())

    def _named(self) -> str:
        """The trainings that run, with what is done of each."""
        running = [*self._running.items()]
        far = {job: f"{done / self._steps[job]:.0%}" if done else self._before.get(job, "") for job, done in running}
        named = [" ".join(map(str, (*job, at))).rstrip() for job, at in far.items()]
        return ", ".join(named[:SHOWN]) + (", ..." if len(named) > SHOWN else "")

    def _say_how_far(self) -> None:
        """Where there is no terminal, a line a minute: what is done, failed, running and waiting, and the time left."""
        if self._console.is_terminal or self._console.get_time() - self._said < LINE_EVERY:
            return
        self._said = self._console.get_time()
        left = self._bar.tasks[0].time_remaining
        when = f"; {timedelta(seconds=left)} left" if left else ""
        self.say(f"{self._counts()} ({self._named()}){when}")
