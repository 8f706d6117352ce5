"""What knows nothing scores: the larger class's score beside the methods', and the models that are no better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report.folds import parts_of
from kdzoo.bench.report.uncertainty import Bootstrap

Record = dict[str, Any]
_RANKINGS = ("ranking", "sampled_ranking")


class Guess:
    """A constant prediction of each task: the most frequent class, the mean of numbers, the usual order of candidates.

    Of the training rows, where the teacher's record has its score; in older ones of the validation rows.

    Args:
        records: of a comparison.

    Attributes:
        name: of its row: ``larger class``, ``mean``, ``most frequent first``, or several where the tasks are of several
            kinds.
        scores: by task.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.scores: dict[str, float] = {}
        names: dict[str, None] = {}
        for record in records:
            if record["method"] != TEACHER or not record.get("references") or record["task"] in self.scores:
                continue
            ranked = record.get("kind") in _RANKINGS  # whose references are triples, and no numbers to take a mean of
            known = None if ranked else _constant(record["references"])
            score = record.get("guess", {}).get("score")
            if score is None and known is not None:
                score = _score(record, known[1])
            if score is not None:
                name = "most frequent first" if ranked else known[0] if known else "constant guess"
                names[name] = None
                self.scores[record["task"]] = score
        self.name = " or ".join(names)


def _score(record: Record, answer: Any) -> float | None:
    """What an answer scores that is the same for every row of a record's references."""
    constant = {split: [answer] * len(of) for split, of in record["references"].items()}
    found = Bootstrap([record | {"predictions": constant}], resamples=2).score(record["method"], record["task"])
    return None if found is None else found.value


def _constant(references: dict[str, list[Any]]) -> tuple[str, Any] | None:
    """What is guessed without looking at a row, and what it is called; None for answers of another form."""
    rows = [answer for of in references.values() for answer in of]
    # Text is no number, even where it reads as one: "1990" is an answer to a question.
    if any(isinstance(value, str) for row in rows for value in (row if isinstance(row, list) else [row])):
        return None
    try:
        values = np.asarray(rows, dtype=float)
    except (TypeError, ValueError):  # rows of different lengths
        return None
    if values.ndim not in (1, 2) or not values.size:
        return None
    if values.ndim == 2:
        whole = bool(np.isin(values, (0, 1)).all())
        answer = np.round(values.mean(0)) if whole else values.mean(0)
        return ("usual labels" if whole else "mean"), answer.tolist()
    if not (values == np.round(values)).all():
        return "mean", float(values.mean())
    classes, times = np.unique(values, return_counts=True)
    return ("larger class" if len(classes) < 3 else "largest class"), float(classes[times.argmax()])


def one_answer(record: Record) -> str:
    """What a model that predicts the same for every row of a split is said to predict; empty for all others."""
    if record.get("one_class"):
        return "one class"
    splits = [of for of in record.get("predictions", {}).values() if len(of) > 1]
    tags = {tag for of in splits for row in of if isinstance(row, list) for tag in row if isinstance(tag, str)}
    if tags:
        return "one tag" if len(tags) == 1 else ""
    if not splits or any(row != of[0] for of in splits for row in of):
        return ""
    first = splits[0][0]
    if isinstance(first, str):
        return "one answer"
    whole = not isinstance(first, list) and float(first).is_integer()
    return "one class" if whole else "one value"


def one_answer_note(records: Sequence[Record]) -> str:
    """The same of a method's records on a task: ``one class``, ``one class in 2 of 3``, or nothing."""
    trained = [part for record in records for part in parts_of(record)]
    found = [answer for answer in map(one_answer, trained) if answer]
    if not found:
        return ""
    return found[0] + (f" in {len(found)} of {len(trained)}" if len(found) < len(trained) else "")
