"""What the synthetic tasks of sentences and passages share: each row by itself, and no text in two splits."""

from __future__ import annotations

import random
import zlib
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from kdzoo.errors import KdzooError

Random = random.Random
T = TypeVar("T")
SIZES = {"train": 4000, "validation": 1000}
ONSETS = ("b", "br", "d", "dr", "f", "g", "h", "k", "l", "m", "n", "p", "r", "s", "st", "t", "v", "w")
MIDDLES = ("a", "e", "i", "o", "u", "ai", "ea", "ou")
ENDS = ("n", "r", "l", "s", "ck", "lm", "nd", "rt", "st", "x")


def drawn(
    task: str, split: str, rows: int | None, seed: int, make: Callable[[Random], T], text: Callable[[T], str]
) -> list[T]:
    """Rows of a split, each a function of task, split, its number and the seed alone.

    Args:
        task: its name.
        split: ``"train"`` or ``"validation"``.
        rows: how many; `SIZES` has the default.
        seed: of the rows.
        make: a row from random numbers.
        text: of a row, which alone says what split it may be in, whatever the seed.

    Raises:
        KdzooError: for another split.
    """
    if split not in SIZES:
        raise KdzooError(f"{task} has no synthetic split {split!r}; it has {', '.join(SIZES)}")
    found = []
    for number in range(SIZES[split] if rows is None else rows):
        rng = Random(f"{task} {split} {seed} {number}")  # a string is seeded by its SHA-512, the same everywhere
        row = make(rng)
        while (zlib.crc32(text(row).encode()) % 4 == 0) == (split == "train"):
            row = make(rng)
        found.append(row)
    return found


def a_name(rng: Random) -> str:
    """A name of two syllables that no lexicon has."""
    first = rng.choice(ONSETS) + rng.choice(MIDDLES)
    return (first + rng.choice(ONSETS) + rng.choice(MIDDLES) + rng.choice(ENDS)).capitalize()


def columns(rows: Sequence[dict[str, Any]]) -> dict[str, list[Any]]:
    """Rows by column."""
    return {name: [row[name] for row in rows] for name in rows[0]}
