"""GLUE's metrics against explicit loops and closed forms, on fresh random inputs and at their edges."""

from __future__ import annotations

import math
import secrets
import warnings

import numpy as np
import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks import get_task
from kdzoo.tasks.glue import TASKS
from kdzoo.tasks.metrics import task_metric


def _counts(predicted, true):
    cells = {(p, t): 0 for p in (0, 1) for t in (0, 1)}
    for pair in zip(predicted.tolist(), true.tolist(), strict=True):
        cells[pair] += 1
    return cells[1, 1], cells[1, 0], cells[0, 1], cells[0, 0]  # true and false positives, false and true negatives


def _pearson(x, y):
    mean_x, mean_y = sum(x) / len(x), sum(y) / len(y)
    top = sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True))
    return top / math.sqrt(sum((a - mean_x) ** 2 for a in x) * sum((b - mean_y) ** 2 for b in y))


def _ranks(x):
    # A tie takes the mean of the ranks it spans.
    return [sum(b < a for b in x) + (sum(b == a for b in x) + 1) / 2 for a in x]


def _rng():
    seed = secrets.randbits(32)
    print("seed", seed)
    return np.random.default_rng(seed)


@pytest.mark.parametrize("task", ["cola", "mrpc", "qqp", "sst2", "rte", "qnli", "wnli"])
def test_two_classes_agree_with_counting(task):
    rng = _rng()
    true = rng.integers(0, 2, 300)
    predicted = np.where(rng.random(300) < 0.7, true, 1 - true)
    tp, fp, fn, tn = _counts(predicted, true)
    expected = {
        "accuracy": (tp + tn) / 300,
        "f1": 2 * tp / (2 * tp + fp + fn),
        "matthews_correlation": (tp * tn - fp * fn) / math.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)),
    }
    got = task_metric(get_task(task)).compute(predictions=predicted, references=true)
    assert set(got) == set(TASKS[task].metrics)
    assert got == pytest.approx({name: expected[name] for name in got})


def test_three_classes():
    rng = _rng()
    true, predicted = rng.integers(0, 3, (2, 200))
    got = task_metric(get_task("mnli")).compute(predictions=predicted, references=true)
    assert got == {"accuracy": pytest.approx(sum(p == t for p, t in zip(predicted, true, strict=True)) / 200)}


def test_correlations_agree_with_loops_under_ties():
    rng = _rng()
    true = (rng.integers(0, 26, 80) / 5).tolist()
    predicted = [round(t + n, 1) for t, n in zip(true, rng.normal(0, 1, 80), strict=True)]
    got = task_metric(get_task("stsb")).compute(predictions=predicted, references=true)
    expected = {"pearson": _pearson(predicted, true), "spearmanr": _pearson(_ranks(predicted), _ranks(true))}
    assert got == pytest.approx(expected)


@pytest.mark.parametrize("task", ["cola", "stsb", "mrpc"])
@pytest.mark.parametrize("value", [0, 1])
def test_constant_predictions_have_a_value_and_no_warning(task, value):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = task_metric(get_task(task)).compute(predictions=[value] * 6, references=[0, 1, 0, 1, 0, 0])
        both = task_metric(get_task(task)).compute(predictions=[value] * 3, references=[value] * 3)
    if task == "mrpc":
        assert got["f1"] == pytest.approx(value * 0.5)
    else:
        assert set(got.values()) == set(both.values()) == {0.0}


def test_nearly_constant_predictions_do_not_warn():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        got = task_metric(get_task("stsb")).compute(
            predictions=[1.0, 1.0 + 1e-15, 1.0, 1.0], references=[0.0, 5.0, 1.0, 2.0]
        )
    assert all(math.isfinite(value) for value in got.values())


def test_unknown_task_offers_the_nearest():
    with pytest.raises(KdzooError, match="did you mean 'stsb'"):
        get_task("sts-b")
