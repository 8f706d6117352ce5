"""The paired bootstrap between two methods, and the column it adds to a table."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import SIZES, Commands

from kdzoo import KdzooError
from kdzoo.bench import statistics
from kdzoo.bench.statistics import difference

ROWS = 200


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


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


def test_the_interval_is_that_of_resampled_rows() -> None:
    found = records({"kd": 0.8, "none": 0.7})
    gain = difference(found, "kd", "none", resamples=800)
    labels = np.asarray(found[0]["references"]["validation"])

    def right(name: str) -> Any:
        cells = [np.asarray(r["predictions"]["validation"]) for r in found if r["method"] == name]
        return np.mean([predicted == labels for predicted in cells], axis=0)

    each_row = 100 * (right("kd") - right("none"))
    rng = np.random.default_rng(1)
    means = [each_row[rng.integers(ROWS, size=ROWS)].mean() for _ in range(2000)]
    assert gain is not None
    assert gain.value == pytest.approx(each_row.mean())
    assert (gain.low, gain.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=1.0)
    assert str(gain) == f"{gain.value:+.1f} [{gain.low:+.1f}, {gain.high:+.1f}]"


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
    with pytest.raises(KdzooError, match="the records of sst2 hold no labels"):
        difference(found[1:], "kd", "none")


def test_the_table_against_a_method(commands: Commands, tmp_path: Path) -> None:
    commands.works("compare", "--tasks", "sst2,stsb", "--methods", "none,kd", *SIZES, "--out", tmp_path)
    out = commands.works("table", tmp_path, "--markdown", "--against", "none")
    head, _, teacher, none, kd = [[part.strip() for part in line.split("|")[1:-1]] for line in out.splitlines()]
    assert head[-1] == "to none [95%]" and none[-1] == "" and teacher[0] == "teacher"
    for row in (teacher, kd):
        gain = float(row[head.index("average")]) - float(none[head.index("average")])
        assert float(row[-1].split()[0]) == pytest.approx(gain, abs=0.11)
    commands.fails("table", tmp_path, "--against", "nil", says=("unknown method 'nil'", "known: kd, none"))
