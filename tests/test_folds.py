"""Rows in folds: a task a fold, drawn or named by a column, and one column in every table for all of them."""

from __future__ import annotations

import json
import os
import secrets
from collections import Counter
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pandas as pd
import pytest
from command_line import STUDENT, TEACHER, Commands, records
from sklearn import metrics as sklearn_metrics
from sklearn.model_selection import StratifiedKFold

from kdzoo.bench.api import Results
from kdzoo.bench.packed import Study
from kdzoo.bench.report.beside import Beside
from kdzoo.bench.report.findings import Findings
from kdzoo.bench.report.folds import joined, joined_jobs
from kdzoo.bench.report.guess import one_answer_note
from kdzoo.bench.report.table import cells_of
from kdzoo.bench.report.uncertainty import Bootstrap
from kdzoo.bench.runs.tasks import asked_for
from kdzoo.errors import KdzooError
from kdzoo.tasks import Classification, registry
from kdzoo.tasks.base import Fold
from kdzoo.tasks.metrics import get_metric
from kdzoo.tasks.own import from_data
from kdzoo.tasks.own_file import from_yaml
from kdzoo.tasks.resampling import counts


def fresh() -> np.random.Generator:
    """Of new inputs at every run; KDZOO_SEED makes the same again."""
    seed = int(os.environ.get("KDZOO_SEED") or secrets.randbelow(2**31))
    print(f"KDZOO_SEED={seed}")
    return np.random.default_rng(seed)


def rows(count: int = 12, folds: int = 3) -> dict[str, list[Any]]:
    """Rows of two classes, each in a fold; no two alike."""
    return {
        "text": [f"{'good' if row % 2 else 'bad'} word {row}" for row in range(count)],
        "label": [row % 2 for row in range(count)],
        "part": [f"{row // 2 % folds + 1}" for row in range(count)],
    }


def folds_of(data: Any, folds: Any, **told: Any) -> dict[str, dict[str, list[dict[str, Any]]]]:
    own = from_data(pd.DataFrame(data), text="text", label="label", name="re", folds=folds, **told)
    return {task.name: {split: part.to_list() for split, part in (task.rows() or {}).items()} for task in own.tasks}


# --- the tasks --------------------------------------------------------------------------------------------------------


def test_each_fold_is_scored_and_all_others_are_trained_on() -> None:
    data = rows(24, folds=11)
    found = folds_of(data, "part")
    assert list(found) == [f"re-fold{number}" for number in range(1, 12)]  # by number, not by letter
    texts = dict(zip(data["text"], data["part"], strict=True))
    for name, splits in found.items():
        fold = name.removeprefix("re-fold")
        assert {row["text"] for row in splits["validation"]} == {text for text, of in texts.items() if of == fold}
        assert [row["text"] for row in splits["train"]] == [text for text, of in texts.items() if of != fold]
    assert list(folds_of(data, {"column": "part", "take": [11, "2"]})) == ["re-fold2", "re-fold11"]


def test_folds_that_are_drawn_are_scikit_learns() -> None:
    data = rows(30)
    labels = np.asarray(data["label"])
    for seed in (0, 5):
        found = folds_of(data, 4, seed=seed)
        drawn = StratifiedKFold(4, shuffle=True, random_state=seed).split(labels, labels)
        for splits, (_, own) in zip(found.values(), drawn, strict=True):
            assert [row["text"] for row in splits["validation"]] == [data["text"][row] for row in own]
            assert abs(np.subtract(*Counter(row["label"] for row in splits["validation"]).values())) <= 1
    assert folds_of(data, 4) == folds_of(data, {"number": 4}) != folds_of(data, 4, seed=1)


def test_what_is_said_of_folds() -> None:
    data = rows()
    data["text"][0] = data["text"][2] = data["text"][6]  # folds 1, 2 and 1 again
    own = from_data(pd.DataFrame(data), text="text", label="label", name="re", folds="part", metric="f1")
    assert own.notes == (
        "re: text to label, 2 classes (0, 1); scored by f1",
        "re: 3 folds of the column 'part', 4 to 4 rows each; each is scored by a model of all other rows, and the "
        "score is the mean over the folds",
        "re: rows of a fold that are in its training rows too, by their text, and stay: 2 of 4 in 1, 1 of 4 in 2",
    )
    assert sum(map(len, (own.tasks[0].rows() or {}).values())) == 12
    taken = from_data(pd.DataFrame(rows()), text="text", label="label", folds={"number": 2, "take": [2]}, seed=3)
    assert "drawn by class with seed 3" in taken.notes[1] and taken.notes[1].endswith("; taken: 2")


def test_names_of_folds_in_an_arm() -> None:
    fold = Fold("1", 10)
    assert fold.task("gad") == "gad-fold1" and fold.whole("gad-fold1") == "gad"
    assert fold.whole("gad-fold1-none") == "gad-none" and fold.whole("x-fold12-fold1") == "x-fold12"


TABLE = pd.DataFrame(rows())
BAD: dict[str, tuple[Any, dict[str, Any], str]] = {
    "unknown column": (TABLE, {"folds": "fold"}, "no column 'fold'; it has text, label, part"),
    "a column twice": (TABLE, {"folds": "label"}, "the column 'label' is named twice, as text, label or fold"),
    "one fold": (TABLE, {"folds": 1}, "folds is 1; a row is in the fold that is scored or in training: give two or"),
    "one fold named": (TABLE.assign(part="a"), {"folds": "part"}, "all rows are in the fold 'a'; there must be two or"),
    "a fold of one row": (TABLE.assign(part=["x"] + ["y"] * 11), {"folds": "part"}, "the fold 'x' has one row"),
    "a fold of one class": (
        TABLE.assign(part=TABLE["label"]),
        {"folds": "part"},
        "all rows of the fold '0' are of the class '0'; a fold needs rows of two classes or more",
    ),
    "a class in one fold": (
        TABLE.assign(label=["c", *"abababababa"]),
        {"folds": "part"},
        "all rows of the class 'c' are in the fold '1', so that no model that is scored on it is trained on the class",
    ),
    "a row without": (TABLE.assign(part=[None] + ["y"] * 11), {"folds": "part"}, "row 1, column 'part': the row has"),
    "too many": (TABLE, {"folds": 7}, "no class has 7 rows, one for each of 7 folds; draw fewer"),
    "an unknown fold": (TABLE, {"folds": {"column": "part", "take": [4]}}, "unknown fold '4'"),
    "a fold twice": (TABLE, {"folds": {"number": 2, "take": [1, "1"]}}, "take names the fold '1' twice"),
    "take none": (TABLE, {"folds": {"number": 2, "take": []}}, "give a column's name, a number of folds, or {"),
    "two ways": (TABLE, {"folds": {"number": 2, "column": "part"}}, "give a column's name, a number of folds, or {"),
    "a switch": (TABLE, {"folds": True}, "folds is True; give a column's name"),
    "another key": (TABLE, {"folds": {"colum": "part"}}, "did you mean 'column'?"),
    "validation": ({"train": TABLE, "dev": TABLE}, {"folds": 2}, "there is a validation split too; leave folds out"),
    "test": ({"train": TABLE, "test": TABLE}, {"folds": "part"}, "there is a test split too; leave folds out"),
    "numbers": (TABLE, {"folds": 2, "kind": "regression"}, "folds are drawn by class, and the kind is regression"),
    "tokens": (TABLE, {"folds": 2, "kind": "tokens"}, "folds is for texts with labels or numbers, and the kind is to"),
    "headline": (TABLE, {"headline": "f1", "kind": "seq2seq"}, "headline is for texts with labels or numbers, and"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folds(case: str) -> None:
    data, told, says = BAD[case]
    with pytest.raises(KdzooError) as refused:
        from_data(data, text="text", label="label", name="re", **told)
    assert says in str(refused.value) and "\n" not in str(refused.value)


# --- the metrics ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "function", "options"),
    [("f1", "f1_score", {}), ("precision", "precision_score", {}), ("recall", "recall_score", {}),
     ("specificity", "recall_score", {"pos_label": 0})],
)  # fmt: skip
def test_metrics_of_two_classes_are_scikit_learns(name: str, function: str, options: dict[str, Any]) -> None:
    rng = fresh()
    metric, seen = get_metric(name, "classification"), set()
    few = np.array([0, 1]), np.array([[0, 1], [1, 0], [0, 0], [1, 1]]), np.array([[0, 0], [0, 1], [1, 1]])
    many = rng.integers(0, 2, 30), rng.integers(0, 2, (3, 30)), rng.integers(30, size=(4, 30))
    for true, guessed, drawn in (few, many):
        found = metric.on_resamples(guessed, true, counts(drawn, len(true)))
        for one, values in zip(guessed, found, strict=True):
            expected = [
                getattr(sklearn_metrics, function)(true[of], one[of], zero_division=0, **options) for of in drawn
            ]
            np.testing.assert_allclose(values, expected, rtol=0, atol=1e-12)
            assert metric.compute(one[drawn[0]], true[drawn[0]]) == pytest.approx(expected[0])
            seen |= {round(value, 6) for value in expected}
    assert {0.0, 1.0} < seen
    with pytest.raises(KdzooError, match=f"{name} is of two classes, and x has 3"):
        Classification("x", ("text",), ("a", "b", "c"), metrics=(name,))


def test_metrics_beside_the_score_and_chosen_classes_from_yaml(tmp_path: Path) -> None:
    labels = ["none", "Cause(e1,e2)", "Cause(e2,e1)"]
    table = {"text": [f"row {row}" for row in range(30)], "label": [labels[row % 3] for row in range(30)]}
    pd.DataFrame(table).to_csv(tmp_path / "re.csv", index=False)
    (tmp_path / "re.yaml").write_text(
        "columns: {text: text, label: label}\nfiles: re.csv\nfolds: 2\nheadline: ['relation_f1:Cause(e1,e2)+none']\n"
        "metrics: ['relation_f1:Cause(e1,e2)+none', 'relation_recall:none', accuracy]\n"
    )
    own = from_yaml(tmp_path / "re.yaml")
    assert [task.headline for task in own.tasks] == [("relation_f1[0+2]",)] * 2
    guessed, true = fresh().integers(0, 3, (2, 40))
    found = own.tasks[0].evaluate(guessed, true)
    positive = {"labels": [0, 2], "average": "micro", "zero_division": 0}
    assert found["relation_f1[0+2]"] == pytest.approx(sklearn_metrics.f1_score(true, guessed, **positive))
    assert own.tasks[0].score(found) == pytest.approx(100 * found["relation_f1[0+2]"])


@pytest.mark.parametrize(("folds", "names"), [("part", "123"), (2, "12"), ({"number": 3, "take": [2]}, "2")])
def test_folds_of_a_table_that_no_file_describes(folds: Any, names: str) -> None:
    """As `kdzoo.compare` and ``--folds`` give them."""
    asked = asked_for((), TABLE, {"text": "text", "label": "label", "folds": folds}, name="mine")
    assert asked.tasks == tuple(f"mine-fold{name}" for name in names)
    count = 2 if folds == 2 else 3
    assert [registry.get_task(name).fold for name in asked.tasks] == [Fold(name, count) for name in names]


def test_folds_on_the_command_line(commands: Commands, tmp_path: Path) -> None:
    TABLE.to_csv(tmp_path / "re.csv", index=False)
    models = ("--teacher", "1x16,heads=2", "--student", "1x16,heads=2", "--methods", "none", "--dry-run")
    own = ("--data", tmp_path / "re.csv", "--text", "text", "--label", "label")
    said = commands.works("compare", *own, "--folds", 3, *models, "--out", tmp_path / "out")
    assert all(f"re-fold{number}" in said for number in (1, 2, 3))
    commands.fails("finetune", *own, "--folds", 3, "--model", "1x16", "--out", tmp_path / "m", says=("--folds",))


# --- the tables -------------------------------------------------------------------------------------------------------


def record(task: str, method: str, seed: int, predictions: list[int], labels: list[int] | None, fold: Any) -> Any:
    score = 100 * sklearn_metrics.f1_score(labels, predictions) if labels else 0.0
    found = {"task": task, "method": method, "seed": seed, "score": score, "kind": "classification"}
    found |= {"headline": ["f1"], "metrics": {"f1": score / 100}, "predictions": {"validation": predictions}}
    found |= {"samples_per_second": 10.0, "parameters": 7, "fold": fold, "references": {"validation": labels}}
    return found


def folded(count: int = 3, of: int = 3) -> list[Any]:
    """Records of two methods, two seeds and the teacher on folds of other sizes, without those of unlike labels."""
    rng = fresh()
    made = []
    for number in range(1, count + 1):
        labels = [0, 1, *rng.integers(0, 2, 10 + 20 * number).tolist()]
        fold = {"of": "gad", "name": str(number), "count": of}
        for method, seed in (("teacher", 0), ("none", 0), ("kd", 0), ("none", 1), ("kd", 1)):
            guessed = [0, 1, *rng.integers(0, 2, len(labels) - 2).tolist()]
            one = record(f"gad-fold{number}", method, seed, guessed, labels, fold)
            if method != "teacher":
                del one["references"]
            made.append(one)
    return made


def test_the_score_is_the_mean_over_folds_and_not_that_of_all_their_rows() -> None:
    found = folded()
    head, body = cells_of(found)
    assert head[:3] == ["method", "gad", "average"]
    by_method: dict[str, list[float]] = {}
    for one in found:
        by_method.setdefault(one["method"], []).append(one["score"])
    told = {line[0]: line[1] for line in body}
    assert told["teacher"] == f"{fmean(by_method['teacher']):.1f}"
    kd = [fmean(one["score"] for one in found if one["method"] == "kd" and one["seed"] == seed) for seed in (0, 1)]
    assert told["kd"] == f"{fmean(kd):.1f} ± {np.std(kd, ddof=1):.1f}"
    bootstrap = Bootstrap(joined(found))
    estimate = bootstrap.score("kd", "gad")
    assert estimate is not None and estimate.value == pytest.approx(fmean(kd))
    assert estimate.low < estimate.value < estimate.high
    # Resampled within each fold: the variance of the mean is that of folds that are drawn by themselves.
    alone = [{key: value for key, value in one.items() if key != "fold"} for one in found]
    each = [Bootstrap(alone)._mean(f"gad-fold{number}", "teacher") for number in (1, 2, 3)]
    whole = bootstrap._mean("gad", "teacher")
    assert whole is not None
    spread = np.sqrt(sum(np.var(of[1:]) for of in each if of is not None)) / 3
    assert np.std(whole[1:]) == pytest.approx(spread, rel=0.15)
    assert joined(joined(found)) == joined(found)


def test_folds_that_some_lack_are_counted() -> None:
    assert cells_of(folded(2, of=10))[0][1] == "gad (2 of 10 folds)"
    found = [one for one in folded() if (one["task"], one["method"], one["seed"]) != ("gad-fold2", "kd", 1)]
    failed = [("gad-fold2", "kd", 1)]
    head, body = cells_of(found, failed=failed)
    assert head[1] == "gad (2 of 3 folds)"
    of_both = [one["score"] for one in found if one["method"] == "none" and one["task"] != "gad-fold2"]
    told = {line[0]: line[1] for line in body}
    assert told["none"].startswith(f"{fmean(of_both):.1f} ±") and told["kd"].endswith(", 1 failed")
    assert joined_jobs([*failed, ("gad-fold3", "kd", 1)], joined(found)) == [("gad (2 of 3 folds)", "kd", 1)]
    apart = [one for one in found if (one["method"] == "kd") == (one["task"] == "gad-fold1")]
    assert {one["task"] for one in joined(apart)} == {"gad-fold1", "gad-fold2", "gad-fold3"}  # none is of both


def test_a_function_of_ones_own_has_intervals_on_folds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_tasks", dict(registry._tasks))
    metric, found = "sklearn.metrics:accuracy_score", folded()
    for one in found:
        one["headline"] = [metric]
    assert Bootstrap(joined(found), resamples=5).score("kd") is None  # it is of no task that is known
    for name in {one["task"] for one in found}:
        registry.register_task(Classification(name, ("text",), ("no", "yes"), metrics=(metric,)))
    estimate = Bootstrap(joined(found), resamples=5).score("teacher")
    right = [
        sklearn_metrics.accuracy_score(one["references"]["validation"], one["predictions"]["validation"])
        for one in found
        if one["method"] == "teacher"
    ]
    assert estimate is not None and estimate.value == pytest.approx(100 * fmean(right))


def test_a_model_of_one_class_in_some_fold_is_told() -> None:
    found = folded()
    for one in found:
        if (one["task"], one["method"]) == ("gad-fold1", "kd"):
            one["predictions"]["validation"] = [1] * len(one["predictions"]["validation"])
    by_method = [one for one in joined(found) if one["method"] == "kd"]
    assert one_answer_note(by_method) == "one class in 2 of 6"


def test_a_comparison_on_folds(commands: Commands, tmp_path: Path) -> None:
    data = rows(24, folds=2)
    data["text"][1] = data["text"][3]
    table = pd.DataFrame(data).rename(columns={"text": "sentence", "part": "fold"})
    table.to_csv(tmp_path / "gad.tsv", sep="\t", index=False)
    page = (Path(__file__).parents[1] / "docs/own-data.md").read_text()
    (tmp_path / "gad.yaml").write_text(page.split('```yaml title="gad.yaml"\n')[1].split("```")[0])
    out = tmp_path / "out"
    printed = commands.works(
        *("compare", "--tasks", tmp_path / "gad.yaml", "--methods", "none,kd", "--teacher", TEACHER),
        *("--student", STUDENT, "--epochs", "1", "--evaluations", "0", "--out", out),
    )
    assert "by their text, and stay: 1 of 12 in 1, 1 of 12 in 2" in printed
    found = records(out)
    assert found.keys() == {f"gad-fold{fold}-{of}" for fold in (1, 2) for of in ("teacher", "none-0", "kd-0")}
    for name, one in found.items():
        assert one["fold"] == {"of": "gad", "name": name[8], "count": 2}
        assert list(one["metrics"]) == ["f1", "precision", "recall", "specificity"]
        assert one["rows"] == {"train": 12, "validation": 12} and one["score"] == 100 * one["metrics"]["f1"]
    mean = fmean(found[f"gad-fold{fold}-kd-0"]["score"] for fold in (1, 2))
    for text in (printed, commands.works("table", out), commands.works("table", out, "--markdown")):
        [line] = [line for line in text.splitlines() if line.strip("│| ").startswith("kd ") and " M " in line]
        assert f" {mean:.1f}" in line
    assert "gad-fold1" not in commands.works("table", out, "--latex")
    table = Results(out, list(found.values())).table()
    assert list(table.columns) == ["gad", "average"] and table["gad"]["kd"] == pytest.approx(mean)
    page = (out / "report.html").read_text()
    assert "gad: the mean over 2 folds, each scored by" in page
    assert "gad: the mean over folds and seeds of each metric" in page
    assert (out / "results.csv").read_text().count("gad-fold2,") == 3
    study = Findings(Study(records=[*found.values()]))
    assert study.tasks == ["gad"] and len(study.of(["kd"])) == 2 and len(study.of(["kd"], "gad")) == 1
    assert Beside(out, out).difference("kd", "gad") is not None
    failure = {"task": "gad-fold2", "method": "kd", "seed": 0, "error": "none"}
    assert Findings(Study(records=[*found.values()], failures=[failure])).failed == [("gad", "kd", 0)]
    assert json.loads((out / "cells/gad-fold1-kd-0.json").read_text())["fold"]["of"] == "gad"
