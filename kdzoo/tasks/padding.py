"""Batches of rows whose labels stand by token: padded on the right, with what no model takes left out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdzoo.tasks.pieces import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


def padding_side(tokenizer: PreTrainedTokenizerBase) -> str:
    """Where rows of texts are padded: on the right, unless the tokenizer's own kind pads on the left, as XLNet's does.

    A tokenizer that was told to pad on the left would have an encoder's head read padding at the first place.
    """
    return type(tokenizer).padding_side


@dataclass(frozen=True)
class RightPadded:
    """Makes a batch of encoded rows, padded to the batch's own longest row.

    Padding is on the right whatever the tokenizer's side, so that a token's place in a row is its place in the batch.

    Attributes:
        tokenizer: the model's.
        fills: of other columns by token, what they are padded with.
        numbers: columns with one number a row.
    """

    tokenizer: PreTrainedTokenizerBase
    fills: Mapping[str, int]
    numbers: tuple[str, ...]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's inputs, (B, S), and those of the other columns that the rows have."""
        import torch

        there = rows[0]
        inputs = [name for name in self.tokenizer.model_input_names if name in there]
        taken = [{name: row[name] for name in inputs} for row in rows]
        batch = dict(self.tokenizer.pad(taken, padding_side="right", return_tensors="pt"))
        width = batch["input_ids"].shape[1]
        for name in (name for name in self.fills if name in there):
            fill = [self.fills[name]]
            batch[name] = torch.tensor([list(row[name]) + fill * (width - len(row[name])) for row in rows])
        for name in (name for name in self.numbers if name in there):
            batch[name] = torch.tensor([row[name] for row in rows])
        return batch


@dataclass(frozen=True)
class SourceAndTarget:
    """Makes a batch of sources and targets, each padded on the right to the batch's own longest.

    Attributes:
        tokenizer: the model's.
    """

    tokenizer: PreTrainedTokenizerBase

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's inputs, (B, S), and ``labels``, (B, T) with -100 in padding, where the rows have them."""
        import torch

        targets = [row["labels"] for row in rows if "labels" in row]
        batch = RightPadded(self.tokenizer, {}, ("sample_ids",))(rows)
        if targets:
            width = max(map(len, targets))
            batch["labels"] = torch.tensor([[*ids] + [IGNORED] * (width - len(ids)) for ids in targets])
        return batch
