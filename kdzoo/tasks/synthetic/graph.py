"""A synthetic knowledge graph about animals, plants and places, whose relations follow from what the texts say.

An entity's text is a region, a size and a kind ("northern large hunter"). A relation holds between two kinds whose
regions, which lie in a ring, are so many steps apart; so most of a triple can be told from the others.
"""

from __future__ import annotations

import itertools
import zlib
from functools import cache
from typing import Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.synthetic.drawing import Random
from kdzoo.tasks.triples import Graph, Negatives, Triple

NAMES = ("umls", "wn18rr", "wn11")  # the tasks that have it
REGIONS = ("northern", "eastern", "southern", "western")
SIZES = ("tiny", "small", "large", "huge")
KINDS = ("hunter", "grazer", "insect", "herb", "tree", "river")
# By relation, the kinds of head and tail, and how many regions on the tail's lies.
RELATIONS = {
    "eats": ((("hunter", "grazer"), ("grazer", "herb")), (0, 1)),
    "follows": ((("hunter", "grazer"), ("grazer", "herb")), (2,)),
    "hides in": ((("grazer", "tree"), ("insect", "herb")), (0, 1)),
    "carries": ((("insect", "tree"),), (0, 1)),
    "drinks from": ((("hunter", "river"), ("insect", "river")), (0,)),
    "grows along": ((("herb", "river"), ("tree", "river")), (0, 1)),
    "bites": ((("insect", "hunter"),), (0, 1)),
}


@cache
def graph() -> Graph:
    """The whole graph; a tenth of the triples each in dev and test, dev and test with one false triple for each."""
    entities = {f"{r}_{s}_{k}": f"{r} {s} {k}" for k, r, s in itertools.product(KINDS, REGIONS, SIZES)}
    relations = {name.replace(" ", "_"): name for name in RELATIONS}
    places = {region: at for at, region in enumerate(REGIONS)}
    splits: dict[str, list[Triple]] = {"train": [], "dev": [], "test": []}
    for name, (pairs, steps) in RELATIONS.items():
        for head, tail in itertools.product(entities, entities):
            (region, _, kind), (other, _, of) = head.split("_"), tail.split("_")
            if (kind, of) in pairs and (places[other] - places[region]) % len(REGIONS) in steps:
                triple = Triple(head, name.replace(" ", "_"), tail)
                place = zlib.crc32("\t".join(triple).encode()) % 10
                splits["dev" if place == 0 else "test" if place == 1 else "train"].append(triple)
    for triples in splits.values():
        Random("graph").shuffle(triples)
    true = [triple for triples in splits.values() for triple in triples]
    labels = {}
    for split in ("dev", "test"):
        found = splits[split]
        false = Negatives(found, entities, seed=len(split), known=true).epoch(0)
        splits[split] = [triple for pair in zip(found, false, strict=True) for triple in (pair[0], *pair[1])]
        labels[split] = [True, False] * len(found)
    return Graph(entities, relations, splits["train"], splits["dev"], splits["test"], labels["dev"], labels["test"])


def take(columns: dict[str, list[Any]], rows: int | None, seed: int) -> dict[str, list[Any]]:
    """So many of the rows, drawn with a seed; all where there are no more, for the graph is what it is.

    Raises:
        KdzooError: there are none to take.
    """
    count = len(next(iter(columns.values())))
    if not count:
        raise KdzooError("the synthetic graph has no such split")
    order = [*range(count)]
    Random(f"rows {seed}").shuffle(order)
    return {name: [values[at] for at in order[:rows]] for name, values in columns.items()}
