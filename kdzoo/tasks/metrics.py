"""GLUE's metrics as one `evaluate.Metric`, computed by scikit-learn and scipy with no download.

Source: Wang et al. (2019), "GLUE", Table 1; names and values are those of the hub's ``glue`` metric.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import datasets
import evaluate
import numpy as np
from scipy import stats
from sklearn import metrics as sklearn_metrics

from kdzoo.tasks.registry import get_task

_CITATION = "Wang et al. (2019). GLUE: A Multi-Task Benchmark and Analysis Platform. ICLR 2019. arXiv:1804.07461"


class GlueMetric(evaluate.Metric):
    """The metrics of one GLUE task.

    ``compute(predictions=..., references=...)`` takes class ids (N,), or scores (N,) for STS-B, and returns a float
    for each of the task's ``metric_names``. A correlation with a constant side, which has no value, is 0.

    Raises:
        KdzooError: there is no such task.
    """

    def __init__(self, task: str) -> None:
        self._task = get_task(task)
        super().__init__(config_name=task, keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        kind = datasets.Value("float64" if self._task.regression else "int64")
        return evaluate.MetricInfo(
            description="The metrics that GLUE scores the task by.",
            citation=_CITATION,
            inputs_description="predictions and references: class ids, or scores for a regression task.",
            features=datasets.Features({"predictions": kind, "references": kind}),
        )

    def _compute(self, predictions: list[float], references: list[float]) -> dict[str, float]:
        return measure(self._task.name, np.asarray(predictions), np.asarray(references))


def measure(task: str, predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """The same without `evaluate` around it, for those who compute it often.

    Args:
        task: its name.
        predicted, true: (N,) class ids, or scores.
    """
    return {name: float(_METRICS[name](predicted, true)) for name in get_task(task).metric_names}


def _accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    return sklearn_metrics.accuracy_score(true, predicted)


def _f1(predicted: np.ndarray, true: np.ndarray) -> float:
    return sklearn_metrics.f1_score(true, predicted, zero_division=0.0)


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    if _constant(predicted) or _constant(true):
        return 0.0
    return sklearn_metrics.matthews_corrcoef(true, predicted)


def _correlation(measure: Callable[..., Any]) -> Callable[[np.ndarray, np.ndarray], float]:
    def compute(predicted: np.ndarray, true: np.ndarray) -> float:
        if _constant(predicted) or _constant(true):
            return 0.0
        with warnings.catch_warnings():
            # A nearly constant prediction is a weak model, which its value says already.
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            return float(measure(predicted, true).statistic)

    return compute


_METRICS = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews_correlation": _matthews,
    "pearson": _correlation(stats.pearsonr),
    "spearmanr": _correlation(stats.spearmanr),
}
