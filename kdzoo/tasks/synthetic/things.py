"""Synthetic sentences about things that only a triple file explains: a name is alive or not, and no sentence says so.

Half of the names stand in training and in validation, so that a model without the facts can learn those by heart; the
others stand in one of the two alone, and what they are is in the triples only.
"""

from __future__ import annotations

from functools import cache
from typing import Any

from kdzoo.tasks.synthetic.drawing import Random, a_name, columns, drawn

NAME = "kbert"
LABELS = ("not_alive", "alive")
KINDS = {  # of things, and whether they live
    "animal": 1,
    "bird": 1,
    "tree": 1,
    "fish": 1,
    "tool": 0,
    "stone": 0,
    "cloth": 0,
    "coin": 0,
}
PLACES = ("hills", "coast", "north", "desert", "valley")
SHARED, ALONE = 60, 120  # names of both splits, and of each by itself
SENTENCES = (
    "she found a {name} behind the house",
    "nobody had seen a {name} for years",
    "the {name} was brought here from far away",
    "he asked the price of a {name} twice",
    "a picture of the {name} hangs in the hall",
    "they carried the {name} across the river",
    "what he drew looked like a {name} , or so they said",
    "before noon the {name} was gone",
)


@cache
def names() -> tuple[tuple[str, str], ...]:
    """The names, no two alike, and what kind of thing each is."""
    rng, found, kinds = Random("names of things"), dict[str, str](), tuple(KINDS)
    while len(found) < SHARED + 2 * ALONE:
        found.setdefault(a_name(rng).lower(), kinds[len(found) % len(kinds)])
    return tuple(found.items())


def triples() -> list[tuple[str, str, str]]:
    """Subject, predicate and object: of each name where it comes from and what it is, in an order of its own."""
    found = []
    for name, kind in names():
        rng = Random(f"facts of {name}")
        facts = [(name, "is a", kind), (name, "comes from the", rng.choice(PLACES))]
        found += facts if rng.random() < 0.5 else facts[::-1]
    return found


def generate(split: str, rows: int | None = None, seed: int = 0) -> dict[str, list[Any]]:
    """Rows of ``sentence`` and ``label``; see `kdzoo.tasks.synthetic.drawing.drawn`."""
    first = SHARED if split == "train" else SHARED + ALONE

    def sentence(rng: Random) -> dict[str, Any]:
        at = rng.randrange(SHARED) if rng.random() < 0.5 else first + rng.randrange(ALONE)
        name, kind = names()[at]
        return {"sentence": rng.choice(SENTENCES).format(name=name), "label": LABELS[KINDS[kind]]}

    return columns(drawn(NAME, split, rows, seed, sentence, lambda row: str(row["sentence"])))
