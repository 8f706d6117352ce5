"""Which rows a ranking needs: each candidate triple once, whatever it is asked for, and equal texts as one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.ranking import rank
from kdzoo.tasks.triples import KnownTriples, Triple

if TYPE_CHECKING:
    from datasets import Dataset

# Columns. The rows that are asked for come first; of the others the lists are empty.
HEADS, TAILS = "heads", "tails"  # the rows of the candidates for a side, the true one's first; known ones left out
ASKED = "triple"  # the numbers of head, relation and tail
TAIL_START = "tail_start"  # where in a row the tail's part begins
LIST = "candidate_list"  # of training rows: the number of the true row whose list a row is in
QUERY_PART, TAIL_PART = "query_part", "tail_part"  # the number of what stands before that place, and from there on
MOST_ROWS = 5_000_000


class Row(NamedTuple):
    """A row as a model takes it, and where its tail begins."""

    input_ids: list[int]
    token_type_ids: list[int]
    tail_start: int


def sample_of(entities: Sequence[str], size: int | None, seed: int) -> list[str]:
    """The entities that are candidates: all, or a sample that is the same for every triple.

    Args:
        entities: of the graph, in order.
        size: of the sample; None for all.
        seed: of the sample.
    """
    if size is None or size >= len(entities):
        return list(entities)
    taken = np.random.default_rng(seed).choice(len(entities), size=size, replace=False)
    return [entities[at] for at in sorted(taken.tolist())]


def candidate_rows(
    triples: Sequence[Triple],
    candidates: Sequence[str],
    known: KnownTriples,
    texts: Callable[[Triple], tuple[str, ...]],
    encoded: Callable[[Triple], Row],
) -> dict[str, list[Any]]:
    """The columns of the rows that ranking both sides of triples takes.

    Rows are one for each triple of texts, so that tokenizers make equally many; of rows with equal tokens, as cutting
    may leave, the first one is every candidate's, so that their scores are equal to the last digit.

    Args:
        triples: to rank.
        candidates: for either side.
        known: the true triples.
        texts: of a triple.
        encoded: a triple's row.

    Raises:
        KdzooError: there would be more rows than can be held.
    """
    rows = [encoded(triple) for triple in triples]
    places = {texts(triple): at for at, triple in reversed([*enumerate(triples)])}
    names = list(known.index["head"])
    wanted: dict[str, list[list[int]]] = {HEADS: [], TAILS: []}
    for triple in triples:
        for column, side in ((HEADS, "head"), (TAILS, "tail")):
            left_out = {names[at] for at in known.known(triple, side)} | {getattr(triple, side)}
            found = []
            for other in (triple, *(_with(triple, side, name) for name in candidates if name not in left_out)):
                about = texts(other)
                if about not in places:
                    places[about] = len(rows)
                    rows.append(encoded(other))
                found.append(places[about])
            wanted[column].append(found)
        if len(rows) > MOST_ROWS:
            raise KdzooError(
                f"ranking {len(triples)} triples among {len(candidates)} entities takes more than {MOST_ROWS} rows; "
                "give fewer validation rows, or rank among a sample of the candidates"
            )
    first: dict[tuple[int, ...], int] = {}
    one = [first.setdefault((*row.input_ids, -1, row.tail_start), at) for at, row in enumerate(rows)]
    queries: dict[tuple[int, ...], int] = {}
    tails: dict[tuple[int, ...], int] = {}
    others = len(rows) - len(triples)
    return {
        "input_ids": [row.input_ids for row in rows],
        "token_type_ids": [row.token_type_ids for row in rows],
        TAIL_START: [row.tail_start for row in rows],
        QUERY_PART: [queries.setdefault((*row.input_ids[: row.tail_start],), len(queries)) for row in rows],
        TAIL_PART: [tails.setdefault((*row.input_ids[row.tail_start :],), len(tails)) for row in rows],
        **{column: [[one[at] for at in found] for found in lists] + [[]] * others for column, lists in wanted.items()},
    }


def _with(triple: Triple, side: str, name: str) -> Triple:
    return triple._replace(head=name) if side == "head" else triple._replace(tail=name)


def asked(rows: Dataset) -> int:
    """How many triples are ranked: the first rows."""
    return sum(1 for triple in rows[ASKED][:] if triple)


def ranks(scores: np.ndarray, rows: Dataset) -> np.ndarray:
    """The realistic ranks of both sides of the triples that are asked for, (N, 2): head and tail.

    Args:
        scores: (M,) of all rows, greater for truer.
        rows: as `candidate_rows` has them.
    """
    count = asked(rows)
    lists = rows.select(range(count)).select_columns([HEADS, TAILS])
    both = [lists[column][:] for column in (HEADS, TAILS)]
    return np.array([[rank(scores[found], 0) for found in pair] for pair in zip(*both, strict=True)]).reshape(-1, 2)


def first_asked(rows: Dataset, most: int) -> Dataset:
    """The first of the triples that are asked for, with their candidates."""
    count = asked(rows)
    if count <= most:
        return rows
    lists = {column: rows[column][:most] for column in (HEADS, TAILS)}
    named = {at for found in lists.values() for places in found for at in places}
    kept = [*range(most), *sorted(at for at in named if at >= most)]
    moved = {at: new for new, at in enumerate(kept)}
    part = rows.select(kept)
    features = part.features
    for column, found in lists.items():
        values = [[moved[at] for at in places] for places in found] + [[]] * (len(kept) - most)
        part = part.remove_columns(column).add_column(column, values, feature=features[column])
    blank = [*part[ASKED][:most], *[[]] * (len(kept) - most)]
    part = part.remove_columns(ASKED).add_column(ASKED, blank, feature=features[ASKED])
    return part.select_columns(list(features))
