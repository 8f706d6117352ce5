"""The nine GLUE tasks.

Source: Wang et al. (2019), "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding",
Table 1 (tasks and metrics); field names and label ids are those of ``nyu-mll/glue`` on the Hugging Face Hub.
"""

from __future__ import annotations

from kdzoo.tasks.base import Task
from kdzoo.tasks.classification import Classification
from kdzoo.tasks.registry import built_in

_PAIR = ("sentence1", "sentence2")
_ACCURACY = ("accuracy",)
_F1 = ("f1", "accuracy")
_CORRELATION = ("pearson", "spearmanr")
_MATTHEWS = ("matthews_correlation",)

TASKS: dict[str, Task] = {
    task.name: built_in(task)
    for task in (
        Classification("cola", ("sentence",), ("unacceptable", "acceptable"), _MATTHEWS, _MATTHEWS),
        Classification("sst2", ("sentence",), ("negative", "positive"), _ACCURACY, _ACCURACY),
        Classification("mrpc", _PAIR, ("not_equivalent", "equivalent"), _F1, _F1),
        Classification("qqp", ("question1", "question2"), ("not_duplicate", "duplicate"), _F1, _F1),
        Classification("stsb", _PAIR, (), _CORRELATION, _CORRELATION, label_range=(0.0, 5.0)),
        Classification(
            "mnli",
            ("premise", "hypothesis"),
            ("entailment", "neutral", "contradiction"),
            _ACCURACY,
            _ACCURACY,
            validation_splits=("validation_matched", "validation_mismatched"),
        ),
        Classification("qnli", ("question", "sentence"), ("entailment", "not_entailment"), _ACCURACY, _ACCURACY),
        Classification("rte", _PAIR, ("entailment", "not_entailment"), _ACCURACY, _ACCURACY),
        Classification("wnli", _PAIR, ("not_entailment", "entailment"), _ACCURACY, _ACCURACY),
    )
}
