"""The trials of a tuning: how they are called, and which is chosen; the grid trains them, the report reads them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

Job = tuple[str, str, int]
MARK = "#"  # between a method's name and the number of a trial of it; no name holds it


def trial_name(method: str, trial: int) -> str:
    """How a trial of a method is called in jobs and records."""
    return f"{method}{MARK}{trial}"


def parted(method: str) -> tuple[str, int | None]:
    """A method's name and the number of its trial; None for a cell that is no trial."""
    name, _, trial = method.partition(MARK)
    return name, int(trial) if trial else None


def without_trials(jobs: Iterable[Job]) -> list[Job]:
    """Jobs (task, method, seed) that are no trials."""
    return [job for job in jobs if MARK not in job[1]]


def best_trial(scores: Mapping[int, float]) -> int:
    """The trial with the highest score, the first of those that are level: 0 changes no setting."""
    return max(scores, key=lambda trial: (scores[trial], -trial))


def in_words(tried: Mapping[str, float]) -> str:
    """The settings of a trial, as they are said."""
    return ", ".join(f"{name} {value:g}" for name, value in sorted(tried.items())) or "no setting changed"
