"""A grid of trainings run to its end: what is done is found again, what fails is recorded, and the others go on."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from kdzoo.bench.files import now
from kdzoo.bench.grid.board import Board
from kdzoo.bench.grid.cells import Cells
from kdzoo.bench.grid.launchers.base import Failure, Job, Launcher, Result
from kdzoo.bench.record import FORMAT, TEACHER, read_failure

Grid = dict[Job, list[Job]]  # by the teacher of a task, the trainings that need it
Table = Callable[[Sequence[dict[str, Any]], Sequence[Job]], Any]


class Running:
    """A grid while it runs.

    Args:
        work: trains the jobs, and finds those that are done.
        grid: by teacher, what needs it.
        retry_failed: run again what failed in an earlier run.

    Attributes:
        done: the records so far.
        failed: why trainings failed.
    """

    def __init__(self, work: Cells, grid: Grid, *, retry_failed: bool = False) -> None:
        self.work, self.grid, self.retry_failed = work, grid, retry_failed
        jobs = [job for teacher, cells in grid.items() for job in (teacher, *cells)]
        self.done = {job: record for job in jobs if (record := work.find(job)) is not None}
        self.failed: dict[Job, str] = {}
        self._steps = {job: work.steps(*job) for job in jobs if job not in self.done}
        self._waiting: deque[Job] = deque()

    def run(self, launcher: Launcher, console: Console, table: Table, wide: int) -> dict[Job, dict[str, Any]]:
        """Run what is missing; the records of what is done.

        Args:
            launcher: where the trainings run.
            console: where progress is shown.
            table: makes the table of the records and the failed trainings so far.
            wide: the width of a method's name.
        """
        weights = {job: self.work.weights.get(job[0], 1.0) for job in self._steps if job[1] == TEACHER}
        with Board(console, self._steps, table, wide, launcher.doing, weights) as self._board:
            for job, record in self.done.items():
                self._failure(job).unlink(missing_ok=True)  # where a run was killed just before it did
                self._board.found(record)
            self._waiting.extend(self._planned([*self.grid]))
            if launcher.side_by_side:  # no worker waits for the last teacher then
                self._waiting = deque(sorted(self._waiting, key=lambda job: job[1] != TEACHER))
            with closing(
                launcher.run(self.work, self._waiting, self._board)
            ) as running:  # its processes end, whatever is
                for job, result in running:
                    self._take(job, result, side_by_side=launcher.side_by_side)
        return self.done

    def _planned(self, jobs: Sequence[Job]) -> Iterator[Job]:
        """Those that are to run, with the cells of the teachers that are done."""
        for job in jobs:
            why = None if job in self.done or self.retry_failed else self._failed_before(job)
            if why is not None:
                self._fail(job, why, f"failed before: {why}; --retry-failed runs it again")
            elif job in self.done:
                yield from self._planned(self.grid.get(job, []))
            else:
                yield job

    def _take(self, job: Job, result: Result, *, side_by_side: bool) -> None:
        """Keep what a training gave, and let those run that waited for it."""
        if isinstance(result, Failure):
            self._record_failure(job, result)
            self._fail(job, result.error, f"failed: {result.error}")
            return
        if job not in self.grid:  # a teacher's is with its weights
            self.work.records.write(self.work.place(job), result)
        self._failure(job).unlink(missing_ok=True)
        self.done[job] = result
        self._board.ended(job, result)
        new = [*self._planned(self.grid.get(job, []))]
        if side_by_side:
            self._waiting.extend(new)
        else:
            self._waiting.extendleft(reversed(new))

    def _fail(self, job: Job, why: str, line: str) -> None:
        without = [cell for cell in self.grid.get(job, []) if cell in self._steps]
        self.failed[job] = why
        self._board.failed(job, line + (f"; {len(without)} cells are left out" if without else ""), without)

    def _failure(self, job: Job) -> Path:
        return self.work.records.failed(*job)

    def _failed_before(self, job: Job) -> str | None:
        """Why a training failed, if it did with this configuration."""
        path = self._failure(job)
        found = read_failure(path) if path.exists() else {}
        return str(found["error"]) if found.get("configuration") == self.work.configuration(job) else None

    def _record_failure(self, job: Job, failure: Failure) -> None:
        names = dict(zip(("task", "method", "seed"), job, strict=True))
        said = {"configuration": self.work.configuration(job), **failure._asdict(), "finished": now()}
        self.work.records.write(self._failure(job), {"format": FORMAT, **names, **said})
