"""How sure a comparison is: paired bootstrap over validation rows and seeds, marks of the best, ranks over tasks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from scipy import stats

from kdzoo.bench.record import TEACHER, check_answers
from kdzoo.bench.report.folds import parts_of
from kdzoo.errors import KdzooError
from kdzoo.tasks import get_task
from kdzoo.tasks.metrics import get_metric, resampled_values
from kdzoo.tasks.resampling import counts

LEVEL = 0.95
RESAMPLES = 1000
AVERAGE = "average"  # in place of a task: the mean over tasks
_ELEMENTS = 4_000_000  # of one array at a time, so that resampling takes little memory

Mark = Literal["best", "level"]


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    Attributes:
        value: on the validation rows and seeds as they are.
        low, high: the interval that a percentile bootstrap over both gives.
        p: of "it is 0", two-sided, from the resamples' standard deviation and the normal distribution, which tells
            apart smaller ones than the resamples' own shares could.
    """

    value: float
    low: float
    high: float
    p: float = 1.0

    @property
    def sure(self) -> bool:
        """Whether 0 lies outside of the interval."""
        return self.low > 0 or self.high < 0

    def __str__(self) -> str:
        return f"{self.value:+.1f} [{self.low:+.1f}, {self.high:+.1f}]"


class Bootstrap:
    """The scores of all cells of a comparison on the same resamples of the validation rows and of the seeds.

    Each validation split's rows are drawn with replacement, the same for all methods and seeds, and every score is
    computed anew (Efron & Tibshirani 1993, chapter 13; for GLUE-like scores, Dror et al. 2018,
    https://aclanthology.org/P18-1128); the drawing is `scipy.stats.bootstrap`'s. Beside each, a task's seeds are drawn
    too, the same for all methods, so that an interval covers both what other rows and what other seeds would give
    (rows and seeds cross: Owen 2007, https://doi.org/10.1214/07-AOAS122). Of n seeds n - 1 are drawn, for the mean of
    n would vary too little (Rao & Wu 1988, https://doi.org/10.1080/01621459.1988.10478591). One seed, as the
    teacher's, says nothing about others: there the interval is over rows alone.

    Args:
        records: of a comparison, its teachers' among them, which hold the rows' labels.
        level: of the intervals.
        resamples: how often to draw; 1000 times by default.
        seed: of the drawing.

    Attributes:
        tasks: all of them.
        resamples: how often each was drawn.
        unlabelled: those without labels, as in records written before they were kept; they have no intervals.

    Raises:
        KdzooError: when a record has another number of predictions than there are labels.
    """

    def __init__(
        self, records: Sequence[dict[str, Any]], *, level: float = LEVEL, resamples: int | None = None, seed: int = 0
    ) -> None:
        self.tasks = list({record["task"]: None for record in records})
        self.resamples = resamples or RESAMPLES
        self._level = level
        self._seed = seed
        labels = {record["task"]: record["references"] for record in records if record.get("references")}
        self.unlabelled = [task for task in self.tasks if task not in labels]
        # By task, method and seed: the score as it is, then on each resample.
        self._scores: dict[str, dict[str, dict[int, np.ndarray]]] = {task: {} for task in self.tasks}
        for task in self.tasks:
            own = [record for record in records if record["task"] == task and record.get("predictions")]
            drawn = np.full((len(own), 1 + self.resamples), np.nan)
            if task in labels and own:
                drawn = _resampled(task, own, labels[task], self.resamples, seed)
            for record, values in zip(own, drawn, strict=True):
                self._scores[task].setdefault(record["method"], {})[record["seed"]] = values

    def score(self, method: str, task: str = AVERAGE) -> Estimate | None:
        """A method's score: its mean over seeds, and over all tasks for the average; None where it lacks one."""
        return self._estimate([self._mean(name, method) for name in self._named(task)])

    def difference(self, method: str, against: str, task: str = AVERAGE) -> Estimate | None:
        """How far a method is ahead of another; None where they have no task and seed in common.

        It is the mean over the seeds that both have, and over all of a method's beside the teacher, which is trained
        once; for the average, over the tasks that both have.
        """
        ahead = [self._ahead(name, method, against) for name in self._named(task)]
        return self._estimate([values for values in ahead if values is not None])

    def retention(self, method: str, task: str = AVERAGE) -> Estimate | None:
        """A method's score over the teacher's; None where it or the teacher lacks a task, or the teacher has 0."""
        means = [(self._mean(name, method), self._mean(name, TEACHER)) for name in self._named(task)]
        pairs = [(own, whole) for own, whole in means if own is not None and whole is not None]
        if len(pairs) < len(means):
            return None
        own, whole = np.sum(pairs, axis=0)
        return self._estimate([own / whole]) if (whole > 0).all() else None

    def _named(self, task: str) -> list[str]:
        return self.tasks if task == AVERAGE else [task]

    def _mean(self, task: str, method: str) -> np.ndarray | None:
        cells = self._scores[task].get(method, {})
        return self._over_seeds(task, [cells[seed] for seed in sorted(cells)])

    def _ahead(self, task: str, method: str, against: str) -> np.ndarray | None:
        if TEACHER in (method, against):
            means = self._mean(task, method), self._mean(task, against)
            return None if means[0] is None or means[1] is None else means[0] - means[1]
        own, other = (self._scores[task].get(one, {}) for one in (method, against))
        return self._over_seeds(task, [own[seed] - other[seed] for seed in sorted(own.keys() & other.keys())])

    def _over_seeds(self, task: str, values: list[np.ndarray]) -> np.ndarray | None:
        """The mean over seeds: over all of them on the rows as they are, over those drawn on each resample."""
        if len(values) < 2:
            return values[0] if values else None
        # Depends on the task and how many seeds there are, so methods with the same seeds get the same draws.
        rng = np.random.default_rng([self._seed, len(values), *task.encode()])
        drawn = rng.integers(len(values), size=(len(values) - 1, self.resamples))
        every = np.stack(values)
        resampled = np.take_along_axis(every[:, 1:], drawn, axis=0).mean(0)
        return np.concatenate([every[:, :1].mean(0), resampled])

    def _estimate(self, by_task: Sequence[np.ndarray | None]) -> Estimate | None:
        """Of the mean over tasks."""
        there = [values for values in by_task if values is not None]
        if not there or len(there) < len(by_task) or np.isnan(there).any():
            return None
        mean = np.mean(there, axis=0)
        low, high = np.quantile(mean[1:], [(1 - self._level) / 2, (1 + self._level) / 2])
        spread, value = float(np.std(mean[1:])), float(mean[0])
        far = abs(value) / spread if spread > 1e-12 else np.inf if abs(value) > 1e-12 else 0.0
        return Estimate(value, float(low), float(high), float(2 * stats.norm.sf(far)))


def _resampled(
    name: str, records: Sequence[dict[str, Any]], labels: dict[str, list[float]], times: int, seed: int
) -> np.ndarray:
    """Of M records of a task, the score on the rows as they are and on each resample: (M, 1 + R)."""
    kind, headline = _scored_by(name, records[0])
    try:
        for metric in headline:
            if ":" in metric and metric not in get_task(parts_of(records[0])[0]["task"]).headline:
                # A record may name any function: none is imported but that of a task that is registered here.
                raise KdzooError(f"the metric {metric!r} is of no task that is known here")
            get_metric(metric, kind)
    except KdzooError:  # a function of somebody's own, which is not here
        return np.full((len(records), 1 + times), np.nan)
    true = {split: _values(values) for split, values in labels.items()}
    if any(len(values) < 2 for values in true.values()):  # which no resample varies
        return np.full((len(records), 1 + times), np.nan)
    for record in records:
        check_answers(record, labels)
    predicted = {split: [_values(record["predictions"][split]) for record in records] for split in true}

    def statistic(*index: np.ndarray, axis: int = -1) -> np.ndarray:
        drawn = {s: counts(rows, len(true[s])) for s, rows in zip(true, index, strict=True)}
        parts = [resampled_values(m, kind, predicted[s], true[s], drawn[s]) for m in headline for s in true]
        return 100 * np.mean(parts, axis=0)  # every headline metric has as many splits as every other

    rows = [np.arange(len(values)) for values in true.values()]
    found = stats.bootstrap(
        rows,
        statistic,
        n_resamples=times,
        batch=max(1, _ELEMENTS // sum(map(len, rows))),
        vectorized=True,
        method="percentile",
        rng=np.random.default_rng([seed, *name.encode()]),  # a task's resamples do not depend on the others
    )
    return np.concatenate([statistic(*(r[None] for r in rows)), found.bootstrap_distribution], axis=-1)


def holm(p: Sequence[float]) -> list[float]:
    """The p of several comparisons, each raised so that all of them together err as seldom as one alone.

    References:
        Holm (1979), "A Simple Sequentially Rejective Multiple Test Procedure", Scandinavian Journal of Statistics 6.
    """
    order = np.argsort(p, kind="stable")
    raised = np.maximum.accumulate(np.asarray(p, dtype=float)[order] * (len(p) - np.arange(len(p))))
    found = np.empty(len(p))
    found[order] = np.minimum(raised, 1)
    return found.tolist()


def leading(means: Mapping[str, Mapping[str, float]], column: str) -> list[str]:
    """The methods with the best score of a column; several where they are equal as shown, to a tenth of a point."""
    order = best(means, column)
    return [name for name in order if round(means[name][column], 1) == round(means[order[0]][column], 1)]


def best(means: Mapping[str, Mapping[str, float]], column: str) -> list[str]:
    """The methods that have a score in a column, the best first.

    Args:
        means: by method and column (a task, or ``AVERAGE``), the mean score.
        column: which.
    """
    return sorted((name for name in means if column in means[name]), key=lambda name: -means[name][column])


def marks(
    means: Mapping[str, Mapping[str, float]], bootstrap: Bootstrap, columns: Sequence[str]
) -> dict[tuple[str, str], Mark]:
    """What a table marks, by method and column: the best, and those of which one cannot say that they are worse.

    Several are the best where they are equal as shown. The others are the methods whose difference to the best has 0
    within its interval.
    """
    found: dict[tuple[str, str], Mark] = {}
    for column in columns:
        for name in best(means, column):
            first = best(means, column)[0]
            gap = bootstrap.difference(first, name, column)
            if name in leading(means, column):
                found[name, column] = "best"
            elif gap is not None and not gap.sure:
                found[name, column] = "level"
    return found


def _scored_by(task: str, record: dict[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A task's kind and the metrics of its score, as its records say; those of before are of GLUE's."""
    if "headline" in record:
        return record.get("kind", "classification"), tuple(record["headline"])
    known = get_task(task)
    return known.kind, known.headline


def _values(values: Any) -> Any:
    """What is predicted by unit, as an array where it is numbers."""
    numbers = (
        not values
        or isinstance(values[0], (int, float))
        or (isinstance(values[0], list) and values[0] and all(isinstance(v, (int, float)) for v in values[0]))
    )
    return np.asarray(values, dtype=float) if numbers else values
