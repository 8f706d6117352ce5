"""Rows divided in two: seeded, and stratified where there are strata."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np

HELD_OUT = 0.1  # of the rows


def held_out(strata: Sequence[Hashable], seed: int, share: float = HELD_OUT) -> tuple[list[int], list[int]]:
    """The numbers of the rows that are kept and of those that are taken, each in rising order.

    Of every stratum its share is taken; of a stratum with one row nothing, or what is kept would not know it.

    Args:
        strata: of each row, what it must be like to be alike; one value for all where order alone decides.
        seed: of the drawing.
        share: of each stratum, and of all rows, that is taken; two rows at least.
    """
    wanted = max(2, round(share * len(strata)))
    order = np.random.default_rng(seed).permutation(len(strata)).tolist()
    by_stratum: dict[Hashable, list[int]] = {}
    for row in order:
        by_stratum.setdefault(strata[row], []).append(row)
    left = {stratum: len(rows) for stratum, rows in by_stratum.items()}
    taken: set[int] = set()
    for stratum, rows in by_stratum.items():
        first = rows[: min(round(share * len(rows)), len(rows) - 1)]
        taken.update(first)
        left[stratum] -= len(first)
    for row in order:  # what rounding left out
        if len(taken) >= wanted:
            break
        if row not in taken and left[strata[row]] > 1:
            taken.add(row)
            left[strata[row]] -= 1
    return [row for row in range(len(strata)) if row not in taken], sorted(taken)
