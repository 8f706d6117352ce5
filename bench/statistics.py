"""How sure a difference between two methods is: a paired bootstrap over the validation rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np
from scipy import stats

from kdzoo.errors import KdzooError
from kdzoo.glue import get_task
from kdzoo.glue.metrics import measure

LEVEL = 0.95
RESAMPLES = 1000


@dataclass(frozen=True)
class Difference:
    """The average score of one method less that of another, in points, with its interval.

    Attributes:
        value: over the tasks that both have; of each, the mean over the seeds that both have.
        low, high: the interval that a paired percentile bootstrap over validation rows gives.
    """

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


def difference(
    records: Sequence[dict[str, Any]],
    method: str,
    against: str,
    *,
    level: float = LEVEL,
    resamples: int | None = None,
    seed: int = 0,
) -> Difference | None:
    """How far a method is ahead of another.

    Each task's rows are drawn with replacement, the same for both methods and all seeds, and the whole difference is
    computed anew (Efron & Tibshirani 1993, chapter 13; for GLUE-like scores, Dror et al. 2018,
    https://aclanthology.org/P18-1128). The interval covers which rows are in the validation set; how much seeds
    differ is what the ± in the table says.

    Args:
        records: of a comparison, its teachers' among them, which hold the rows' labels.
        method, against: names.
        level: of the interval.
        resamples: how often to draw; 1000 times by default.
        seed: of the drawing.

    Returns:
        None where the two have no task and seed in common.

    Raises:
        KdzooError: when the labels are missing, as in records written before they were kept.
    """
    labels = {r["task"]: r["references"] for r in records if r.get("references")}
    paired: list[_Task] = []
    for task in {record["task"]: None for record in records}:
        cells = [_predictions(records, task, name) for name in (method, against)]
        seeds = sorted(cells[0].keys() & cells[1].keys())
        if not seeds:
            continue
        if task not in labels:
            raise KdzooError(
                f"the records of {task} hold no labels, so no interval can be given; compare with a version that keeps "
                "them, into another folder"
            )
        paired.append(_Task(task, labels[task], [(cells[0][s], cells[1][s]) for s in seeds]))
    if not paired:
        return None
    rows = [np.arange(task.rows) for task in paired]

    def statistic(*drawn: np.ndarray) -> float:
        return fmean(task.difference(index) for task, index in zip(paired, drawn, strict=True))

    value = statistic(*rows)
    interval = stats.bootstrap(
        tuple(rows),
        statistic,
        n_resamples=resamples or RESAMPLES,
        vectorized=False,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return Difference(value, float(interval.low), float(interval.high))


def _predictions(records: Sequence[dict[str, Any]], task: str, method: str) -> dict[int, dict[str, Any]]:
    """By seed."""
    return {r["seed"]: r["predictions"] for r in records if (r["task"], r["method"]) == (task, method)}


class _Task:
    """One task's predictions of two methods, seed by seed; the rows of all its validation splits in one line."""

    def __init__(
        self, name: str, labels: dict[str, list[float]], pairs: list[tuple[dict[str, Any], dict[str, Any]]]
    ) -> None:
        self.task = get_task(name)
        self.splits = list(labels)
        kind = float if self.task.regression else int
        self.labels = {split: np.asarray(values).astype(kind) for split, values in labels.items()}
        self.pairs = [
            tuple({split: np.asarray(side[split]).astype(kind) for split in self.splits} for side in pair)
            for pair in pairs
        ]
        self.rows = sum(len(values) for values in self.labels.values())

    def difference(self, index: np.ndarray) -> float:
        """Of the scores on some of the rows, the mean over the seeds."""
        return fmean(self._score(own, index) - self._score(other, index) for own, other in self.pairs)

    def _score(self, predictions: dict[str, np.ndarray], index: np.ndarray) -> float:
        by_split, start = {}, 0
        for split in self.splits:
            true = self.labels[split]
            own = index[(index >= start) & (index < start + len(true))] - start
            start += len(true)
            if len(own):
                by_split[split] = measure(self.task.name, predictions[split][own], true[own])
        return self.task.score(self.task.flatten(by_split))
