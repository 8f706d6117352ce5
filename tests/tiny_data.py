"""A tiny data set of token ids of different lengths, and its collator, for what trains the tiny models."""

from __future__ import annotations

from typing import Any

import torch
from tiny_models import LABELS, SEQUENCE, VOCABULARY


def rows(count: int = 24, seed: int = 0, length: int | None = None) -> Any:
    """A ``datasets.Dataset`` of single sentences; the label can be read off the first token after CLS.

    Args:
        count: number of rows.
        seed: of lengths and tokens.
        length: of all rows; by default each its own.
    """
    from datasets import Dataset

    generator = torch.Generator().manual_seed(seed)
    columns: dict[str, list[Any]] = {name: [] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    for _ in range(count):
        size = length or int(torch.randint(4, SEQUENCE + 1, (), generator=generator))
        ids = [1, *torch.randint(5, VOCABULARY, (size - 1,), generator=generator).tolist()]
        columns["input_ids"].append(ids)
        columns["attention_mask"].append([1] * size)
        columns["token_type_ids"].append([int(position > size // 2) for position in range(size)])
        columns["labels"].append(ids[1] % LABELS)
    lengths = [len(ids) for ids in columns["input_ids"]]
    return Dataset.from_dict({**columns, "sample_ids": list(range(count)), "length": lengths})


def collate(batch: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A batch padded with zeros to its own longest row."""
    sequences = ("input_ids", "attention_mask", "token_type_ids")
    taken: dict[str, torch.Tensor] = {}
    for name in (key for key in batch[0] if key != "length"):
        if name in sequences:
            values = [torch.tensor(row[name]) for row in batch]
            taken[name] = torch.nn.utils.rnn.pad_sequence(values, batch_first=True)
        else:
            taken[name] = torch.tensor([row[name] for row in batch])
    return taken
