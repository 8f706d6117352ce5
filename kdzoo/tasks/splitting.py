"""Training rows divided in two, seeded and stratified, and rows that stand in two splits."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from datasets import Dataset

    from kdzoo.tasks.classification import Classification

HELD_OUT = 0.1  # of the training rows


def held_out(rows: Dataset, task: Classification, seed: int, share: float = HELD_OUT) -> tuple[Dataset, Dataset]:
    """Rows divided in two, seeded and stratified: by class, by set of labels, or by tenths of the (first) number.

    Args:
        rows: with the task's `fields`.
        task: whose.
        seed: of the drawing.
        share: of the rows, and as nearly as may be of each stratum, in the second part; no class or label loses its
            last row to it.

    Returns:
        What is left, and what was taken, each in the rows' order.

    Raises:
        KdzooError: there are too few rows.
    """
    left, taken = held_out_numbers(rows, task, seed, share)
    return rows.select(left), rows.select(taken)


def held_out_numbers(
    rows: Dataset, task: Classification, seed: int, share: float = HELD_OUT
) -> tuple[list[int], list[int]]:
    """The numbers of the rows that `held_out` leaves, and of those that it takes; see there."""
    count = len(rows)
    wanted = max(2, round(share * count))
    if count - wanted < 2:
        raise KdzooError(f"{task.name}: {count} rows are too few to take validation rows from; give a validation split")
    values = rows[task.label_columns[0]][:]
    marked: list[tuple[int, ...]] = [()] * count  # the classes or labels of each row
    if task.kind == "classification":
        marked = [(value,) for value in values]
    elif task.kind == "multilabel":
        marked = [tuple(np.flatnonzero(value).tolist()) for value in values]
    strata: list[Any] = list(marked)
    if task.regression:
        strata = list(np.argsort(np.argsort(np.asarray(values), kind="stable"), kind="stable") * 10 // count)
    by_stratum: dict[Any, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(count).tolist():
        by_stratum.setdefault(strata[row], []).append(row)
    left = Counter(mark for marks in marked for mark in marks)
    taken: set[int] = set()
    for row in _in_turn([*by_stratum.values()], share):
        if len(taken) < wanted and all(left[mark] > 1 for mark in marked[row]):
            taken.add(row)
            left.subtract(marked[row])
    if len(taken) < 2:
        raise KdzooError(f"{task.name}: no class has a row to spare for validation; give a validation split")
    return [row for row in range(count) if row not in taken], sorted(taken)


def held_out_groups(
    rows: Dataset, groups: Sequence[Hashable], name: str, seed: int, share: float = HELD_OUT
) -> tuple[Dataset, Dataset]:
    """Rows divided in two, those of a group staying together, seeded.

    Args:
        rows: to divide.
        groups: of each row.
        name: the task's.
        seed: of the drawing.
        share: of the rows, as nearly as the groups allow, in the second part.

    Returns:
        What is left, and what was taken, each in the rows' order.

    Raises:
        KdzooError: there are too few rows, or groups.
    """
    sizes = Counter(groups)
    order = list(sizes)
    taken: set[Hashable] = set()
    count, wanted = 0, max(2, round(share * len(rows)))
    for at in np.random.default_rng(seed).permutation(len(order)).tolist():
        if count < wanted and count + sizes[order[at]] <= len(rows) - 2:
            taken.add(order[at])
            count += sizes[order[at]]
    if count < 2:
        raise KdzooError(f"{name}: {len(rows)} rows are too few to take validation rows from; give a validation split")
    numbered = [*enumerate(groups)]
    left = [row for row, group in numbered if group not in taken]
    return rows.select(left), rows.select([row for row, group in numbered if group in taken])


def _in_turn(strata: list[list[int]], share: float) -> list[int]:
    """The rows in the order they are asked for: each stratum's whole share, what its fraction gives, and the others."""
    whole = [math.floor(share * len(rows)) for rows in strata]
    nearest = sorted(range(len(strata)), key=lambda at: whole[at] - share * len(strata[at]))
    first = [row for rows, number in zip(strata, whole, strict=True) for row in rows[:number]]
    following = [strata[at][whole[at]] for at in nearest]
    return [*first, *following, *(row for at in nearest for row in strata[at][whole[at] + 1 :])]


def leaks(task: Classification, rows: Mapping[str, Dataset]) -> list[str]:
    """A line for each split with rows whose texts are in training too."""
    found = {split: repeated(task, rows["train"], of) for split, of in rows.items() if split != "train"}
    return [
        f"{task.name}: {twice} of {len(rows[split])} {split} rows are in training too, by their text"
        for split, twice in found.items()
        if twice
    ]


def repeated(task: Classification, train: Dataset, rows: Dataset) -> int:
    """How many rows have texts that training rows have too."""
    known, own = (zip(*(part[column][:] for column in task.columns), strict=True) for part in (train, rows))
    texts = set(known)
    return sum(row in texts for row in own)
