"""How many rows lose something at the most tokens that a row keeps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

LOOKED_AT = 1000  # rows, evenly over all of them


def cut_rows(
    rows: Dataset, columns: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int, what: str = "rows"
) -> str:
    """In words, how many of the training rows are longer than ``max_length``; empty where none is.

    Args:
        rows: as they are loaded.
        columns: of the texts that are read together.
        tokenizer: the model's.
        max_length: the most tokens a row keeps.
        what: the rows, as they are called.
    """
    taken = looked_at(rows)
    encoded = tokenizer(*(taken[column][:] for column in columns), truncation=False, verbose=False)
    return in_words([len(ids) for ids in encoded["input_ids"]], len(rows), max_length, what)


def looked_at(rows: Dataset) -> Dataset:
    """Those of the rows whose lengths are counted."""
    return rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)))


def in_words(lengths: Sequence[int], total: int, max_length: int, what: str = "rows") -> str:
    """What `cut_rows` says of rows of these lengths, in tokens and uncut.

    Args:
        lengths: of the rows that were looked at.
        total: how many rows there are.
        max_length, what: see `cut_rows`.
    """
    longer = sum(length > max_length for length in lengths)
    if not longer:
        return ""
    looked = " that were looked at" if len(lengths) < total else ""
    return f"{longer} of {len(lengths)} training {what}{looked} are longer than --max-length {max_length}, and are cut"
