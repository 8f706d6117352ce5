"""Ranks over tasks: Friedman's test and the critical difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from kdzoo.bench.report.uncertainty import LEVEL


@dataclass(frozen=True)
class Ranking:
    """Methods ranked over tasks, with the Friedman test and the Nemenyi test's critical difference.

    Attributes:
        ranks: the mean rank of each method over the tasks, the best first; equal scores share a rank.
        tasks: over how many.
        statistic, p: the Friedman test's, of "all methods are alike".
        critical: mean ranks that are nearer than this cannot be told apart.
        groups: the largest runs of methods, as places in ``ranks``, of which none can be told from another.

    References:
        Demšar (2006), "Statistical Comparisons of Classifiers over Multiple Data Sets", JMLR 7, section 3.2;
        https://www.jmlr.org/papers/v7/demsar06a.html
    """

    ranks: dict[str, float]
    tasks: int
    statistic: float
    p: float
    critical: float
    groups: list[tuple[int, int]]


def ranking(means: Mapping[str, Mapping[str, float]], tasks: Sequence[str], *, level: float = LEVEL) -> Ranking | None:
    """Rank the methods that have a score on every task.

    Returns:
        None with fewer than three methods or two tasks, where there is nothing to test.
    """
    names = [name for name in means if all(task in means[name] for task in tasks)]
    if len(names) < 3 or len(tasks) < 2:
        return None
    table = np.asarray([[means[name][task] for name in names] for task in tasks])
    each = stats.rankdata(-table, axis=1).mean(0)
    ranks = {names[i]: float(each[i]) for i in np.argsort(each, kind="stable")}
    # All tied on every task, there is no difference to test.
    tied = bool((table == table[:, :1]).all())
    statistic, p = (0.0, 1.0) if tied else map(float, stats.friedmanchisquare(*table.T))
    k = len(names)
    critical = float(stats.studentized_range.ppf(level, k, np.inf) / np.sqrt(2) * np.sqrt(k * (k + 1) / 6 / len(tasks)))
    values = list(ranks.values())
    runs = [(i, max(j for j in range(i, k) if values[j] - values[i] < critical)) for i in range(k)]
    groups = [(i, j) for n, (i, j) in enumerate(runs) if j > i and (n == 0 or j > runs[n - 1][1])]
    return Ranking(ranks, len(tasks), statistic, p, critical, groups)
