"""Triples of a knowledge graph as rows of pieces, KG-BERT's folder of files, negatives and what a rank leaves out.

Source: Yao et al. (2019), KG-BERT.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kdzoo import hashing
from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.pieces import CLS, SEP, cut_longest, whole
from kdzoo.tasks.reading import find_file, numbered_lines

Side = Literal["head", "tail"]


class TripleRow(NamedTuple):
    """One row: its tokens and their segments."""

    tokens: list[str]
    token_type_ids: list[int]


class Triple(NamedTuple):
    """Head, relation and tail by name."""

    head: str
    relation: str
    tail: str


def encode(head: Sequence[str], relation: Sequence[str] | None, tail: Sequence[str], max_length: int) -> TripleRow:
    """``[CLS] head [SEP] relation [SEP] tail [SEP]`` in segments 0, 1, 0, or the pair ``[CLS] head [SEP] tail [SEP]``.

    A row that is too long loses the last piece of its longest part, of equally long ones the last, until it fits. (The
    released code takes from the tail wherever the longest is not unique, even when the tail is short.)

    Args:
        head, tail: the pieces of the entities' texts.
        relation: the pieces of the relation's text; ``None`` for the pair, in segments 0 and 1.
        max_length: of the row, special tokens included.

    Raises:
        KdzooError: a part is empty, or would be.
    """
    named = {"head": head, "relation": relation, "tail": tail}
    parts = {name: list(part) for name, part in named.items() if part is not None}
    whole(max_length, 2 * len(parts) + 1)
    for name, part in parts.items():
        if isinstance(named[name], str):
            raise KdzooError(f"the {name} is one text, {named[name]!r}; expected its pieces")
        if not part:
            raise KdzooError(f"the {name} has no text")
    cut_longest(list(parts.values()), max_length - len(parts) - 1, max_length)
    segments = (0, 1) if relation is None else (0, 1, 0)
    tokens, types = [CLS], [0]
    for part, segment in zip(parts.values(), segments, strict=True):
        tokens += [*part, SEP]
        types += [segment] * (len(part) + 1)
    return TripleRow(tokens, types)


@dataclass(frozen=True)
class Graph:
    """A knowledge graph as read.

    Attributes:
        entities, relations: name → text, for the names of the list files or else of the triples, in order.
        train, dev, test: triples.
        dev_labels, test_labels: whether each is true; ``None`` where the files do not say, and all are.
    """

    entities: dict[str, str]
    relations: dict[str, str]
    train: list[Triple]
    dev: list[Triple]
    test: list[Triple]
    dev_labels: list[bool] | None = None
    test_labels: list[bool] | None = None

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all of it."""
        names = [list(of.items()) for of in (self.entities, self.relations)]  # in order: it numbers them
        parts = (self.train, self.dev, self.test, self.dev_labels, self.test_labels)
        return hashing.of_values(*names, *parts)[:16]

    @cached_property
    def known(self) -> KnownTriples:
        """What filtered ranks leave out."""
        return KnownTriples(self.true(), list(self.entities), list(self.relations))

    def true(self) -> list[Triple]:
        """The triples of all splits that are true."""
        found = list(self.train)
        for triples, labels in ((self.dev, self.dev_labels), (self.test, self.test_labels)):
            found += [triple for row, triple in enumerate(triples) if labels is None or labels[row]]
        return found


def read_graph(folder: str | os.PathLike[str], texts: str = "entity2text") -> Graph:
    """A folder of KG-BERT's form.

    ``train``, ``dev`` and ``test`` hold head, relation and tail, for triple classification dev and test a fourth
    column, 1 or -1. ``entity2text`` and ``relation2text`` hold name and text, ``entities`` and ``relations``, which
    may be missing, one name a line. All with ``.tsv`` or ``.txt``, plain or gzipped.

    Args:
        folder: where they are.
        texts: the file of the entities' texts, such as ``"entity2textlong"``. Entities that neither the list nor a
            triple has are left out: they are outside the graph.

    Raises:
        KdzooError: names file and row: a file that is missing, other columns or another order of them, a name
            without text, a training triple said to be false.
    """
    folder = Path(folder)
    entity_path, relation_path = _needed(folder, texts), _needed(folder, "relation2text")
    entity_texts, relation_texts = _texts(entity_path), _texts(relation_path)
    splits: dict[str, tuple[list[Triple], list[bool] | None]] = {}
    for split in ("train", "dev", "test"):
        path = _needed(folder, split)
        splits[split] = _triples(path, entity_texts, relation_texts, entity_path, relation_path)
        labels = splits[split][1] or ()
        if split == "train" and not all(labels):
            raise KdzooError(
                f"{path}, row {labels.index(False) + 1}: a false triple in the training split; negatives are drawn, so "
                "it holds true ones"
            )
    used = [triple for triples, _ in splits.values() for triple in triples]
    entities = _names(folder, "entities", entity_texts, (name for t in used for name in (t.head, t.tail)))
    relations = _names(folder, "relations", relation_texts, (triple.relation for triple in used))
    return Graph(
        entities={name: entity_texts[name] for name in entities},
        relations={name: relation_texts[name] for name in relations},
        train=splits["train"][0],
        dev=splits["dev"][0],
        test=splits["test"][0],
        dev_labels=splits["dev"][1],
        test_labels=splits["test"][1],
    )


class Negatives:
    """False triples for training: head or tail replaced by another entity, drawn anew for each epoch.

    Head or tail is chosen with equal chances, and all of a triple's negatives replace the same side. The other entity
    is drawn uniformly, again while the result is a training triple. Where a side has no such entity, it is the other
    side's turn. (The released code draws once, before training.)

    Args:
        train: the training triples.
        entities: the names that are drawn from.
        number: of negatives a triple: 1 for triple classification, 5 for link prediction in the paper.
        seed: with the epoch, decides the draws.
        known: further triples that are no negatives, such as the training triples of which ``train`` is a part.

    Raises:
        KdzooError: ``number`` is under 1, or there are no two entities.
    """

    def __init__(
        self,
        train: Sequence[Triple],
        entities: Collection[str],
        number: int = 1,
        seed: int = 0,
        known: Iterable[Triple] = (),
    ) -> None:
        if number < 1:
            raise KdzooError(f"the number of negatives must be 1 or more, got {number}")
        self.entities = list(dict.fromkeys(entities))
        if len(self.entities) < 2:
            raise KdzooError(f"{len(self.entities)} entities: a negative needs another one to put in")
        self.train = [Triple(*triple) for triple in train]
        self.number, self.seed = number, seed
        true = [*self.train, *(Triple(*triple) for triple in known)]
        self._known = set(true)
        names = dict.fromkeys((*self.entities, *(name for t in true for name in (t.head, t.tail))))
        places = {name: place for place, name in enumerate(names)}  # entities that can be drawn come first
        relations = {name: place for place, name in enumerate(dict.fromkeys(t.relation for t in true))}
        rows = [(places[t.head], relations[t.relation], places[t.tail]) for t in true]
        numbers = np.array(rows, dtype=np.int64).reshape(-1, 3)
        self._rows = numbers[: len(self.train)]
        self._sizes = len(relations), len(names)
        self._keys = np.unique(self._key(*numbers.T))

    def epoch(self, epoch: int) -> list[list[Triple]]:
        """The negatives of each training triple, in the order of these.

        Raises:
            KdzooError: a triple has no negative, since every replacement of its head and tail is a training triple.
        """
        random = np.random.default_rng([self.seed, epoch])
        count = len(self.train)
        heads = np.repeat(random.random(count) < 0.5, self.number)
        head, relation, tail = np.repeat(self._rows, self.number, axis=0).T
        drawn = np.zeros(len(heads), dtype=np.int64)
        wanted = np.arange(len(heads))
        for _ in range(20):
            drawn[wanted] = random.integers(len(self.entities), size=len(wanted))
            made = self._key(
                np.where(heads, drawn, head)[wanted], relation[wanted], np.where(heads, tail, drawn)[wanted]
            )
            wanted = wanted[np.isin(made, self._keys)]
            if not len(wanted):
                break
        kept: list[bool] = heads.reshape(count, self.number)[:, 0].tolist()
        chosen: list[list[int]] = drawn.reshape(count, self.number).tolist()
        found = [
            [_replace(triple, "head" if side else "tail", self.entities[place]) for place in places]
            for triple, side, places in zip(self.train, kept, chosen, strict=True)
        ]
        # Where nearly every draw makes a training triple, the exact list of the others is made.
        for row in np.unique(wanted // self.number).tolist():
            sides: tuple[Side, Side] = ("head", "tail") if kept[row] else ("tail", "head")
            found[row] = self._exactly(self.train[row], sides, random)
        return found

    def _exactly(self, triple: Triple, sides: tuple[Side, Side], random: np.random.Generator) -> list[Triple]:
        for side in sides:
            possible = [m for name in self.entities if (m := _replace(triple, side, name)) not in self._known]
            if possible:
                return [possible[place] for place in random.integers(len(possible), size=self.number)]
        raise KdzooError(f"no negative of {tuple(triple)}: with any other head or tail it is a training triple")

    def _key(self, head: np.ndarray, relation: np.ndarray, tail: np.ndarray) -> np.ndarray:
        """One number a triple."""
        relations, entities = self._sizes
        return (head * relations + relation) * entities + tail


class KnownTriples:
    """Which candidates a filtered rank leaves out, from the triples of all splits that are true.

    Args:
        triples: as :meth:`Graph.true` gives them.
        entities, relations: the candidates, in the order of the scores.
    """

    def __init__(self, triples: Iterable[Triple], entities: Sequence[str], relations: Sequence[str]) -> None:
        self.index = {
            "head": {name: index for index, name in enumerate(entities)},
            "relation": {name: index for index, name in enumerate(relations)},
        }
        self.index["tail"] = self.index["head"]
        self._found: dict[tuple[str, str, str], set[int]] = defaultdict(set)
        for triple in triples:
            for part in ("head", "relation", "tail"):
                index = self.index[part].get(getattr(triple, part))
                if index is not None:
                    self._found[self._key(triple, part)].add(index)

    def known(self, triple: Triple, part: str) -> list[int]:
        """The indices of the other candidates for one part of a triple that make a true one, in ascending order.

        Args:
            triple: a test triple.
            part: ``"head"``, ``"tail"`` or ``"relation"``.

        Raises:
            KdzooError: there is no such part.
        """
        if part not in self.index:
            raise unknown("part of a triple", part, self.index)
        own = self.index[part].get(getattr(triple, part))
        return sorted(self._found.get(self._key(triple, part), set()) - {own})

    @staticmethod
    def _key(triple: Triple, part: str) -> tuple[str, str, str]:
        first, second = (getattr(triple, name) for name in Triple._fields if name != part)
        return part, first, second


def _replace(triple: Triple, side: Side, name: str) -> Triple:
    return triple._replace(head=name) if side == "head" else triple._replace(tail=name)


# --- files ---


def _needed(folder: Path, name: str) -> Path:
    path = find_file(folder, name)
    if path is None:
        raise KdzooError(f"{folder} has no {name} (.tsv or .txt, plain or .gz)")
    return path


def _texts(path: Path) -> dict[str, str]:
    found: dict[str, str] = {}
    for row, line in numbered_lines(path):
        columns = line.split("\t")
        if len(columns) != 2:
            raise KdzooError(f"{path}, row {row}: expected name and text, got {len(columns)} columns")
        name, text = (column.strip() for column in columns)
        if not name or not text:
            raise KdzooError(f"{path}, row {row}: {name!r} has no text" if name else f"{path}, row {row}: no name")
        if found.setdefault(name, text) != text:
            raise KdzooError(f"{path}, row {row}: {name!r} has two texts; keep one")
    if not found:
        raise KdzooError(f"{path}: no name with a text")
    return found


def _triples(
    path: Path, entities: dict[str, str], relations: dict[str, str], entity_path: Path, relation_path: Path
) -> tuple[list[Triple], list[bool] | None]:
    triples: list[Triple] = []
    labels: list[bool] = []
    width = 0
    for row, line in numbered_lines(path):
        columns = [column.strip() for column in line.split("\t")]
        where = f"{path}, row {row}"
        width = width or len(columns)
        if len(columns) not in (3, 4) or len(columns) != width:
            wanted = f"{width} as before" if width in (3, 4) else "head, relation and tail"
            raise KdzooError(f"{where}: {len(columns)} columns; expected {wanted}")
        triple = Triple(*columns[:3])
        if triple.relation not in relations and any(name in relations for name in (triple.head, triple.tail)):
            raise KdzooError(f"{where}: the relation is not in the second column; the order is head, relation, tail")
        for name, known, source in (
            (triple.head, entities, entity_path),
            (triple.relation, relations, relation_path),
            (triple.tail, entities, entity_path),
        ):
            if name not in known:
                raise KdzooError(f"{where}: {name!r} has no text in {source}")
        if len(columns) == 4:
            if columns[3] not in ("1", "+1", "-1"):
                raise KdzooError(f"{where}: the fourth column must be 1 or -1, got {columns[3]!r}")
            labels.append(columns[3] != "-1")
        triples.append(triple)
    if not triples:
        raise KdzooError(f"{path}: no triple")
    return triples, labels if width == 4 else None


def _names(folder: Path, name: str, texts: dict[str, str], used: Iterable[str]) -> list[str]:
    """The names of a list file and of the triples."""
    path = find_file(folder, name)
    listed: list[str] = []
    for row, line in numbered_lines(path) if path else ():
        if line.strip() not in texts:
            raise KdzooError(f"{path}, row {row}: {line.strip()!r} has no text")
        listed.append(line.strip())
    return list(dict.fromkeys((*listed, *used)))
