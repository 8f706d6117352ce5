"""Training rows that are drawn anew for each epoch: which rows belong to which.

All drawings lie in one training set, the rows of every epoch first, then the first epoch's own, then the second's. So
every row keeps its number: what a teacher says of it can be cached, banks of rows stay apart, and a training that is
resumed goes on with the rows it would have had. The sampler takes an epoch's rows alone.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from datasets import Dataset

EPOCH = "epoch"  # the column: the number of the one epoch that a row is of
EVERY = -1  # in it, a row of every epoch


def epochs_of(rows: Any) -> np.ndarray | None:
    """The epoch of each row, (N,); None where no row is of one epoch alone.

    Raises:
        KdzooError: the epochs have not equally many rows, or do not stand in order.
    """
    if EPOCH not in getattr(rows, "column_names", ()):
        return None
    found = np.asarray(rows[EPOCH][:])
    own = found[found != EVERY]
    if not len(own):
        return None
    counts = np.bincount(own)
    if (np.diff(found) < 0).any() or (counts != counts[0]).any():
        raise KdzooError(
            f"the column {EPOCH!r} says of which epoch a row is: first those of every epoch ({EVERY}), then equally "
            "many of epoch 0, 1, 2, ... in order"
        )
    return found


def rows_an_epoch(rows: Any) -> int:
    """How many rows a pass has."""
    found = epochs_of(rows)
    return len(rows) if found is None else int(((found == EVERY) | (found == 0)).sum())


def first_epochs(rows: Dataset, epochs: float) -> Dataset:
    """The rows of the first epochs: of so many as a training has, a part of one counted whole.

    Raises:
        KdzooError: fewer were drawn.
    """
    found = epochs_of(rows)
    if found is None:
        return rows
    wanted, drawn = math.ceil(epochs), int(found.max()) + 1
    if wanted > drawn:
        raise KdzooError(f"rows were drawn for {drawn} epochs, and the training has {wanted}; encode them for as many")
    return rows if wanted == drawn else rows.select(range(int((found < wanted).sum())))
