"""The losses in explicit loops over NumPy arrays, one file a registry name, written from the papers.

They share nothing with the code they check but the few helpers here.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np


def positions(vectors: np.ndarray, mask: np.ndarray | None) -> Iterator[tuple[int, ...]]:
    """The indices of every vector that counts in (B, ..., D); its row comes first."""
    for index in np.ndindex(*vectors.shape[:-1]):
        if mask is None or mask[index[0], index[-1]]:
            yield index


def slots(vectors: np.ndarray, mask: np.ndarray | None) -> Iterator[tuple[tuple[int, ...], list[int]]]:
    """Every slot of (B, ..., D), an index of its middle axes, with the rows that count there."""
    for slot in np.ndindex(*vectors.shape[1:-1]):
        yield slot, [row for row in range(len(vectors)) if mask is None or mask[row, slot[-1]]]


def smooth_l1(a: float, b: float) -> float:
    """Half the square of the difference up to 1, and linear beyond."""
    gap = abs(a - b)
    return 0.5 * gap * gap if gap < 1 else gap - 0.5


def mean(values: list[float]) -> float:
    """The mean, or 0 of nothing."""
    return math.fsum(values) / len(values) if values else 0.0


def softmax(scores: np.ndarray, keys: list[int] | None = None) -> np.ndarray:
    """The softmax of one row over ``keys`` alone; the others have probability 0."""
    keys = list(range(len(scores))) if keys is None else keys
    highest = max(scores[k] for k in keys)
    total = math.fsum(math.exp(scores[k] - highest) for k in keys)
    return np.array([math.exp(scores[k] - highest) / total if k in keys else 0.0 for k in range(len(scores))])


def log_softmax(scores: np.ndarray, keys: list[int] | None = None) -> np.ndarray:
    """The logarithms of :func:`softmax`; nan outside ``keys``."""
    keys = list(range(len(scores))) if keys is None else keys
    highest = max(scores[k] for k in keys)
    total = math.fsum(math.exp(scores[k] - highest) for k in keys)
    return np.array([scores[k] - highest - math.log(total) if k in keys else math.nan for k in range(len(scores))])


def normalised(vector: np.ndarray) -> np.ndarray:
    """The vector at length one; zero stays zero."""
    length = math.sqrt(math.fsum(x * x for x in vector))
    return vector / max(length, 1e-12)


def cos(a: np.ndarray, b: np.ndarray) -> float:
    """The cosine of the angle between two vectors; 0 when either is zero."""
    return math.fsum(x * y for x, y in zip(normalised(a), normalised(b), strict=True))


def attention_scores(side: object) -> np.ndarray:
    """(B, A, S, S) from scores themselves, or from the query and key of a QKV."""
    if isinstance(side, np.ndarray):
        return side
    query, key = side[0], side[1]
    rows, heads, length, width = query.shape
    scores = np.zeros((rows, heads, length, length))
    for b, a, q, k in np.ndindex(*scores.shape):
        scores[b, a, q, k] = math.fsum(query[b, a, q] * key[b, a, k]) / math.sqrt(width)
    return scores
