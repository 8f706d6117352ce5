"""Every metric, once: its value on all rows, and its value on many resamples of them at once.

Source of GLUE's: Wang et al. (2019), "GLUE", Table 1; names and values are those of the hub's ``glue`` metric. The
others are scikit-learn's and scipy's under their names there.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks import generation_scores, resampling
from kdzoo.tasks.answer_scores import answer_score, factoid_scores, normalize_answer, squad_scores, version_for
from kdzoo.tasks.entity_scores import entity_counts, entity_f1
from kdzoo.tasks.ranking import rank, ranking_scores
from kdzoo.tasks.relation_scores import MICRO, relation_f1, semeval_f1, specificity

__all__ = [
    "METRICS",
    "Metric",
    "additive",
    "decided",
    "entity_f1",
    "factoid_scores",
    "get_metric",
    "normalize_answer",
    "rank",
    "ranking_scores",
    "relation_f1",
    "resampled_values",
    "semeval_f1",
    "specificity",
    "squad_scores",
    "task_metric",
    "value",
]

FACTOID = {"strict_accuracy": "strict", "lenient_accuracy": "lenient", "mrr": "mrr"}  # of answers pooled by question
BINARY = ("f1", "precision", "recall", "specificity")  # of two classes: of class 1, the second of the labels
_OF_CLASSES = re.compile(r"(relation_(?:f1|precision|recall)|semeval_f1)\[([-+,\d]+)\]")
Values = Any  # (N,) or (N, C) numbers by row, or a list of what a task predicts by unit


@dataclass(frozen=True)
class Metric:
    """A metric.

    Attributes:
        name: as records have it.
        compute: its value, from predictions and references by unit.
        resampled: its value for M cells on R resamples, (M, R), from predictions (M, N) or (M, N, C), references (N,)
            or (N, C) and how often each resample drew each row (R, N), all floats; None where it is computed anew on
            each resample.
        greater_is_better: False for an error, which no headline can be made of.
        takes_scores: True where it needs probabilities and not the classes they give.
    """

    name: str
    compute: Callable[[Values, Values], float]
    resampled: Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray] | None = None
    greater_is_better: bool = True
    takes_scores: bool = False

    def on_resamples(self, predictions: Any, references: Any, drawn: np.ndarray) -> np.ndarray:
        """The values of M cells on R resamples, (M, R).

        Args:
            predictions: by cell, then by unit.
            references: by unit.
            drawn: (R, N), how often each resample drew each unit.
        """
        if self.resampled is not None:
            return self.resampled(np.asarray(predictions, dtype=float), np.asarray(references, dtype=float), drawn)
        rows = [np.repeat(np.arange(len(times)), times) for times in drawn.astype(int)]
        true = [_taken(references, at) for at in rows]
        return np.array(
            [[self.compute(_taken(one, at), t) for at, t in zip(rows, true, strict=True)] for one in predictions]
        )


def additive(
    name: str,
    statistics: Callable[[Values, Values], np.ndarray],
    reduce: Callable[[np.ndarray], np.ndarray],
    **more: Any,
) -> Metric:
    """A metric that depends on sums over units alone, so that resampling is one matrix product.

    Args:
        name: of the metric.
        statistics: (N, k) floats, what each unit adds.
        reduce: the values (...) from sums (..., k).
        more: further fields of `Metric`.
    """

    def compute(predictions: Values, references: Values) -> float:
        return float(reduce(np.asarray(statistics(predictions, references), dtype=float).sum(0)))

    def on_resamples(predictions: Any, references: Any, drawn: np.ndarray) -> np.ndarray:
        return np.stack([reduce(drawn @ np.asarray(statistics(one, references), dtype=float)) for one in predictions])

    return _Additive(name, compute, on_resamples, **more)


class _Additive(Metric):
    """One whose predictions need not be numbers."""

    def on_resamples(self, predictions: Any, references: Any, drawn: np.ndarray) -> np.ndarray:
        assert self.resampled is not None
        return self.resampled(predictions, references, drawn)


def _taken(values: Any, rows: np.ndarray) -> Any:
    return [values[row] for row in rows] if isinstance(values, list) else np.asarray(values)[rows]


def get_metric(name: str, kind: str) -> Metric:
    """The metric of that name for a kind of task.

    Args:
        name: a metric's name, or ``package.module:function`` for a function of one's own, which is given predictions
            and references and returns a number, greater for better.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``, or another key of `METRICS`.

    Raises:
        KdzooError: there is none of that name for the kind, or the function cannot be imported.
    """
    if ":" in name and name.partition(":")[0] not in MICRO:
        return Metric(name, _own(name))
    if kind not in METRICS:
        raise unknown("kind of task", kind, METRICS)
    if kind == "classification" and (found := _OF_CLASSES.fullmatch(name)):
        return _relation_metric(name, found[1], found[2])
    if name not in METRICS[kind]:
        elsewhere = [other for other in METRICS if name in METRICS[other]]
        if elsewhere:
            known = ", ".join(METRICS[kind])
            raise KdzooError(f"the metric {name!r} is for {' and '.join(elsewhere)}; for {kind} there are {known}")
        raise unknown(f"metric for {kind}", name, METRICS[kind])
    return METRICS[kind][name]


def value(name: str, kind: str, predictions: Values, references: Values) -> float:
    """A metric's value on all units; probabilities become the classes they give where the metric takes those."""
    metric = get_metric(name, kind)
    return metric.compute(predictions if metric.takes_scores else decided(kind, predictions), references)


def resampled_values(name: str, kind: str, predictions: Any, references: Any, drawn: np.ndarray) -> np.ndarray:
    """The values of M cells on R resamples, (M, R); see `Metric.on_resamples`."""
    metric = get_metric(name, kind)
    if not metric.takes_scores:
        predictions = [decided(kind, one) for one in predictions]
    return metric.on_resamples(predictions, references, drawn)


def decided(kind: str, predictions: Values) -> Values:
    """What is predicted, from probabilities (N, C) of classes or of labels; other predictions as they are."""
    if kind == "classification" and np.ndim(predictions) == 2:
        return np.asarray(predictions).argmax(-1)
    if kind == "multilabel":
        return (np.asarray(predictions) >= 0.5).astype(int)
    return predictions


def _own(name: str) -> Callable[[Values, Values], float]:
    """A user's function, by module and name."""
    module, _, attribute = name.partition(":")
    here = os.getcwd()  # the command may lie elsewhere, and Python looks beside it alone
    sys.path.append(here)
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # whatever a user's module raises
        raise KdzooError(
            f"the metric {name!r} cannot be imported: {type(error).__name__}: {error}; give package.module:function"
        ) from None
    finally:
        sys.path.remove(here)
    if not callable(function):
        raise KdzooError(f"the metric {name!r} is no function, but {type(function).__name__}")

    def compute(predictions: Values, references: Values) -> float:
        try:
            value = function(predictions, references)
        except Exception as error:  # whatever a user's function raises
            raise KdzooError(f"the metric {name!r} fails: {type(error).__name__}: {error}") from error
        try:
            number = float(value)
        except (TypeError, ValueError):
            raise KdzooError(f"the metric {name!r} gave {value!r}; it must return one number") from None
        if not np.isfinite(number):
            raise KdzooError(f"the metric {name!r} gave {number}; it must return a finite number")
        return number

    return compute


# --- values ---


def _sklearn(function: str, **options: Any) -> Callable[[Values, Values], float]:
    """A metric of scikit-learn's, which is imported when it is first computed."""

    def compute(predicted: Values, true: Values) -> float:
        from sklearn import metrics

        return float(getattr(metrics, function)(true, predicted, **options))

    return compute


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    if _constant(np.asarray(predicted)) or _constant(np.asarray(true)):
        return 0.0
    return _sklearn("matthews_corrcoef")(predicted, true)


def _correlation(function: str) -> Callable[[Values, Values], float]:
    """scipy's, 0 with a constant side, which has no value; of several targets the mean."""

    def compute(predicted: Values, true: Values) -> float:
        from scipy import stats

        predicted, true = np.asarray(predicted), np.asarray(true)
        if predicted.ndim == 2:
            return float(np.mean([compute(p, t) for p, t in zip(predicted.T, true.T, strict=True)]))
        if _constant(predicted) or _constant(true):
            return 0.0
        with warnings.catch_warnings():
            # A nearly constant prediction is a weak model, which its value says already.
            warnings.simplefilter("ignore", stats.NearConstantInputWarning)
            return float(getattr(stats, function)(predicted, true).statistic)

    return compute


def _roc_auc(scores: np.ndarray, true: np.ndarray) -> float:
    """The mean over labels (one against the rest) of the area under the ROC curve; labels that never vary left out."""
    found = [_area(own, of) for own, of in _by_label(np.asarray(scores), np.asarray(true)) if not _constant(of)]
    return float(np.mean(found)) if found else 0.0


def _area(scores: np.ndarray, true: np.ndarray) -> float:
    return _sklearn("roc_auc_score")(scores, true)


def _by_label(scores: np.ndarray, true: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each label's scores (..., N) and whether a row has it (N,), from probabilities (..., N, C)."""
    if true.ndim == 2:
        return [(scores[..., at], true[:, at]) for at in range(true.shape[1])]
    if scores.shape[-1] == 2:  # of two classes one says all
        return [(scores[..., 1], (true == 1).astype(float))]
    return [(scores[..., at], (true == at).astype(float)) for at in range(scores.shape[-1])]


def _f1(average: str) -> Callable[[Values, Values], float]:
    return _sklearn("f1_score", average=average, zero_division=0.0)


def _entity_counts(strict: bool, predictions: Values, references: Values) -> np.ndarray:
    """By sentence (N, T * 3): entities that are right, predicted and there, of each type."""
    counts = np.stack(entity_counts(references, predictions, strict), axis=-1)
    return counts.reshape(len(counts), -1)


def _of_entities(what: str, sums: np.ndarray) -> np.ndarray:
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    if what == "macro_f1":  # over the types that either side has
        either = counts[..., 1] + counts[..., 2]
        each = 2 * counts[..., 0] / np.maximum(either, 1)
        return np.asarray(each.sum(-1) / np.maximum((either > 0).sum(-1), 1))
    right, predicted, there = np.moveaxis(counts.sum(-2), -1, 0)
    over = {"precision": predicted, "recall": there, "f1": (predicted + there) / 2}[what]
    return np.asarray(np.where(over > 0, right / np.where(over > 0, over, 1.0), 0.0))


def _answer_scores(place: int, predictions: Values, references: Values) -> np.ndarray:
    """By question (N, 2): its exact match or F1, and 1."""
    version = version_for(references)
    scores = [answer_score(guess, golds, version)[place] for guess, golds in zip(predictions, references, strict=True)]
    return np.stack([scores, np.ones(len(scores))], axis=1)


def _factoid_scores(name: str, predictions: Values, references: Values) -> np.ndarray:
    """By question (N, 2): what its answers, best first, score by BioASQ's measure, and 1."""
    pairs = zip(predictions, references, strict=True)
    scores = [factoid_scores({"": answers}, {"": golds})[name] for answers, golds in pairs]
    return np.stack([scores, np.ones(len(scores))], axis=1)


def _mean(sums: np.ndarray) -> np.ndarray:
    """The mean of scores by unit, from sums of the scores and of ones."""
    return np.asarray(sums[..., 0] / np.maximum(sums[..., 1], 1))


def _rank_sums(predictions: Values, references: Values) -> np.ndarray:
    """By unit (N, 6): sums over its ranks of rank, 1 / rank, and of whether it is up to 1, 3 and 10; their number."""
    ranks = np.asarray(predictions, dtype=float)
    ranks = ranks.reshape(len(ranks), -1)
    parts = [ranks, 1 / ranks, *(ranks <= most for most in (1, 3, 10)), np.ones_like(ranks)]
    return np.stack([part.sum(1) for part in parts], axis=1)


def _of_ranks(place: int, sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., place] / np.maximum(sums[..., 5], 1))


def _ranking(before: str = "") -> tuple[Metric, ...]:
    """What link prediction reports, `kdzoo.tasks.ranking.ranking_scores`; of ranks by unit (N,) or (N, k)."""
    names = ("mr", "mrr", "hits@1", "hits@3", "hits@10")
    return tuple(
        additive(f"{before}{name}", _rank_sums, partial(_of_ranks, place), greater_is_better=name != "mr")
        for place, name in enumerate(names)
    )


def _relation_metric(name: str, plain: str, classes: str) -> Metric:
    """Micro over chosen classes, or SemEval's macro over relations, from class ids (`metric_of_labels`)."""
    if plain != "semeval_f1":
        chosen = [int(one) for one in classes.split("+")]
        what = {"relation_f1": "f1"}.get(plain, plain.removeprefix("relation_"))
        return additive(name, partial(_relation_counts, [chosen]), partial(_of_entities, what))
    relations = classes.split(",")
    groups = [
        [at for at, one in enumerate(relations) if one == str(number)] for number in range(len({*relations} - {"-"}))
    ]

    def reduce(sums: np.ndarray) -> np.ndarray:
        counts = sums.reshape(*sums.shape[:-1], -1, 3)
        each = 2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)
        there = counts[..., 2] > 0  # as in the official scorer, over the relations that the references have
        return np.asarray((each * there).sum(-1) / np.maximum(there.sum(-1), 1))

    return additive(name, partial(_relation_counts, groups), reduce)


def _relation_counts(groups: list[list[int]], predictions: Values, references: Values) -> np.ndarray:
    """By row (N, G * 3): whether its class is right, predicted and there, of each group of classes."""
    guessed, true = np.asarray(predictions), np.asarray(references)
    right = guessed == true
    counts = []
    for classes in groups:
        there = np.isin(true, classes)
        counts += [right & there, np.isin(guessed, classes), there]
    return np.stack(counts, axis=1).astype(float)


def _table(*metrics: Metric) -> dict[str, Metric]:
    return {metric.name: metric for metric in metrics}


_R = resampling
_G = generation_scores
_AREA = Metric("roc_auc", _roc_auc, partial(_R.roc_auc, _by_label), takes_scores=True)

METRICS: dict[str, dict[str, Metric]] = {
    "classification": _table(
        Metric("accuracy", _sklearn("accuracy_score"), _R.accuracy),
        Metric("f1", _f1("binary"), _R.f1),
        Metric("precision", _sklearn("precision_score", zero_division=0.0), _R.precision),
        Metric("recall", _sklearn("recall_score", zero_division=0.0), _R.recall),
        Metric("specificity", _sklearn("recall_score", pos_label=0, zero_division=0.0), _R.specificity),
        Metric("macro_f1", _f1("macro"), partial(_R.f1_over_classes, "macro")),
        Metric("micro_f1", _f1("micro"), _R.accuracy),
        Metric("weighted_f1", _f1("weighted"), partial(_R.f1_over_classes, "weighted")),
        Metric("matthews_correlation", _matthews, _R.matthews),
        _AREA,
    ),
    "multilabel": _table(
        Metric("micro_f1", _f1("micro"), partial(_R.f1_over_labels, "micro")),
        Metric("macro_f1", _f1("macro"), partial(_R.f1_over_labels, "macro")),
        Metric("weighted_f1", _f1("weighted"), partial(_R.f1_over_labels, "weighted")),
        Metric("accuracy", _sklearn("accuracy_score"), _R.accuracy),  # of whole rows
        _AREA,
    ),
    "tokens": _table(
        *(
            additive(name, partial(_entity_counts, strict), partial(_of_entities, what))
            for name, what, strict in (
                ("entity_f1", "f1", False),
                ("precision", "precision", False),
                ("recall", "recall", False),
                ("macro_f1", "macro_f1", False),
                ("strict_f1", "f1", True),  # an I that opens no entity is none
            )
        )
    ),
    "spans": _table(
        *(additive(name, partial(_answer_scores, place), _mean) for place, name in enumerate(("exact_match", "f1"))),
        *(additive(name, partial(_factoid_scores, of), _mean) for name, of in FACTOID.items()),
    ),
    "seq2seq": _table(
        *(additive(name, partial(_G.sacre_statistics, name), partial(_G.sacre_score, name)) for name in _G.SACRE),
        *(additive(name, partial(_G.rouge_statistics, name), _mean) for name in _G.ROUGES),
        additive("exact_match", _G.match_statistics, _mean),
    ),
    "ranking": _table(*_ranking()),
    "sampled_ranking": _table(*_ranking("sampled_")),  # among a sample of the candidates: smaller and better ranks
    "regression": _table(
        Metric("pearson", _correlation("pearsonr"), partial(_R.over_targets, _R.pearson)),
        Metric("spearmanr", _correlation("spearmanr"), partial(_R.over_targets, _R.spearman)),
        Metric("mse", _sklearn("mean_squared_error"), partial(_R.over_targets, _R.mse), greater_is_better=False),
        Metric("mae", _sklearn("mean_absolute_error"), partial(_R.over_targets, _R.mae), greater_is_better=False),
        Metric("r2", _sklearn("r2_score"), partial(_R.over_targets, _R.r2)),
    ),
}


def task_metric(task: Any) -> Any:
    """A task's metrics as one `evaluate.Metric`, for those who have their evaluation in that form; no download.

    ``compute(predictions=..., references=...)`` returns a float for each of the task's metrics.

    Args:
        task: a `kdzoo.tasks.base.Task` whose predictions are numbers.
    """
    import datasets
    import evaluate

    class TaskMetric(evaluate.Metric):
        def _info(self) -> Any:
            return evaluate.MetricInfo(
                description=f"The metrics that {task.name} is scored by.",
                citation="",
                inputs_description="predictions and references: class ids, or scores for a regression task.",
                features=datasets.Features(dict.fromkeys(("predictions", "references"), task.value_feature())),
            )

        def _compute(self, predictions: Any, references: Any) -> Mapping[str, float]:
            found: Mapping[str, float] = task.evaluate(np.asarray(predictions), np.asarray(references))
            return found

    return TaskMetric(config_name=task.name, keep_in_memory=True)
