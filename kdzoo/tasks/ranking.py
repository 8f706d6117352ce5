"""The rank of a true candidate among others, and what link prediction reports of ranks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdzoo.errors import KdzooError, unknown

TIES = ("realistic", "optimistic", "pessimistic")


def rank(scores: Any, target: int, known: Iterable[int] = (), ties: str = "realistic") -> float:
    """The rank of one candidate among all, 1 being the best; higher scores are better.

    Args:
        scores: (N,) one a candidate.
        target: the index of the true candidate.
        known: indices of other true candidates, which are left out (the *filtered* rank); the target itself stays.
        ties: ``realistic`` counts half of the other candidates with the target's score as better, ``optimistic`` none
            and ``pessimistic`` all of them.

    Returns:
        1 + the number of better candidates: with realistic ties it may end in .5.

    Raises:
        KdzooError: an index that is none, a score that is no number, another way with ties.

    Source: Bordes et al. (2013) for the filter; Berrendorf et al. (2020) for ties.
    """
    if ties not in TIES:
        raise unknown("way with ties", ties, TIES)
    values = _array(scores)
    if values.ndim != 1:
        raise KdzooError(f"scores must be one number a candidate, got the shape {values.shape}")
    if np.isnan(values).any():
        raise KdzooError(f"the score of candidate {int(np.isnan(values).argmax())} is no number (NaN)")
    target = _index(target, len(values), "target")
    counted = np.ones(len(values), dtype=bool)
    for other in known if not hasattr(known, "tolist") else known.tolist():
        counted[_index(other, len(values), "known")] = False
    counted[target] = False
    others = values[counted]
    above, equal = int((others > values[target]).sum()), int((others == values[target]).sum())
    return 1.0 + above + {"realistic": 0.5, "optimistic": 0.0, "pessimistic": 1.0}[ties] * equal


def ranking_scores(ranks: Sequence[float]) -> dict[str, float]:
    """Mean rank, mean reciprocal rank and the shares of ranks up to 1, 3 and 10.

    Args:
        ranks: of both sides of every test triple, from :func:`rank`.

    Returns:
        ``mr``, ``mrr``, ``hits@1``, ``hits@3`` and ``hits@10``; the shares as fractions.

    Raises:
        KdzooError: no rank, or one under 1.
    """
    values = _array(ranks).astype(np.float64)
    if values.ndim != 1 or not len(values):
        raise KdzooError("no rank to average" if not values.size else f"ranks have the shape {values.shape}")
    if not (values >= 1).all():
        raise KdzooError(f"a rank is 1 or more, got {values[~(values >= 1)][0]}")
    scores = {"mr": float(values.mean()), "mrr": float((1 / values).mean())}
    return scores | {f"hits@{most}": float((values <= most).mean()) for most in (1, 3, 10)}


def _array(values: Any) -> np.ndarray:
    if hasattr(values, "detach"):  # a tensor; NumPy has no bfloat16
        values = values.detach().cpu()
        return np.asarray(values.double() if values.is_floating_point() else values)
    return np.asarray(values if hasattr(values, "__array__") else list(values))


def _index(value: Any, count: int, name: str) -> int:
    if isinstance(value, bool | np.bool_) or not hasattr(value, "__index__"):
        raise KdzooError(f"{name} must be indices of candidates, got {value!r}")
    index = value.__index__()
    if not 0 <= index < count:
        raise KdzooError(f"{name} {index} is no index of {count} candidates")
    return int(index)
