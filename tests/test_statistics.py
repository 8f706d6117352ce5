"""Intervals, marks and ranks against direct computations, and the columns they add to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import SIZES, Commands
from scikit_posthocs import posthoc_nemenyi_friedman
from scipy import stats
from statsmodels.stats.multitest import multipletests

from kdzoo import KdzooError
from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.guess import Guess, _constant, one_answer
from kdzoo.bench.report.ranking import ranking
from kdzoo.bench.report.uncertainty import AVERAGE, Bootstrap, Estimate, holm, marks
from kdzoo.tasks import get_task
from kdzoo.tasks.metrics import get_metric, resampled_values
from kdzoo.tasks.resampling import counts

ROWS = 200


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


def difference(records: list[dict[str, Any]], method: str, against: str, **options: Any) -> Estimate | None:
    return Bootstrap(records, **options).difference(method, against)


def cell(task: str, method: str, seed: int, predictions: Any, split: str = "validation", **more: Any) -> dict[str, Any]:
    values = predictions if isinstance(predictions, dict) else {split: list(predictions)}
    return {"task": task, "method": method, "seed": seed, "predictions": values, **more}


def records(right: dict[str, float], task: str = "sst2", seeds: int = 2) -> list[dict[str, Any]]:
    """Cells whose predictions are right at random at the given rate; all methods are wrong on like rows."""
    rng = np.random.default_rng(0)
    labels = rng.integers(2, size=ROWS)
    found = [cell(task, "teacher", 0, labels, references={"validation": labels.tolist()})]
    for seed in range(seeds):
        hard = rng.random(ROWS)
        found += [cell(task, name, seed, np.where(hard < rate, labels, 1 - labels)) for name, rate in right.items()]
    return found


@pytest.mark.parametrize("seeds", [1, 3])
def test_the_interval_is_that_of_resampled_rows_and_seeds(seeds: int) -> None:
    """Three seeds that differ by ten points and more, so that leaving them out would show."""
    labels = records({})[0]["references"]["validation"]
    found = [cell("sst2", "teacher", 0, labels, references={"validation": labels})]
    rng = np.random.default_rng(1)
    for seed, rate in enumerate([0.9, 0.8, 0.65][:seeds]):
        hard = rng.random(ROWS)
        for name, right in (("kd", rate), ("none", 0.6)):
            found.append(cell("sst2", name, seed, np.where(hard < right, labels, 1 - np.asarray(labels))))
    gain = difference(found, "kd", "none", resamples=2000)

    def right(name: str) -> Any:
        return np.asarray([np.equal(r["predictions"]["validation"], labels) for r in found if r["method"] == name])

    each = 100.0 * (right("kd").astype(float) - right("none"))  # (seeds, rows)
    drawn = [each[:, rng.integers(ROWS, size=ROWS)].mean(1) for _ in range(4000)]
    means = [values[rng.integers(seeds, size=max(1, seeds - 1))].mean() for values in drawn]
    assert gain is not None
    assert gain.value == pytest.approx(each.mean())
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1.0)
    assert str(gain) == f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


def test_seeds_that_differ_widen_an_interval() -> None:
    """A method that is always right with two seeds and never with the third: no row makes a difference, a seed all."""
    found = records({"none": 0.0, "kd": 1.0}, seeds=3)
    labels = np.asarray(found[0]["references"]["validation"])
    next(r for r in found if (r["method"], r["seed"]) == ("kd", 1))["predictions"]["validation"] = list(1 - labels)
    drawn = Bootstrap(found)
    for gain in (drawn.difference("kd", "none"), drawn.score("kd"), drawn.difference("kd", "teacher")):
        assert gain is not None and gain.high - gain.low == pytest.approx(100)
    gain = drawn.difference("kd", "none")
    assert gain is not None and gain.value == pytest.approx(200 / 3) and not gain.sure
    alone = Bootstrap([r for r in found if r["seed"] == 0]).difference("kd", "none")
    assert alone is not None and (alone.low, alone.high) == (100, 100), "one seed says nothing about others"


def test_the_seeds_are_paired() -> None:
    """Seeds far apart, between which two methods differ by as much each time, do not hide the difference."""
    found = []
    for seed, level in enumerate((0.2, 0.5, 0.8)):
        found += [r | {"seed": seed} for r in records({"kd": level + 0.1, "none": level}, seeds=1)[seed > 0 :]]
    gain, score = Bootstrap(found).difference("kd", "none"), Bootstrap(found).score("kd")
    assert gain is not None and score is not None
    assert gain.high - gain.low < 15 < 30 < score.high - score.low and gain.sure


def test_the_rows_are_paired() -> None:
    """Methods that differ on few rows differ surely, however far both are from the labels."""
    gain = difference(records({"kd": 0.60, "none": 0.55}), "kd", "none")
    assert gain is not None and gain.low > 0, "an unpaired interval would hold zero"
    same = difference(records({"kd": 0.6, "none": 0.6}), "kd", "none")
    assert same is not None and (same.value, same.low, same.high) == (0, 0, 0)


def test_tasks_count_alike_and_seeds_that_one_lacks_do_not() -> None:
    found = records({"kd": 0.9, "none": 0.7}) + records({"kd": 0.5, "none": 0.7}, task="rte")
    found.append(cell("sst2", "kd", 7, [0] * ROWS))
    one, other = (difference([r for r in found if r["task"] == task], "kd", "none") for task in ("sst2", "rte"))
    both = difference(found, "kd", "none")
    assert one is not None and other is not None and both is not None
    assert both.value == pytest.approx((one.value + other.value) / 2)


def test_the_teacher_is_held_against_all_seeds() -> None:
    bootstrap = Bootstrap(records({"kd": 0.8, "none": 0.7}, seeds=3))
    teacher, student = bootstrap.score("teacher"), bootstrap.score("kd")
    ahead, behind = bootstrap.difference("teacher", "kd"), bootstrap.difference("kd", "teacher")
    assert teacher is not None and student is not None and ahead is not None and behind is not None
    assert ahead.value == pytest.approx(teacher.value - student.value) == pytest.approx(-behind.value)


def test_a_task_of_two_splits() -> None:
    """MNLI's score is the mean over its splits, though one is far smaller."""
    labels = {"validation_matched": [0, 1, 2, 0, 1, 2, 0, 1, 2, 0], "validation_mismatched": [1, 2]}
    wrong = {"validation_matched": labels["validation_matched"], "validation_mismatched": [0, 2]}
    found = [cell("mnli", "teacher", 0, labels, references=labels), cell("mnli", "kd", 0, labels),
             cell("mnli", "none", 0, wrong)]  # fmt: skip
    gain = difference(found, "kd", "none", resamples=200)
    assert gain is not None and gain.value == pytest.approx(25.0)


def test_nothing_in_common_and_no_labels() -> None:
    found = records({"kd": 0.8, "none": 0.7})
    assert difference(found, "kd", "pkd") is None
    without = Bootstrap(found[1:])
    assert without.unlabelled == ["sst2"]
    assert without.difference("kd", "none") is without.score("kd") is without.retention("kd") is None


def test_a_record_with_other_rows_is_named() -> None:
    found = records({"kd": 0.8})
    found[1]["predictions"]["validation"].pop()
    with pytest.raises(KdzooError, match=r"sst2, kd, seed 0 has 199 predictions on validation, .* 200 labels"):
        Bootstrap(found)


@pytest.mark.parametrize(
    ("task", "name"),
    [("sst2", "accuracy"), ("mnli", "accuracy"), ("mrpc", "f1"), ("cola", "matthews_correlation"), ("stsb", "pearson"),
     ("stsb", "spearmanr")],
)  # fmt: skip
def test_metrics_of_many_resamples_are_those_of_each(task: str, name: str) -> None:
    """Small samples, so that ties, one class and constant sides occur; a nearly constant prediction too."""
    rng = np.random.default_rng(0)
    seen = set()
    for rows in (1, 2, 3, 5, 40):
        if task == "stsb":
            true, right = rng.integers(0, 6, rows) / 2, rng.normal(2.5, 1, (4, rows))
            right = np.stack([right[0], np.round(right[1]), 3 + 1e-4 * right[2], np.full(rows, 2.3)])
        else:
            classes = get_task(task).num_labels
            true, right = rng.integers(0, classes, rows), rng.integers(0, classes, (4, rows))
            right[3] = 1
        index = rng.integers(rows, size=(30, rows))
        found = get_metric(name, get_task(task).kind).on_resamples(right, true, counts(index, rows))
        for cell_, values in zip(right, found, strict=True):
            expected = [get_task(task).evaluate(cell_[drawn], true[drawn])[name] for drawn in index]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-10)
            seen |= {round(value, 6) for value in expected}
    assert {0.0, 1.0} < seen


def test_a_score_over_splits_and_metrics_is_the_tasks_own() -> None:
    rng = np.random.default_rng(0)
    for name in ("mnli", "mrpc", "stsb"):
        task = get_task(name)
        true = {s: rng.integers(0, 2, n).astype(float) for s, n in zip(task.validation_splits, (30, 7), strict=False)}
        right = {split: rng.integers(0, 2, (1, len(values))).astype(float) for split, values in true.items()}
        once = {split: np.ones((1, len(values))) for split, values in true.items()}
        own = task.flatten({split: task.evaluate(right[split][0], true[split]) for split in true})
        parts = [resampled_values(m, task.kind, right[s], true[s], once[s])[0, 0] for m in task.headline for s in true]
        assert 100 * np.mean(parts) == pytest.approx(task.score(own))


def test_score_and_retention() -> None:
    found = records({"kd": 0.8}) + records({"kd": 0.6}, task="rte")
    drawn = Bootstrap(found)
    kd, rte, kept = drawn.score("kd"), drawn.score("kd", "rte"), drawn.retention("kd")
    right = np.mean([np.equal(r["predictions"]["validation"], found[0]["references"]["validation"]).mean()
                     for r in found if r["method"] == "kd"])  # fmt: skip
    assert kd is not None and rte is not None and kept is not None
    assert kd.value == pytest.approx(100 * right) and kd.low < kd.value < kd.high
    assert rte.high - rte.low > kd.high - kd.low, "two tasks together are surer than one"
    assert kept.value == pytest.approx(right), "this teacher is always right"
    assert drawn.score("kd", "sst2") == Bootstrap(found[:3]).score("kd", "sst2"), "other tasks change nothing"
    assert drawn.retention("none") is drawn.score("none") is None


def test_marks() -> None:
    """By rate of right answers: a hair behind the best is level with it, ten points behind are not."""
    found = records({"kd": 0.80, "pkd": 0.799, "crd": 0.7})
    means = {
        name: {"sst2": 100 * rate, AVERAGE: 100 * rate} for name, rate in [("kd", 0.8), ("pkd", 0.7), ("crd", 0.6)]
    }
    seen = marks(means, Bootstrap(found), ["sst2", AVERAGE])
    assert seen == {("kd", c): "best" for c in ("sst2", AVERAGE)} | {("pkd", c): "level" for c in ("sst2", AVERAGE)}
    assert marks({**means, "pkd": means["kd"]}, Bootstrap(found[1:]), ["sst2"]) == {
        ("kd", "sst2"): "best",
        ("pkd", "sst2"): "best",
    }, "equal ones are both the best, and nothing is level without labels"


# Demšar (2006), Table 5(a): the critical values of the two-tailed Nemenyi test at 0.05.
NEMENYI = {3: 2.343, 4: 2.569, 5: 2.728, 6: 2.850, 7: 2.949, 8: 3.031, 9: 3.102, 10: 3.164}


@pytest.mark.parametrize("methods", NEMENYI)
def test_the_critical_difference_is_the_published_one(methods: int) -> None:
    rng = np.random.default_rng(0)
    tasks = [f"task{number}" for number in range(6)]
    table = {f"method{number}": {task: float(rng.random()) for task in tasks} for number in range(methods)}
    found = ranking(table, tasks)
    assert found is not None
    assert found.critical == pytest.approx(NEMENYI[methods] * np.sqrt(methods * (methods + 1) / 36), abs=2e-3)
    # The Friedman statistic by its formula, without ties (Demšar 2006, equation in section 3.2.2).
    squares = sum(rank**2 for rank in found.ranks.values())
    expected = 72 / (methods * (methods + 1)) * (squares - methods * (methods + 1) ** 2 / 4)
    assert found.statistic == pytest.approx(expected)
    assert list(found.ranks.values()) == sorted(found.ranks.values())


def test_groups_of_a_ranking() -> None:
    """Three methods that take turns and one behind; then four in a row, of which neighbours cannot be told apart."""
    table = {"a": [4, 3, 2, 1] * 6, "b": [3, 4, 1, 2] * 6, "c": [2, 1, 4, 3] * 6, "d": [0, 0, 0, 0] * 6}
    tasks = [str(number) for number in range(24)]
    means = {name: dict(zip(tasks, map(float, values), strict=True)) for name, values in table.items()}
    found = ranking(means, tasks)
    assert found is not None and found.tasks == 24 and found.p < 1e-6
    assert found.ranks == {"a": 2.0, "b": 2.0, "c": 2.0, "d": 4.0}
    assert found.critical == pytest.approx(2.569 * np.sqrt(20 / 144), abs=2e-3) and found.groups == [(0, 2)]
    chain = {name: {task: float(-place) for task in tasks} for place, name in enumerate("abcd")}
    near = ranking(chain, tasks[:8])
    assert near is not None and near.critical == pytest.approx(1.658, abs=2e-3)
    assert near.groups == [(0, 1), (1, 2), (2, 3)], "overlapping runs, none within another"


def test_a_ranking_needs_methods_and_tasks() -> None:
    means = {name: {"rte": 1.0, "sst2": 2.0} for name in "abc"}
    tied = ranking(means, ["rte", "sst2"])
    assert tied is not None and tied.p == 1.0 and set(tied.ranks.values()) == {2.0} and tied.groups == [(0, 2)]
    assert ranking({name: means[name] for name in "ab"}, ["rte", "sst2"]) is None
    assert ranking(means, ["rte"]) is None
    assert ranking({**means, "d": {"rte": 9.0}}, ["rte", "sst2"]) == tied, "one that lacks a task takes no part"


def test_holm_is_that_of_statsmodels() -> None:
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        p = rng.random(size) ** 4
        p[0] = p[-1]
        np.testing.assert_allclose(holm(p.tolist()), multipletests(p, method="holm")[1], rtol=1e-12)
    assert holm([]) == []


def test_ranks_are_those_of_scikit_posthocs() -> None:
    """Mean ranks with ties, and which pairs the Nemenyi test tells apart."""
    rng = np.random.default_rng(0)
    tasks = [str(number) for number in range(12)]
    table = rng.integers(0, 9, (12, 6)) + 2 * np.arange(6)
    means = {f"m{i}": dict(zip(tasks, map(float, table[:, i]), strict=True)) for i in range(6)}
    found = ranking(means, tasks)
    assert found is not None
    frame = pd.DataFrame(means)
    for name, rank in frame.rank(axis=1, ascending=False).mean().items():
        assert found.ranks[str(name)] == pytest.approx(rank)
    p = posthoc_nemenyi_friedman(frame.to_numpy()).to_numpy()
    apart = {(a, b) for a in range(6) for b in range(6) if p[a, b] < 0.05}
    names = [*means]
    assert apart == {(a, b) for a in range(6) for b in range(6)
                     if abs(found.ranks[names[a]] - found.ranks[names[b]]) > found.critical}  # fmt: skip
    assert 0 < len(apart) < 30


def test_p_is_that_of_a_z_test_on_the_difference() -> None:
    """Paired rows of one seed: the standard error of their mean is known."""
    found = records({"kd": 0.75, "none": 0.70}, seeds=1)
    labels = np.asarray(found[0]["references"]["validation"])
    own, other = (np.equal(r["predictions"]["validation"], labels).astype(float) for r in found[1:])
    z = (own - other).mean() / ((own - other).std() / np.sqrt(ROWS))
    gain = difference(found, "kd", "none", resamples=4000)
    assert gain is not None and gain.p == pytest.approx(2 * stats.norm.sf(abs(z)), rel=0.25)
    same, sure = (difference(records(right, seeds=1), "kd", "none") for right in (
        {"kd": 0.7, "none": 0.7}, {"kd": 1.0, "none": 0.0}))  # fmt: skip
    assert same is not None and sure is not None and (same.p, sure.p) == (1.0, 0.0)


def test_the_best_constant_guess() -> None:
    """No other constant answer scores more; of numbers the mean, which has no correlation; of labels the usual ones."""
    rng = np.random.default_rng(0)
    for task, labels in (("rte", rng.integers(2, size=31)), ("mnli", rng.integers(3, size=50)), ("mrpc", [1, 1, 1, 0])):
        splits = get_task(task).validation_splits
        found = Guess([cell(task, "teacher", 0, dict.fromkeys(splits, labels), references={
            split: [float(label) for label in labels] for split in splits})])  # fmt: skip
        each = []
        for answer in set(map(int, labels)):
            guessed = np.full(len(labels), answer)
            of = {split: get_task(task).evaluate(guessed, np.asarray(labels)) for split in splits}
            each.append(get_task(task).score(get_task(task).flatten(of)))
        assert found.scores == {task: pytest.approx(max(each))}
        assert found.name == ("largest class" if task == "mnli" else "larger class")
    numbers = Guess([cell("stsb", "teacher", 0, [1.0], references={"validation": [0.5, 4.0, 3.25]})])
    assert (numbers.name, numbers.scores) == ("mean", {"stsb": 0.0})
    assert _constant({"validation": [0.5, 4.0, 3.25]}) == ("mean", pytest.approx(7.75 / 3))
    assert _constant({"validation": [[1, 0, 1], [1, 0, 0], [1, 1, 0]]}) == ("usual labels", [1.0, 0.0, 0.0])
    assert _constant({"validation": [[1, 0], [1]]}) is None, "rows of several lengths have no constant answer"
    assert Guess([cell("rte", "kd", 0, [1, 0])]).name == "", "without references there is none"
    known = cell("rte", "teacher", 0, [1, 0, 0], references={"validation": [1.0, 0.0, 0.0]}, guess={"score": 33.3})
    assert Guess([known]).scores == {"rte": 33.3}, "the training rows' larger class may be the validation rows' smaller"
    words = known | {"references": {"validation": [["B-PER"], ["O"]]}}
    assert (Guess([words]).name, Guess([words]).scores) == ("constant guess", {"rte": 33.3})
    ranked = known | {"references": {"validation": [[3, 0, 7], [1, 1, 2]]}, "kind": "ranking"}
    assert (Guess([ranked]).name, Guess([ranked]).scores) == ("most frequent first", {"rte": 33.3})


@pytest.mark.parametrize(
    ("predictions", "says"),
    [({"a": [1.0, 1.0, 1.0]}, "one class"), ({"a": [1.0, 0.0]}, ""), ({"a": [2.31, 2.31]}, "one value"),
     ({"a": [1.0, 1.0], "b": [0.0, 0.0]}, "one class"), ({"a": [1.0, 1.0], "b": [0.0, 1.0]}, ""), ({"a": [1.0]}, ""),
     ({}, ""), ({"a": [[1, 0], [1, 0]]}, "one value"), ({"a": [[1, 0], [1, 1]]}, "")],
)  # fmt: skip
def test_a_model_that_answers_alike(predictions: dict[str, list[Any]], says: str) -> None:
    assert one_answer({"predictions": predictions}) == says
    assert one_answer({"predictions": predictions, "one_class": True}) == "one class", "as the task itself found"


def test_the_table_against_a_method(commands: Commands, tmp_path: Path) -> None:
    commands.works("compare", "--tasks", "sst2,stsb", "--methods", "none,kd", *SIZES, "--out", tmp_path)
    assert {"report.html", "results.csv", "results.tex"} <= {path.name for path in tmp_path.iterdir()}
    out = commands.works("table", tmp_path, "--markdown", "--against", "none")
    head, _, teacher, guess, none, kd = [[part.strip() for part in line.split("|")[1:-1]] for line in out.splitlines()]
    assert head[-1] == "to none [95%]" and none[-1] == guess[-1] == "" and teacher[0] == "teacher"
    assert guess[0] == "larger class or mean" and float(guess[1]) >= 50 and guess[2] == "0.0"
    for row in (teacher, kd):
        gain = float(row[head.index("average")]) - float(none[head.index("average")])
        assert float(row[-1].split()[0]) == pytest.approx(gain, abs=0.11)
    commands.fails("table", tmp_path, "--against", "nil", says=("unknown method 'nil'", "known: kd, none"))
