"""Entity F1 of tagged sentences, by seqeval."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.bio import check_tags

Entity = tuple[str, int, int]  # its type, first and last word


class EntityCounts(NamedTuple):
    """By sentence and type, (N, T): how many entities are right, predicted, and there."""

    right: np.ndarray
    predicted: np.ndarray
    there: np.ndarray


def entity_counts(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], strict: bool = False
) -> EntityCounts:
    """What `entity_f1` is made of, by sentence, so that it can be had of any resample of the sentences.

    Args:
        references, predictions, strict: see `entity_f1`; the tags' form is taken to be checked.

    Raises:
        KdzooError: a sentence has other numbers of tags on the two sides.
    """
    sides = []
    for number, (true, guess) in enumerate(zip(references, predictions, strict=True), 1):
        if len(true) != len(guess):
            raise KdzooError(f"sentence {number} has {len(true)} reference tags and {len(guess)} predicted ones")
        sides.append((_entities(tuple(true), strict), _entities(tuple(guess), strict)))
    types = sorted({entity[0] for pair in sides for side in pair for entity in side})
    place = {name: at for at, name in enumerate(types)}
    counts = np.zeros((3, len(sides), len(types)))
    for row, (true_entities, guessed) in enumerate(sides):
        for at, found in enumerate((true_entities & guessed, guessed, true_entities)):
            for entity in found:
                counts[at, row, place[entity[0]]] += 1
    return EntityCounts(*counts)


@lru_cache(maxsize=1 << 17)
def _entities(tags: tuple[str, ...], strict: bool) -> frozenset[Entity]:
    """The entities of a sentence; remembered, for the same sentences come with every method and seed."""
    from seqeval.metrics.sequence_labeling import get_entities
    from seqeval.scheme import IOB2, Entities

    if not strict:
        return frozenset(get_entities(list(tags)))
    found = Entities([list(tags)], IOB2).entities[0]
    return frozenset((entity.tag, entity.start, entity.end - 1) for entity in found)


def entity_f1(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]], strict: bool = False
) -> dict[str, float]:
    """Precision, recall and F1 of entities, an entity being (sentence, type, first word, last word).

    Args:
        references, predictions: one list of BIO tags a sentence; sentences that were cut apart are joined first.
        strict: as IOB2 has it, an I that follows O or another type is no entity's beginning and opens none. By
            default it opens one, as in conlleval.

    Returns:
        ``precision``, ``recall`` and ``f1``, micro over the corpus, and ``macro_f1``, the mean over the types that
        either side has. What would divide by zero is 0.

    Raises:
        KdzooError: no sentence at all, sides of different lengths, a tag that is no BIO, or ``B`` and ``I`` without
            a type beside others with one: seqeval takes them for a type "_" of their own, so they never match.

    Source: seqeval's default and strict IOB2 modes; Tjong Kim Sang and De Meulder (2003) for conlleval.
    """
    try:
        from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
        from seqeval.metrics.v1 import precision_recall_fscore_support as strict_scores
        from seqeval.scheme import IOB2
    except ImportError as error:
        raise KdzooError(f"entity F1 needs seqeval ({error}): pip install 'kdzoo[bench]'") from error
    true, predicted = _checked(references, predictions)
    found = {tag for side in (true, predicted) for tags in side for tag in tags}
    bare = sorted(found & {"B", "I"})
    if bare and found - {"B", "I", "O"}:
        other = min(found - {"B", "I", "O"})
        raise KdzooError(f"tags without a type ({', '.join(bare)}) beside tags with one ({other}) never match; name it")
    # The micro average of nothing is 0 / 0, and the macro average has no type to run over.
    if not found - {"O"}:
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}
    if strict and not _opens(found):
        return {"precision": 0.0, "recall": 0.0, "f1": 0.0, "macro_f1": 0.0}

    def scores(average: str) -> list[float]:
        if strict:
            found = strict_scores(true, predicted, average=average, scheme=IOB2, zero_division=0)
        else:
            found = precision_recall_fscore_support(true, predicted, average=average, zero_division=0)
        return [float(value) for value in found[:3]]

    precision, recall, f1 = scores("micro")
    return {"precision": precision, "recall": recall, "f1": f1, "macro_f1": scores("macro")[2]}


def _opens(tags: set[str]) -> bool:
    """Whether there is a tag that opens an entity in the strict reading."""
    return any(tag.startswith("B") for tag in tags)


def _checked(
    references: Sequence[Sequence[str]], predictions: Sequence[Sequence[str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Both sides as the lists of lists that seqeval insists on."""
    if len(references) != len(predictions):
        raise KdzooError(f"{len(references)} sentences of references and {len(predictions)} of predictions")
    if not len(references):
        raise KdzooError("no sentence to score")
    true, predicted = ([[*tags] for tags in side] for side in (references, predictions))
    for number, (one, other) in enumerate(zip(true, predicted, strict=True), 1):
        if isinstance(references[number - 1], str) or isinstance(predictions[number - 1], str):
            raise KdzooError(f"sentence {number} is one string; expected a list of tags for every sentence")
        if len(one) != len(other):
            raise KdzooError(f"sentence {number} has {len(one)} reference tags and {len(other)} predicted ones")
        check_tags(one, f"references, sentence {number}")
        check_tags(other, f"predictions, sentence {number}")
    return true, predicted
