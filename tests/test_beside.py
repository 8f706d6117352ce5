"""Two comparisons side by side: what differs is named, and B − A has the interval that the bootstrap gives."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
from command_line import Commands
from reports import TASKS, Page, measured, write

from kdzoo.bench.record import differing
from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.beside import Beside


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 200)


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """The same comparison twice; in the second kd is better on rte, p_k.d is missing, and stsb has other rows."""
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    for path in second.glob("cells/*.json"):
        record = json.loads(path.read_text())
        if record["method"] == "p_k.d":
            path.unlink()
        elif (record["task"], record["method"]) == ("rte", "kd"):
            labels = json.loads((second / "teachers/rte/record.json").read_text())["references"]["validation"]
            right = [*labels[:78], *(1 - label for label in labels[78:])]
            record |= {"predictions": {"validation": right}, "score": 97.5, "configuration": {"recipe": {"weight": 2}}}
            path.write_text(json.dumps(record))
    path = second / "teachers/stsb/record.json"
    record = json.loads(path.read_text())
    record["references"]["validation"] = record["references"]["validation"][::-1]
    path.write_text(json.dumps(record))
    config = json.loads((second / "config.json").read_text())
    config["shared"] |= {"budget": {"epochs": 5.0}, "keep": "best", "overrides": []}  # an older one lacks the last
    config["contents"] = {"the rows of rte": "0123456789abcdef"}
    (second / "config.json").write_text(json.dumps(config))
    return first, second


def test_what_differs_is_named_and_nothing_else(both: tuple[Path, Path]) -> None:
    found = {name: (old, new) for name, old, new in Beside(*both).settings()}
    assert found == {
        "budget.epochs": ("3.0", "5.0"),
        "keep": ("–", "best"),
        "hash of the rows of rte": ("–", "0123456789ab"),
        "methods": ("none; kd; p_k.d; late", "none; kd; late"),
        "kd on rte: recipe": ("–", "weight 2"),
    }
    assert Beside(both[0], both[0]).settings() == []


def changed(folder: Path, method: str, **found: Any) -> None:
    """Give the cells of a method what is named."""
    for path in folder.glob(f"cells/*-{method}-*.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | found))


def test_of_a_method_s_own_budget_what_differs_is_named(tmp_path: Path) -> None:
    """Against the budget for all, where the other comparison's method has none of its own; and what is not as that."""
    first, second = write(tmp_path / "one"), write(tmp_path / "two")
    shared = {"epochs": 3.0, "batch_size": 16, "learning_rate": 1e-3}
    for folder, epochs in ((first, 3.0), (second, 5.0)):
        config = json.loads((folder / "config.json").read_text())
        config["shared"]["budget"] = shared | {"epochs": epochs}
        (folder / "config.json").write_text(json.dumps(config))
    changed(second, "kd", configuration={"budget": shared | {"epochs": 5.0, "learning_rate": 3e-3}})
    for folder in (first, second):
        changed(folder, "late", configuration={"budget": shared | {"epochs": 5.0, "batch_size": 8}})
    changed(second, "none", configuration={"budget": shared})
    assert Beside(first, second).settings() == [
        ("budget.epochs", "3.0", "5.0"),
        ("none: epochs", "3.0", "3.0"),
        ("kd: learning_rate", "0.001", "0.003"),
        ("late: epochs", "5.0", "5.0"),
    ]


def test_a_constant_guess_has_no_spread_in_the_average_either(both: tuple[Path, Path]) -> None:
    """As in the table of one comparison: over the tasks that both have, of which stsb is none here."""
    for task in ("rte", "sst2"):
        for seed in (0, 1):
            path = both[0] / "cells" / f"{task}-kd-{seed}.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"one_class": True}))
    scores = next(scores for method, which, scores, _ in Beside(*both).lines() if (method, which) == ("kd", "A"))
    told = dict(zip((*TASKS, "average"), (cell.text for cell in scores), strict=True))
    assert "±" not in told["rte"] + told["sst2"] + told["average"] and "±" in told["stsb"]


def test_the_difference_is_paired_over_rows_and_seeds(both: tuple[Path, Path]) -> None:
    beside = Beside(*both)
    assert (beside.tasks, beside.common, beside.unlike) == ([*TASKS], ["rte", "sst2"], ["stsb"])
    assert beside.methods[0] == "teacher" and beside.difference("p_k.d", "rte") is None
    same = beside.difference("none", "sst2")
    assert same is not None and (same.value, same.low, same.high) == (0, 0, 0)
    assert beside.difference("kd", "stsb") is None, "other rows"
    gap = beside.difference("kd", "rte")
    assert gap is not None
    # By hand: rows drawn alike for both, one of the two seeds at a time.
    answers = [
        [np.array(json.loads((folder / "cells" / f"rte-kd-{seed}.json").read_text())["predictions"]["validation"])
         for seed in (0, 1)] for folder in both
    ]  # fmt: skip
    labels = np.array(json.loads((both[0] / "teachers/rte/record.json").read_text())["references"]["validation"])
    right = np.array([[100.0 * (seed == labels) for seed in folder] for folder in answers])
    assert gap.value == pytest.approx(fmean((right[1] - right[0]).mean(-1)))
    rng = np.random.default_rng(3)
    drawn = [(right[1] - right[0])[rng.integers(2)][rng.integers(80, size=80)].mean() for _ in range(4000)]
    assert gap.low == pytest.approx(np.quantile(drawn, 0.025), abs=2.5)
    assert gap.high == pytest.approx(np.quantile(drawn, 0.975), abs=2.5)
    average = beside.difference("kd", "average")
    assert average is not None and average.value == pytest.approx(gap.value / 2), "over rte and sst2"


def test_the_commands(
    both: tuple[Path, Path], tmp_path: Path, commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = both
    text = commands.works("table", first, second, "--markdown")
    assert f"A: {first}, B: {second}." in text and "| budget.epochs | 3.0 | 5.0 |" in text
    (line,) = [line for line in text.splitlines() if line.startswith("| kd | B ")]
    assert line.split(" | ")[2] == "97.5 ± 0.0"
    assert "budget.epochs" in commands.works("table", first, second)
    out = tmp_path / "beside.html"
    assert str(out) in commands.works("report", first, second, "--out", out)
    page = Page(out.read_text())
    assert page.tables["Settings that differ"][0] == ["setting", "A", "B"]
    rows = page.tables["Scores side by side"]
    assert [row[:2] for row in rows if row[0] == "kd"] == [["kd", "A"], ["kd", "B"], ["kd", "B − A"]]
    assert "stsb: scored on other rows" in page.text and not page.tags & {"script", "img", "link"}
    same = tmp_path / "same.html"
    commands.works("report", first, first, "--out", same)
    assert "Nothing: the settings" in Page(same.read_text()).text
    commands.fails("table", first, second, "--latex", says=("--latex is for the table of one comparison",))
    commands.fails("table", first, second, "--against", "kd", says=("--against is for the table of one",))
    monkeypatch.chdir(tmp_path)
    name = f"{first.name}-beside-{second.name}.html"
    assert name in commands.works("report", first, second) and (tmp_path / name).read_text() == out.read_text()
    commands.fails(
        "report", first, second, "--out", out, "--reach", "rte=1", says=("--reach is for the report of one",)
    )
    commands.fails("table", first, tmp_path / "none", says=("holds no records",))


@pytest.mark.parametrize("width", [1400, 400])
def test_the_page_fits(both: tuple[Path, Path], tmp_path: Path, width: int, browser: str) -> None:
    found = measured(browser, Beside(*both).write(tmp_path / "beside.html"), width, tmp_path)
    assert (found["width"], found["wide"]) == (width, []) and found["page"] <= width


def test_options_that_hold_before_a_recipe_s_own_are_said_as_options() -> None:
    given = differing({"first": ["warmup_ratio"]}, {"first": ["epochs"]}, "settings")
    assert given == [("settings.options given", "--warmup-ratio", "--epochs")]
    assert differing({"first": ["epochs"]}, {"first": ["epochs"]}) == []
