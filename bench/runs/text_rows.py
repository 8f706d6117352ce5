"""Rows of text as batches, and how many of held-out rows a student puts its segments in order for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from transformers import DataCollatorForLanguageModeling, DataCollatorWithPadding, PreTrainedTokenizerBase

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs, capture
from kdzoo.tasks.pieces import IGNORED
from kdzoo.tasks.segments import ORDER_LABELS, PIECES, Segments
from kdzoo.training.agreement import accepted_inputs, evaluating

HELD_OUT = 1000  # at most so many rows of two segments, and at most one in
ONE_IN = 20


class TextCollator:
    """Makes a padded batch of rows of text, with words masked and segments exchanged where asked.

    Which words are masked depends on the seed, the epoch and the batch's rows alone, so that a resumed run masks the
    same ones; so do segments (`kdzoo.tasks.segments`).

    Args:
        tokenizer: the models'.
        mlm_probability: the share of tokens to predict, of which BERT masks 80 %, exchanges 10 % and leaves 10 %; None
            masks nothing.
        seed: of the masks.
        segments: makes two segments of a row; None where rows are one.

    Raises:
        KdzooError: for a tokenizer without a mask token.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        mlm_probability: float | None,
        seed: int,
        segments: Segments | None = None,
    ) -> None:
        self.seed = seed
        self.segments = segments
        self.columns = () if segments is None else (PIECES,)  # what batches are made of, and no model takes
        self.epoch = 0
        self._masking: DataCollatorForLanguageModeling | None = None
        self._collate: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        if mlm_probability is not None:
            if tokenizer.mask_token is None:
                raise KdzooError("the teacher's tokenizer has no mask token, so no words can be masked for mlm")
            self._masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability, seed=seed)
            self._collate = self._masking

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` (B, S), ``sample_ids`` (B,).

        Of segments also ``token_type_ids`` (B, S), where the tokenizer has some, and ``order_labels`` (B,).
        """
        if self._masking is not None:
            place = f"{self.seed} {self.epoch} {rows[0]['sample_ids']}".encode()
            seed = int.from_bytes(hashlib.sha256(place).digest()[:7], "little")
            self._masking.generator = torch.Generator().manual_seed(seed)
        return dict(self._collate([self._row(row) for row in rows]))

    def _row(self, row: dict[str, Any]) -> dict[str, Any]:
        taken = {name: row[name] for name in ("input_ids", "sample_ids")}
        if self.segments is None:
            return taken
        return taken | self.segments(row["input_ids"], row[PIECES], row["sample_ids"], self.epoch)


def with_order(rows: Dataset) -> np.ndarray[Any, Any]:
    """Which rows have two lines or more, and so two segments with an order; indices.

    Args:
        rows: of `kdzoo.tasks.text.packed` for segments.
    """
    from pyarrow.compute import list_value_length

    return np.flatnonzero(np.asarray(list_value_length(rows.data.column(PIECES).combine_chunks())) > 1)


def held_out(rows: Dataset) -> tuple[Dataset, Dataset]:
    """Rows to train on, and those of two segments at the end of the text that the order is scored on.

    Args:
        rows: of `kdzoo.tasks.text.packed` for segments.

    Raises:
        KdzooError: fewer than two rows have two segments.
    """
    there = with_order(rows)
    if len(there) < 2:
        raise KdzooError(
            f"sop takes two segments of a document, and {len(there)} of the text's {len(rows)} rows have two lines of "
            "one: a line is a sentence or a paragraph, and a blank line ends a document"
        )
    last = there[-min(HELD_OUT, max(1, len(there) // ONE_IN)) :]
    return rows.select(range(int(last[0]))), rows.select(last)


def order_accuracy(
    student: Any, rows: Dataset, tokenizer: PreTrainedTokenizerBase, segments: Segments, batch_size: int
) -> float:
    """The share of rows whose segments a student rightly says to be in order or exchanged; no word is masked.

    Args:
        student: with a head on the order.
        rows: of two segments.
        tokenizer: the models'.
        segments: makes them, as in the first epoch.
        batch_size: rows a step.
    """
    collate, inputs = TextCollator(tokenizer, None, segments.seed, segments), accepted_inputs(student)
    right = 0
    with torch.no_grad(), evaluating(student):
        for start in range(0, len(rows), batch_size):
            end = min(start + batch_size, len(rows))
            batch = collate([rows[at] for at in range(start, end)])
            taken = {name: value.to(student.device) for name, value in batch.items() if name in inputs}
            with capture(student, Needs(logits=False, order=True)) as recorder:
                order = recorder.activations(student(**taken), mask=batch["attention_mask"].to(student.device)).order
            assert order is not None and (batch[ORDER_LABELS] != IGNORED).all()
            right += int((order.argmax(-1).cpu() == batch[ORDER_LABELS]).sum())
    return right / len(rows)
