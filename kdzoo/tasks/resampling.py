"""The tasks' metrics on many resamples of the rows at once, from how often each resample drew each row."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from kdzoo.tasks import Task

# Of M cells on R resamples: predictions (M, N), labels (N,) and drawn counts (R, N), as floats, to values (M, R).
Metric = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def counts(index: np.ndarray, rows: int) -> np.ndarray:
    """How often each row was drawn.

    Args:
        index: (R, K) numbers of rows, a resample in each line.
        rows: N, how many there are.

    Returns:
        (R, N) floats.
    """
    flat = index + rows * np.arange(len(index))[:, None]
    return np.bincount(flat.ravel(), minlength=rows * len(index)).reshape(len(index), rows).astype(float)


def scores(
    task: Task, predictions: dict[str, np.ndarray], labels: dict[str, np.ndarray], drawn: dict[str, np.ndarray]
) -> np.ndarray:
    """The task's score, 0 to 100, as `kdzoo.tasks.Task.score` gives it, of M cells on R resamples.

    Args:
        task: the task.
        predictions: (M, N) by validation split.
        labels: (N,) by split.
        drawn: (R, N) by split, see `counts`.

    Returns:
        (M, R) floats.
    """
    parts = [METRICS[name](predictions[s], labels[s], drawn[s]) for name in task.headline for s in labels]
    return 100 * np.mean(parts, axis=0)  # every headline metric has as many splits as every other


def _accuracy(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    return (predicted == true).astype(float) @ drawn.T / drawn.sum(-1)


def _f1(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    positive, both, truly, _ = _two_by_two(predicted, true, drawn)
    return 2 * both / np.maximum(positive + truly, 1)  # without a positive anywhere it is 0


def _matthews(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    positive, both, truly, rows = _two_by_two(predicted, true, drawn)
    spread = positive * (rows - positive) * truly * (rows - truly)
    return np.where(spread > 0, (rows * both - positive * truly) / np.sqrt(np.maximum(spread, 1)), 0.0)


def _two_by_two(
    predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows predicted as 1, rightly so, truly 1, and all: (M, R), (M, R), (R,) and (R,)."""
    return predicted @ drawn.T, (predicted * true) @ drawn.T, drawn @ true, drawn.sum(-1)


def _pearson(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    rows = drawn.sum(-1)
    right = true - (drawn @ true / rows)[:, None]
    left = predicted - predicted.mean(-1, keepdims=True)
    total, square = left @ drawn.T, left**2 @ drawn.T
    return _correlation(
        left @ (drawn * right).T, square - total**2 / rows, (drawn * right**2).sum(-1), square, drawn @ true**2
    )


def _spearman(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    ranks, spread, place = _ranks(true, drawn)
    right = drawn * ranks[:, place]
    found = []
    for one in predicted:
        ranks, own, place = _ranks(one, drawn)
        found.append(_correlation(np.einsum("rn,rn->r", ranks[:, place], right), own, spread, own, spread))
    return np.stack(found)


def _correlation(
    both: np.ndarray, left: np.ndarray, right: np.ndarray, of_left: np.ndarray, of_right: np.ndarray
) -> np.ndarray:
    """Of sums of products and of squares about the mean; 0 where a side is constant, as far as rounding tells.

    Args:
        both: the sum of the products.
        left, right: the sums of the squares.
        of_left, of_right: the sums from which those were taken, the measure of their rounding.
    """
    varies = (left > 1e-12 * of_left) & (right > 1e-12 * of_right)
    return np.where(varies, both / np.sqrt(np.where(varies, left * right, 1.0)), 0.0)


def _ranks(values: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ranks among the drawn rows, less their mean; equal values share the mean of their ranks.

    Returns:
        Those of the G distinct values (R, G), the sum of their squares over the drawn rows (R,), and which of the
        values each row has (N,).
    """
    _, place = np.unique(values, return_inverse=True)
    order = np.argsort(place, kind="stable")
    equal = np.add.reduceat(drawn[:, order], np.flatnonzero(np.diff(place[order], prepend=-1)), axis=1)
    ranks = np.cumsum(equal, axis=1) - equal / 2 - drawn.sum(-1, keepdims=True) / 2
    return ranks, np.einsum("rg,rg,rg->r", ranks, ranks, equal), place


METRICS: dict[str, Metric] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _pearson,
    "spearmanr": _spearman,
}
