"""What all parts of a report draw on: a comparison's records with the means, intervals and orders taken from them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from statistics import fmean

from kdzoo.bench.packed import Study
from kdzoo.bench.record import TEACHER, jobs_of
from kdzoo.bench.report.cells import BASELINE, Record
from kdzoo.bench.report.folds import joined, joined_jobs
from kdzoo.bench.report.guess import Guess, one_answer_note
from kdzoo.bench.report.rows import means_of, rows_of, seeds_note, seeds_of
from kdzoo.bench.report.uncertainty import AVERAGE, Bootstrap, best
from kdzoo.errors import unknown


class Findings:
    """A comparison as the parts of its report take it.

    Args:
        study: its records, configuration and failures.
        reach: by task, the score that the time to reach is told of; a share of the best where there is none.

    Attributes:
        records, config, failures, trials, damaged, reach: as given.
        joined: the records with the folds of a task as one, which all scores are of; costs are of single trainings.
        tasks: all of them; ``columns`` are these after the average.
        rows: by method, its scores; ``means`` the students' mean scores by column.
        students: those with a score, the best average first; ``methods`` has the teacher before them.
        unscored: methods of which every training failed.
        failed: task, method and seed of what failed.
        seeds: how many the students have.
        guess: what a constant prediction scores.
        bootstrap: the intervals.

    Raises:
        KdzooError: for a task that the records do not have.
    """

    def __init__(self, study: Study, reach: Mapping[str, float] | None = None) -> None:
        self.records, self.config, self.failures = study.records, study.config, study.failures
        self.trials, self.damaged = study.trials, study.damaged
        self.reach = dict(reach or {})
        self.joined = joined(self.records)
        self.bootstrap = Bootstrap(self.joined)
        self.tasks = self.bootstrap.tasks
        self.columns = [AVERAGE, *self.tasks]
        for task in self.reach:
            if task not in self.tasks:
                raise unknown("task", task, self.tasks)
        self.means = means_of(self.joined)
        self.rows = {row.method: row for row in rows_of(self.joined)}
        ordered = best(self.means, AVERAGE)
        self.students = [*ordered, *(name for name in self.means if name not in ordered)]
        self.methods = [*([TEACHER] if TEACHER in self.rows else []), *self.students]
        self.failed = joined_jobs(jobs_of(self.failures), self.joined)
        self.unscored = list(dict.fromkeys(name for _, name, _ in self.failed if name not in self.rows))
        self.seeds = seeds_of(self.joined, self.failed)
        self.guess = Guess(self.joined)

    def of(self, methods: Iterable[str], task: str | None = None) -> list[Record]:
        """The records of these methods: of all their trainings, or on one task, folds joined."""
        wanted = set(methods)
        if task is None:
            return [r for r in self.records if r["method"] in wanted]
        return [r for r in self.joined if r["method"] in wanted and r["task"] == task]

    def mean(self, method: str, get: Callable[[Record], float | None]) -> float | None:
        """Over those of a method's records that have it."""
        found = [value for value in map(get, self.of([method])) if value is not None]
        return fmean(found) if found else None

    def complete(self, method: str) -> bool:
        """Whether a method has a score on every task."""
        return method in self.rows and len(self.rows[method].scores) == len(self.tasks)

    def retained(self, method: str) -> float | None:
        """A method's average over the teacher's, where both have all tasks."""
        if not (self.complete(method) and self.complete(TEACHER)) or self.rows[TEACHER].average <= 0:
            return None
        return self.rows[method].average / self.rows[TEACHER].average

    def lacks(self, method: str, task: str) -> str:
        """The seeds of a method's cells on a task that failed or are missing."""
        found = len(self.of([method], task))
        lost = sum(job[:2] == (task, method) for job in self.failed)
        return seeds_note(found, lost, 0 if method == TEACHER else self.seeds)

    def one_answer(self, method: str, task: str) -> str:
        """What a method's models on a task predict for every row, if they do."""
        return one_answer_note(self.of([method], task))


def in_prose(method: str, *, subject: bool = False) -> str:
    """A method's name within a sentence: training without a teacher is called ``none`` where it is chosen.

    As a subject it is another: "no teacher has the best score" could be said of the teachers.
    """
    return method if method != BASELINE else "training without a teacher" if subject else "no teacher"


def listed(names: Iterable[str], *, subject: bool = False) -> str:
    """``kd``, ``kd and pkd``, ``kd, pkd and crd``."""
    *first, last = [in_prose(name, subject=subject) for name in names]
    return f"{', '.join(first)} and {last}" if first else last
