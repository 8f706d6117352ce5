"""What a collator makes of rows, told apart row by row: one number for all that a model is given of a row."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdzoo.models.masks import real_tokens

Collate = Callable[[list[dict[str, Any]]], Mapping[str, Any]]
# splitmix64's constants (Steele, Lea and Flood 2014), as signed numbers: torch's integers wrap around.
_GAMMA, _FIRST, _SECOND = (value - 2**64 for value in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB))


def given(batch: Mapping[str, Any], inputs: Iterable[str], prefix: str = "") -> dict[str, Tensor]:
    """What a model takes of a batch, by its own names.

    Args:
        batch: what the collator made.
        inputs: the names that the model takes.
        prefix: what stands before them in the batch.
    """
    names = (name for name in sorted(inputs) if isinstance(batch.get(prefix + name), Tensor))
    return {name: batch[prefix + name] for name in names}


def fingerprints(taken: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """A number for each row of a batch, and how many real tokens it has, (B,) int64 each.

    Equal inputs have equal numbers whatever they are padded to on the right; where a token stands is part of them, so
    that rows padded on the left differ from batch to batch, as what a model makes of them does.

    Args:
        taken: what a model is given, (B, ...) by name.
    """
    ids = taken.get("input_ids")
    first = next(iter(taken.values())) if ids is None else ids
    length = first.shape[1] if first.dim() > 1 else 0
    mask = real_tokens(taken.get("attention_mask"))
    real = torch.ones(first.shape[:2], dtype=torch.bool, device=first.device) if mask is None else mask
    if real.dim() == 1:
        real = real.unsqueeze(1)
    total = torch.zeros(len(first), dtype=torch.int64, device=first.device)
    for name, value in taken.items():
        whole = value.double().view(torch.int64) if value.is_floating_point() else value.long()
        counted = torch.ones_like(whole, dtype=torch.bool)
        place = torch.zeros_like(whole) + zlib.crc32(name.encode())
        for axis in range(1, whole.dim()):
            shape = [1] * whole.dim()
            shape[axis] = whole.shape[axis]
            place = _mixed(place + torch.arange(whole.shape[axis], device=whole.device).view(shape))
            if whole.shape[axis] == length and length == real.shape[1]:
                shape[0] = len(real)
                counted = counted & real.view(shape)
        mixed = _mixed(_mixed(whole) + place)
        total = total + (mixed * counted).flatten(1).sum(1) if whole.dim() > 1 else total + mixed
    return total, real.sum(1)


def scanned(
    dataset: Any, collate: Collate, inputs: Iterable[str], prefix: str, batch_size: int, order: np.ndarray[Any, Any]
) -> Iterator[tuple[np.ndarray[Any, Any], dict[str, Tensor]]]:
    """Batches of a training set, as the collator makes them: the rows' numbers, and what the model is given of them."""
    inputs = [*inputs]
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        yield rows, given(collate([dataset[int(row)] for row in rows]), inputs, prefix)


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


def _mixed(numbers: Tensor) -> Tensor:
    """splitmix64's finaliser, over int64."""
    numbers = numbers + _GAMMA
    for shift, factor in ((30, _FIRST), (27, _SECOND)):
        numbers = (numbers ^ ((numbers >> shift) & (2 ** (64 - shift) - 1))) * factor
    return numbers ^ ((numbers >> 31) & (2**33 - 1))
