"""F1 of relations: micro over chosen classes, and SemEval-2010 task 8's official score."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from typing import Any, TypeVar

from kdzoo.errors import KdzooError, unknown

_DIRECTED = re.compile(r"(.+)\((e1,e2|e2,e1)\)", re.DOTALL)
OTHER = "Other"
MICRO = ("relation_f1", "relation_precision", "relation_recall")
T = TypeVar("T")


def relation_f1(
    references: Sequence[Hashable], predictions: Sequence[Hashable], positive: Iterable[Hashable] | Hashable
) -> dict[str, float]:
    """Micro precision, recall and F1 over the positive classes.

    A class that is not positive, such as "no relation", is no class of its own, but a row confused with it counts:
    predicted in place of a positive class it is a false negative, the other way round a false positive.

    Args:
        references, predictions: one class a row.
        positive: the classes that count, or a single one.

    Returns:
        ``precision``, ``recall`` and ``f1``; what would divide by zero is 0.

    Raises:
        KdzooError: no row, sides of different lengths, or no positive class.

    Source: Krallinger et al. (2017), the ChemProt track of BioCreative VI.
    """
    counted = _classes(positive)
    references, predictions = _checked(references, predictions)
    pairs = list(zip(references, predictions, strict=True))
    right = sum(true == guess and true in counted for true, guess in pairs)
    claimed = sum(guess in counted for _, guess in pairs)
    there = sum(true in counted for true, _ in pairs)
    precision, recall = _ratio(right, claimed), _ratio(right, there)
    return {"precision": precision, "recall": recall, "f1": _ratio(2 * right, claimed + there)}


def specificity(
    references: Sequence[Hashable], predictions: Sequence[Hashable], positive: Iterable[Hashable] | Hashable
) -> float:
    """The share of the rows of no positive class that are predicted so, 0 without such rows.

    Raises:
        KdzooError: as :func:`relation_f1`.
    """
    counted = _classes(positive)
    references, predictions = _checked(references, predictions)
    negative = [guess for true, guess in zip(references, predictions, strict=True) if true not in counted]
    return _ratio(sum(guess not in counted for guess in negative), len(negative))


def semeval_f1(references: Sequence[str], predictions: Sequence[str]) -> float:
    """SemEval-2010 task 8's official score in percent: (9+1)-way macro F1 with the direction taken into account.

    A relation in the wrong direction is wrong, yet counts as predicted; ``Other`` is left out. As in the official
    scorer the mean runs over the relations that the references have: all nine in the real test set.

    Args:
        references, predictions: ``"Cause-Effect(e1,e2)"`` and the like, or ``"Other"``.

    Raises:
        KdzooError: no row, sides of different lengths, a label of another form, or references that are all ``Other``.

    Source: Hendrickx et al. (2010) and its scorer, version 1.2.
    """
    references, predictions = _checked(references, predictions)
    true = [_relation(label, f"references, row {row}") for row, label in enumerate(references, 1)]
    guessed = [_relation(label, f"predictions, row {row}") for row, label in enumerate(predictions, 1)]
    there, claimed = Counter(true), Counter(guessed)
    right = Counter(
        relation
        for relation, one, other in zip(true, references, predictions, strict=True)
        if one == other and relation != OTHER
    )
    relations = sorted(set(true) - {OTHER})
    if not relations:
        raise KdzooError(f"every reference is {OTHER!r}: there is no relation to average over")
    return sum(200.0 * right[name] / (claimed[name] + there[name]) for name in relations) / len(relations)


def metric_of_labels(name: str, labels: Sequence[str]) -> str:
    """A metric's name with the numbers of the classes that it depends on, so that it can be had of class ids alone.

    Args:
        name: ``"relation_f1:A+B"`` (or ``relation_precision``, ``relation_recall``), micro over the classes A and B, or
            ``"semeval_f1"``; other names stay as they are.
        labels: the task's.

    Returns:
        ``"relation_f1[1+2]"`` or ``"semeval_f1[0,0,1,1,-]"``: by class its relation, and - for Other.

    Raises:
        KdzooError: a class is none of the task's, or none is named; a label is of another form than SemEval's.
    """
    plain, _, classes = name.partition(":")
    if plain in MICRO:
        names = [one for one in classes.split("+") if one]
        if not names:
            raise KdzooError(f"{plain} counts the classes that are named after it: {plain}:{labels[0]}+{labels[-1]}")
        for one in names:
            if one not in labels:
                raise unknown(f"class in {name}", one, labels)
        return f"{plain}[{'+'.join(str(labels.index(one)) for one in names)}]"
    if name == "semeval_f1":
        found = [_relation(label, f"class {number}") for number, label in enumerate(labels)]
        there = sorted(set(found) - {OTHER})
        if not there:
            raise KdzooError("semeval_f1 needs a relation beside Other among the classes")
        return f"semeval_f1[{','.join('-' if one == OTHER else str(there.index(one)) for one in found)}]"
    return name


def _relation(label: str, where: str) -> str:
    if label == OTHER:
        return OTHER
    found = _DIRECTED.fullmatch(label) if isinstance(label, str) else None
    if not found:
        raise KdzooError(f"{where}: {label!r}; expected 'Relation(e1,e2)', 'Relation(e2,e1)' or {OTHER!r}")
    return found[1]


def _classes(positive: Iterable[Hashable] | Hashable) -> set[Hashable]:
    if isinstance(positive, str) or not isinstance(positive, Iterable):
        return {positive}
    counted = set(_plain(positive))
    if not counted:
        raise KdzooError("no positive class; name the classes that count")
    return counted


def _checked(references: Sequence[T], predictions: Sequence[T]) -> tuple[list[T], list[T]]:
    if len(references) != len(predictions):
        raise KdzooError(f"{len(references)} references and {len(predictions)} predictions")
    if not len(references):
        raise KdzooError("no row to score")
    return _plain(references), _plain(predictions)


def _plain(values: Any) -> list[Any]:
    """A list; the members of tensors and arrays as numbers, since tensors that are equal do not hash alike."""
    return list(values.tolist() if hasattr(values, "tolist") else values)


def _ratio(part: float, total: float) -> float:
    return part / total if total else 0.0
