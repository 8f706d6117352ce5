"""The metrics on many resamples of the rows at once, from how often each resample drew each row.

Everywhere: predictions (M, N) of M cells, references (N,), and drawn counts (R, N), all floats, give values (M, R).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

Resampled = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


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


def accuracy(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The share of rows that are right, of several labels (M, N, C) in all of them."""
    right = (predicted == true).astype(float)
    return (right if true.ndim == 1 else right.min(-1)) @ drawn.T / drawn.sum(-1)


def f1(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """F1 of class 1."""
    positive, both, truly, _ = _two_by_two(predicted, true, drawn)
    return 2 * both / np.maximum(positive + truly, 1)  # without a positive anywhere it is 0


def precision(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Precision of class 1."""
    positive, both, _, _ = _two_by_two(predicted, true, drawn)
    return both / np.maximum(positive, 1)  # both are 0 where nothing is divided


def recall(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Recall of class 1."""
    _, both, truly, _ = _two_by_two(predicted, true, drawn)
    return both / np.maximum(truly, 1)


def specificity(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Recall of class 0."""
    return recall(1 - predicted, 1 - true, drawn)


def matthews(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Matthews correlation of any number of classes; 0 where a side has one class alone."""
    rows = drawn.sum(-1)
    right = (predicted == true).astype(float) @ drawn.T
    guessed, truly = _by_class(predicted, true, drawn)
    covered = rows * right - np.einsum("cmr,cr->mr", guessed, truly)
    spread = (rows**2 - (guessed**2).sum(0)) * (rows**2 - (truly**2).sum(0))
    return np.where(spread > 0, covered / np.sqrt(np.maximum(spread, 1)), 0.0)


def f1_over_classes(average: str, predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """F1 of each class that occurs, averaged as ``"macro"`` or, by how often each is true, ``"weighted"``."""
    guessed, truly = _by_class(predicted, true, drawn)
    both = np.stack([((predicted == c) & (true == c)).astype(float) @ drawn.T for c in _classes(predicted, true)])
    return _averaged(average, guessed, np.broadcast_to(truly[:, None], guessed.shape), both, absent_counts=False)


def f1_over_labels(average: str, predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """F1 of several labels a row, (M, N, C) and (N, C), averaged over labels or, as ``"micro"``, over decisions."""
    guessed = np.einsum("mnc,rn->cmr", predicted, drawn)
    both = np.einsum("mnc,nc,rn->cmr", predicted, true, drawn)
    truly = np.broadcast_to((drawn @ true).T[:, None], guessed.shape)
    if average == "micro":
        return 2 * both.sum(0) / np.maximum((guessed + truly).sum(0), 1)
    return _averaged(average, guessed, truly, both, absent_counts=True)


def _averaged(
    average: str, guessed: np.ndarray, truly: np.ndarray, both: np.ndarray, *, absent_counts: bool
) -> np.ndarray:
    """The mean over classes of F1, from counts (C, M, R); a class that is nowhere counts as 0 or not at all."""
    there = guessed + truly
    each = 2 * both / np.maximum(there, 1)
    weights = truly if average == "weighted" else (np.ones_like(there) if absent_counts else (there > 0).astype(float))
    total = weights.sum(0)
    return np.where(total > 0, (each * weights).sum(0) / np.maximum(total, 1), 0.0)


def _classes(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    return np.union1d(predicted, true)


def _by_class(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How often each class that occurs is predicted, (C, M, R), and is true, (C, R)."""
    classes = _classes(predicted, true)
    guessed = np.stack([(predicted == c).astype(float) @ drawn.T for c in classes])
    return guessed, np.stack([drawn @ (true == c).astype(float) for c in classes])


def roc_auc(
    by_label: Callable[[np.ndarray, np.ndarray], list[tuple[np.ndarray, np.ndarray]]],
    scores: np.ndarray,
    true: np.ndarray,
    drawn: np.ndarray,
) -> np.ndarray:
    """The mean over labels of the area under the ROC curve; on each resample over the labels that vary there.

    Args:
        by_label: splits scores (M, N, C) and references into each label's (M, N) and (N,).
        scores, true, drawn: as everywhere.
    """
    total, there = np.zeros((len(scores), len(drawn))), np.zeros(len(drawn))
    for own, of in by_label(scores, true):
        positive, negative = drawn @ of, drawn @ (1 - of)
        varies = (positive > 0) & (negative > 0)
        there += varies
        for cell, one in enumerate(own):
            _, place = np.unique(one, return_inverse=True)
            order = np.argsort(place, kind="stable")
            starts = np.flatnonzero(np.diff(place[order], prepend=-1))
            pos = np.add.reduceat((drawn * of)[:, order], starts, axis=1)
            neg = np.add.reduceat((drawn * (1 - of))[:, order], starts, axis=1)
            below = np.cumsum(neg, axis=1) - neg / 2  # negatives with a lower score, ties by half
            area = (pos * below).sum(1) / np.maximum(positive * negative, 1)
            total[cell] += np.where(varies, area, 0.0)
    return np.where(there > 0, total / np.maximum(there, 1), 0.0)


def over_targets(one: Resampled, predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean over targets, (M, N, K) and (N, K), of a metric of one."""
    if true.ndim == 1:
        return one(predicted, true, drawn)
    return np.mean([one(predicted[..., k], true[:, k], drawn) for k in range(true.shape[1])], axis=0)


def mse(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean squared error."""
    return (predicted - true) ** 2 @ drawn.T / drawn.sum(-1)


def mae(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The mean absolute error."""
    return np.abs(predicted - true) @ drawn.T / drawn.sum(-1)


def r2(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """The coefficient of determination; with a constant truth 1 where it is met and 0 elsewhere, as scikit-learn's."""
    mean = (drawn @ true / drawn.sum(-1))[:, None]
    total = (drawn * (true - mean) ** 2).sum(-1)
    missed = (predicted - true) ** 2 @ drawn.T
    varies = total > 1e-12 * (drawn @ true**2)
    return np.where(varies, 1 - missed / np.where(varies, total, 1.0), np.where(missed > 0, 0.0, 1.0))


def _two_by_two(
    predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Rows predicted as 1, rightly so, truly 1, and all: (M, R), (M, R), (R,) and (R,)."""
    return predicted @ drawn.T, (predicted * true) @ drawn.T, drawn @ true, drawn.sum(-1)


def pearson(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Pearson correlation."""
    rows = drawn.sum(-1)
    right = true - (drawn @ true / rows)[:, None]
    left = predicted - predicted.mean(-1, keepdims=True)
    total, square = left @ drawn.T, left**2 @ drawn.T
    return _correlation(
        left @ (drawn * right).T, square - total**2 / rows, (drawn * right**2).sum(-1), square, drawn @ true**2
    )


def spearman(predicted: np.ndarray, true: np.ndarray, drawn: np.ndarray) -> np.ndarray:
    """Spearman correlation."""
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
