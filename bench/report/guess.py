"""What knows nothing scores: the larger class's score beside the methods', and the models that are no better."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report.uncertainty import Bootstrap

Record = dict[str, Any]


class Guess:
    """A constant prediction of each task whose references are kept: the most frequent class, the mean of numbers.

    Args:
        records: of a comparison.

    Attributes:
        name: of its row: ``larger class``, ``mean``, or both where the tasks are of both kinds.
        records: by task, a record as a method's would be, with its score.
    """

    def __init__(self, records: Sequence[Record]) -> None:
        self.records: dict[str, Record] = {}
        names: dict[str, None] = {}
        for record in records:
            if record["method"] != TEACHER or not record.get("references") or record["task"] in self.records:
                continue
            found = _constant(record["references"])
            if found is None:
                continue
            name, answer = found
            names[name] = None
            own = {"task": record["task"], "method": name, "seed": 0, "references": record["references"],
                   "predictions": {s: [answer] * len(of) for s, of in record["references"].items()}}  # fmt: skip
            score = Bootstrap([own], resamples=2).score(name, record["task"])
            if score is not None:
                self.records[record["task"]] = own | {"score": score.value}
        self.name = " or ".join(names)

    @property
    def scores(self) -> dict[str, float]:
        """By task."""
        return {task: record["score"] for task, record in self.records.items()}


def _constant(references: dict[str, list[Any]]) -> tuple[str, Any] | None:
    """What is guessed without looking at a row, and what it is called; None for answers of another form."""
    rows = [answer for of in references.values() for answer in of]
    try:
        values = np.asarray(rows, dtype=float)
    except (TypeError, ValueError):  # rows of different lengths, or text
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
    splits = [of for of in record.get("predictions", {}).values() if len(of) > 1]
    if not splits or any(row != of[0] for of in splits for row in of):
        return ""
    first = splits[0][0]
    whole = not isinstance(first, list) and float(first).is_integer()
    return "one class" if whole else "one value"


def one_answer_note(records: Sequence[Record]) -> str:
    """The same of a method's records on a task: ``one class``, ``one class in 2 of 3``, or nothing."""
    found = [answer for answer in map(one_answer, records) if answer]
    if not found:
        return ""
    return found[0] + (f" in {len(found)} of {len(records)}" if len(found) < len(records) else "")
