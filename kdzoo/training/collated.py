"""What a collator makes of rows, told apart row by row: one number for all that a model is given of a row."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo import hashing
from kdzoo.models.decoders import teacher_forced
from kdzoo.models.heads import has_decoder
from kdzoo.models.masks import added_to_scores, real_tokens
from kdzoo.tasks.encoding import INDEX

MASK = "attention_mask"
TARGET = "decoder_"  # before the names of the inputs that have a target's positions
PROBED = 64  # rows that the collator is tried on, once for the key and once more to see whether it draws numbers
Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
# splitmix64's constants (Steele, Lea and Flood 2014), as signed numbers: torch's integers wrap around.
_GAMMA, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def given(model: nn.Module, batch: Mapping[str, Any], inputs: Iterable[str], prefix: str = "") -> dict[str, Tensor]:
    """What a model takes of a batch, by its own names; a decoder with the target before each of its words.

    Args:
        model: the model.
        batch: what the collator made.
        inputs: the names that the model takes.
        prefix: what stands before them in the batch.
    """
    names = (name for name in sorted(inputs) if isinstance(batch.get(prefix + name), Tensor))
    taken = with_added_mask({name: batch[prefix + name] for name in names})
    return teacher_forced(model, taken, batch.get("labels"))


def with_added_mask(inputs: dict[str, Any]) -> dict[str, Any]:
    """A model's inputs with a visible matrix of ones and zeros as transformers takes it, see `added_to_scores`."""
    if isinstance(mask := inputs.get(MASK), Tensor):
        inputs[MASK] = added_to_scores(mask)
    return inputs


class Prints(NamedTuple):
    """Of each row of a batch, (B,) int64: a number, and how many real tokens it and its target have."""

    numbers: Tensor
    tokens: Tensor
    targets: Tensor


def fingerprints(taken: Mapping[str, Tensor]) -> Prints:
    """A number for each row of a batch, and its real tokens.

    Equal inputs have equal numbers whatever they are padded to on the right; where a token stands is part of them, so
    that rows padded on the left differ from batch to batch, as what a model makes of them does.

    Args:
        taken: what a model is given, (B, ...) by name.
    """
    ids = taken.get("input_ids")
    first = next(iter(taken.values())) if ids is None else ids
    mask = real_tokens(taken.get("attention_mask"))
    real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device) if mask is None else mask
    if real.dim() == 1:
        real = real.unsqueeze(1)
    width = first.shape[1] if first.dim() > 1 else 0
    below = real_tokens(taken.get("decoder_attention_mask"))
    targets = torch.zeros_like(real[:, :0]) if below is None else below
    total = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    for name, value in taken.items():
        counts = targets if name.startswith(TARGET) and below is not None else real
        length = counts.shape[1]
        whole = value.double().view(torch.int64) if value.is_floating_point() else value.long()
        counted = torch.ones_like(whole, dtype=torch.bool)
        place = torch.zeros_like(whole) + zlib.crc32(name.encode())
        for axis in range(1, whole.dim()):
            shape = [1] * whole.dim()
            shape[axis] = whole.shape[axis]
            place = _mixed(place + torch.arange(whole.shape[axis], device=whole.device).view(shape))
            if whole.shape[axis] == length and (counts is targets or length == width):
                shape[0] = len(counts)
                counted = counted & counts.view(shape)
        mixed = _mixed(_mixed(whole) + place)
        total = total + (mixed * counted).flatten(1).sum(1) if whole.dim() > 1 else total + mixed
    return Prints(total, real.sum(1), targets.sum(1))


@contextmanager
def same_numbers() -> Iterator[None]:
    """What draws random numbers inside leaves those that follow as they would have been."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


class Batch(NamedTuple):
    """Some rows, what the teacher is given of them, and where each student's token stands in that, if it is told."""

    rows: np.ndarray[Any, Any]
    taken: dict[str, Tensor]
    places: Tensor | None


class Rows(NamedTuple):
    """Of each row, what stands for the teacher's input of it, and its numbers of tokens and of target tokens; (N,)."""

    prints: np.ndarray[Any, Any]
    lengths: np.ndarray[Any, Any]
    targets: np.ndarray[Any, Any]


@dataclass(frozen=True)
class Source:
    """A training set as the teacher sees it."""

    teacher: Any
    dataset: Any
    inputs: tuple[str, ...]
    collate: Collate
    prefix: str
    batch_size: int
    autocast: Callable[[], AbstractContextManager[Any]]
    progress: Callable[[int, int], None]

    def columns(self) -> list[str]:
        """The columns with the teacher's inputs."""
        wanted = {self.prefix + name for name in self.inputs} | ({"labels"} if has_decoder(self.teacher) else set())
        wanted |= {*getattr(self.collate, "columns", ())}
        return [name for name in self.dataset.column_names if name in wanted]

    def probe(self) -> Tensor:
        """The fingerprints of the first rows, as the collator makes them."""
        order = np.arange(min(PROBED, len(self.dataset)))
        batches = self._in_order(order)
        return torch.cat([fingerprints(taken).numbers for _, taken, _ in batches])

    def batches(self) -> Iterator[Batch]:
        """All rows, the longest first."""
        order = np.argsort(-lengths(self.dataset, self.prefix), kind="stable")
        with same_numbers():
            yield from self._in_order(order)

    def _in_order(self, order: np.ndarray[Any, Any]) -> Iterator[Batch]:
        for start in range(0, len(order), self.batch_size):
            rows = order[start : start + self.batch_size]
            batch = self.collate([self.dataset[int(row)] for row in rows])
            taken = given(self.teacher, batch, self.inputs, self.prefix)
            yield Batch(rows, taken, batch.get(self.prefix + INDEX))

    def rows(self) -> Rows:
        """Of all rows."""
        found = Rows(*(np.zeros(len(self.dataset), np.int64) for _ in Rows._fields))
        for rows, taken, places in self.batches():
            own = fingerprints(taken)
            if places is not None:
                own = own._replace(tokens=(places >= 0).sum(1))
            for kept, of in zip(found, own, strict=True):
                kept[rows] = of.numpy()
        return found


def target_lengths(dataset: Any) -> np.ndarray[Any, Any]:
    """The numbers of tokens of the rows' targets, 0 where they have none."""
    if "labels" not in dataset.column_names:
        return np.zeros(len(dataset), np.int64)
    return np.asarray([len(ids) if isinstance(ids, list) else 0 for ids in dataset["labels"][:]], np.int64)


def lengths(dataset: Any, prefix: str = "", *, kept: bool = False) -> np.ndarray[Any, Any]:
    """The rows' numbers of tokens, padding that the rows hold left out.

    Args:
        dataset: the rows.
        prefix: before the names of the model's columns.
        kept: of a teacher that reads more than the student, the tokens that both read.
    """
    from pyarrow.compute import list_value_length
    from pyarrow.types import is_nested

    there = dataset.column_names
    name = prefix + (MASK if prefix + MASK in there else "input_ids")
    name = prefix + INDEX if kept and prefix + INDEX in there else name
    found = []
    for rows in dataset.select_columns([name]).with_format("arrow").iter(hashing.ROWS):
        column = rows.column(name).combine_chunks()
        if name.endswith(MASK) and is_nested(column.type.value_type):  # of pairs: a real token sees itself
            pairs = column.to_pylist()
            found.append(np.asarray([sum(row[at] != 0 for at, row in enumerate(seen)) for seen in pairs], np.int64))
            continue
        sizes = np.asarray(list_value_length(column))
        numbers = column.flatten().to_numpy(zero_copy_only=False)
        real = numbers != 0 if name.endswith(MASK) else np.ones(len(numbers), bool)
        real = numbers >= 0 if name.endswith(INDEX) else real
        totals = np.concatenate([[0], np.cumsum(real)])
        ends = np.cumsum(sizes)
        found.append(totals[ends] - totals[ends - sizes])
    return np.concatenate(found) if found else np.zeros(0, np.int64)


def _mixed(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser, over int64."""
    numbers = numbers + _GAMMA
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        numbers = (numbers ^ ((numbers >> shift) & (2 ** (64 - shift) - 1))) * factor
    return numbers ^ ((numbers >> 31) & (2**33 - 1))
