"""The nine GLUE tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
from kdzoo.tasks.base import Task

_PAIR = ("sentence1", "sentence2")
_ACCURACY = ("accuracy",)
_F1 = ("f1", "accuracy")
_CORRELATION = ("pearson", "spearmanr")
_MATTHEWS = ("matthews_correlation",)

TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("cola", ("sentence",), ("unacceptable", "acceptable"), _MATTHEWS, _MATTHEWS),
        Task("sst2", ("sentence",), ("negative", "positive"), _ACCURACY, _ACCURACY),
        Task("mrpc", _PAIR, ("not_equivalent", "equivalent"), _F1, _F1),
        Task("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1, _F1),
        Task("stsb", _PAIR, (), _CORRELATION, _CORRELATION, label_range=(0.0, 5.0)),
        Task(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            _ACCURACY,
            _ACCURACY,
            validation_splits=("validation_matched", "validation_mismatched"),
        ),
        Task("qnli", ("question", "sentence"), ("entailment", "not_entailment"), _ACCURACY, _ACCURACY),
        Task("rte", _PAIR, ("entailment", "not_entailment"), _ACCURACY, _ACCURACY),
        Task("wnli", _PAIR, ("not_entailment", "entailment"), _ACCURACY, _ACCURACY),
    )
}
