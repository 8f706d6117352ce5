"""Where the trainings of a comparison run: in this process, in worker processes, or as tasks on a Ray cluster."""

from __future__ import annotations

import traceback
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from kdzoo.bench.progress import STEPS, Progress
from kdzoo.errors import KdzooError, brief, out_of_memory, printable

Job = tuple[str, str, int]  # task, method and seed
Files = dict[str, bytes]


class Failure(NamedTuple):
    """Why a training failed, in one line, with the traceback where there is one."""

    error: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is, which must be the one being handled."""
        kind = "" if isinstance(error, KdzooError) else f"{type(error).__name__}: "
        said = out_of_memory(error) or f"{kind}{error}"
        return cls(printable(" ".join(brief(said).split())), printable(traceback.format_exc()))


Result = dict[str, Any] | Failure


class Work(Protocol):
    """What is launched: something that can be pickled, and trains the jobs it is given."""

    def attempt(self, job: Job, progress: Progress | None = None) -> Result:
        """Train, and give the record, or why there is none. A full disk is raised instead."""

    def moved(self, folder: Path) -> Work:
        """The same in another folder."""

    def path(self, part: str) -> Path:
        """Where a part of its folder is."""

    def reads(self, job: Job) -> list[str]:
        """The parts of the folder that a job needs to be there."""

    def writes(self, job: Job) -> list[str]:
        """The parts of the folder that it may leave, its record not among them."""

    def receive(self, part: str, files: Files) -> None:
        """Put such a part in its place, whole or not at all."""


class Watch(Protocol):
    """Who is told how the jobs get on."""

    def started(self, job: Job) -> None:
        """It has begun."""

    def advanced(self, job: Job, done: int, total: int, unit: str = STEPS) -> None:
        """So many of its steps, or of the teacher's rows before them, are done."""

    def retried(self, job: Job, reason: str) -> None:
        """Its process died, and it begins again."""


class Launcher(ABC):
    """A place where jobs run.

    Attributes:
        side_by_side: whether it runs several at the same time.
        doing: what a training that was started is, in words.
    """

    side_by_side = True
    doing = "running"

    @abstractmethod
    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        """Run jobs from the left of the queue until it is empty; give each with its result as it ends.

        Whoever takes a result may put more jobs into the queue before asking for the next one. Leaving the iterator
        early stops what is under way.
        """
