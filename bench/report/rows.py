"""One row a method: its scores over tasks and seeds, their means and deviations, and what is missing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report.uncertainty import AVERAGE


@dataclass
class Row:
    """One method over all tasks.

    Attributes:
        method: its name; the teacher is one.
        scores: by task, a score a seed.
        samples_per_second: training rows a second, the mean over its cells.
        parameters: of the model.
    """

    method: str
    scores: dict[str, list[float]]
    samples_per_second: float
    parameters: int

    @property
    def means(self) -> dict[str, float]:
        """The mean score by task."""
        return {task: fmean(scores) for task, scores in self.scores.items()}

    @property
    def average(self) -> float:
        """The mean over tasks of the mean over seeds."""
        return fmean(self.means.values())


def rows_of(records: Sequence[dict[str, Any]]) -> list[Row]:
    """One row a method, the teacher first, the others in the records' order."""
    methods = sorted({record["method"]: None for record in records}, key=lambda method: method != TEACHER)
    rows = []
    for method in methods:
        own = [record for record in records if record["method"] == method]
        scores: dict[str, list[float]] = {}
        for record in own:
            scores.setdefault(record["task"], []).append(record["score"])
        speed = fmean(record["samples_per_second"] for record in own)
        rows.append(Row(method, scores, speed, own[0]["parameters"]))
    return rows


def means_of(records: Sequence[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Each student's mean score by task, and on the average where it has all tasks."""
    tasks = {record["task"] for record in records}
    students = [row for row in rows_of(records) if row.method != TEACHER]
    return {row.method: row.means | ({AVERAGE: row.average} if tasks == row.scores.keys() else {}) for row in students}


def seeds_of(records: Sequence[dict[str, Any]], failed: Sequence[tuple[str, str, int]] = ()) -> int:
    """How many seeds the students have; the most that any of them has on a task, those that failed included."""
    jobs = {(record["task"], record["method"], record["seed"]) for record in records} | set(failed)
    return max(Counter(job[:2] for job in jobs if job[1] != TEACHER).values(), default=0)


def seeds_note(found: int, failed: int, seeds: int) -> str:
    """What a cell of a table is told to lack: ``2 of 3 seeds, 1 failed``; empty where it has all."""
    short = f"{found} of {seeds} seeds" if 0 < found < seeds and found + failed < seeds else ""
    return ", ".join(part for part in (short, f"{failed} failed" if failed else "") if part)


def averages_of(records: Sequence[dict[str, Any]], method: str, tasks: Sequence[str]) -> list[float]:
    """A method's averages over tasks, one for each seed that has all of them."""
    own = [record for record in records if record["method"] == method]
    by_task = [{r["seed"]: r["score"] for r in own if r["task"] == task} for task in tasks]
    return [fmean(of[seed] for of in by_task) for seed in sorted(set.intersection(*map(set, by_task)))]


def mean_std(scores: Sequence[float], *, constant: bool = False) -> str:
    """``74.8 ± 0.6``; without ± for one score, and for a constant guess, whose spread says nothing."""
    if not scores:
        return ""
    told = f"{fmean(scores):.1f}"
    return told if len(scores) < 2 or constant else f"{told} ± {stdev(scores):.1f}"


def average_std(average: float, of_seeds: Sequence[float], *, constant: bool = False) -> str:
    """``57.3 ± 0.6``: the mean over tasks, and its deviation over the seeds that have all of them, if two do."""
    return f"{average:.1f}" + ("" if constant or len(of_seeds) < 2 else f" ± {stdev(of_seeds):.1f}")
