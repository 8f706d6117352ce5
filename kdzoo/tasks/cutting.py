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
    taken = rows.select(np.unique(np.linspace(0, len(rows) - 1, min(len(rows), LOOKED_AT)).astype(int)))
    encoded = tokenizer(*(taken[column][:] for column in columns), truncation=False, verbose=False)
    longer = sum(len(ids) > max_length for ids in encoded["input_ids"])
    if not longer:
        return ""
    looked = " that were looked at" if len(taken) < len(rows) else ""
    return f"{longer} of {len(taken)} training {what}{looked} are longer than --max-length {max_length}, and are cut"
