"""--keep best: the weights that do best on held-out training rows, never a look at the rows that are reported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SIZES, Commands
from rich.console import Console
from test_tuning import TINY
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdzoo.bench.grid.comparison import Comparison
from kdzoo.bench.grid.settings import resolve
from kdzoo.bench.grid.tuning import SEED
from kdzoo.bench.runs.evaluate import Curve
from kdzoo.errors import KdzooError
from kdzoo.tasks import get_task, load

# A rate so high that the last weights are seldom the best.
BEST: dict[str, Any] = TINY | {
    "methods": ("none",), "seeds": (0,), "tune": 0, "evaluations": 6, "keep": "best", "save_students": "all",
    "budget": {"epochs": 4, "batch_size": 8, "learning_rate": 0.05, "max_length": 16},
}  # fmt: skip


def made(folder: Path, **changes: Any) -> Comparison:
    return Comparison(resolve(**BEST | changes), folder, Console(quiet=True))


def cell(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cells" / "sst2-none-0.json").read_text())


def test_the_weights_kept_are_the_best_on_held_out_rows_and_what_is_saved_and_scored(tmp_path: Path) -> None:
    comparison = made(tmp_path)
    comparison.run()
    record = cell(tmp_path)
    kept, curve = record["kept"], record["curve"]
    assert (kept["train_rows"], kept["held_out_rows"], kept["evaluations"]) == (36, 4, len(curve))
    best = max(curve, key=lambda point: (point["held_out"], point["step"]))
    assert (kept["step"], kept["score"]) == (best["step"], best["held_out"])
    assert curve[-1]["step"] == record["steps"] == 4 * 5, "36 rows, 8 at a time"
    assert record["score"] == next(point["score"] for point in curve if point["step"] == kept["step"])
    card = (tmp_path / "students/sst2-none-0/README.md").read_text(encoding="utf-8")
    assert f"20 training steps; the weights are those of step {kept['step']}, the best of 7 on 4 held-out" in card
    assert "| learning rate | 0.05 |" in card and "| batch size | 8 |" in card and "training:" not in card
    # The student in the folder gives the record's predictions, and on the held-out rows the score.
    student = AutoModelForSequenceClassification.from_pretrained(tmp_path / "students/sst2-none-0").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "students/sst2-none-0")
    task = get_task("sst2")
    rows = load(task, "synthetic", train_rows=40, validation_rows=12)
    _, held_out = task.held_out(rows["train"], SEED)

    def answers(sentences: list[str]) -> np.ndarray:
        with torch.no_grad():
            inputs = tokenizer(sentences, padding=True, truncation=True, max_length=16, return_tensors="pt")
            return student(**{k: v for k, v in inputs.items() if k != "length"}).logits.argmax(-1).numpy()

    assert answers(rows["validation"]["sentence"][:]).tolist() == record["predictions"]["validation"]
    assert 100 * np.mean(answers(held_out["sentence"][:]) == held_out["label"][:]) == pytest.approx(kept["score"])


def test_the_best_is_not_always_the_last_and_the_last_of_the_level_ones_is_kept() -> None:
    model = torch.nn.Linear(1, 1)
    scores = iter([1.0, 70.0, 2.0, 70.0, 3.0, 50.0])  # of validation and held-out rows in turn

    class Trainer:
        student, stopwatch = model, None

    curve = Curve(Trainer(), get_task("sst2"), {}, 2, {"validation": [0, 1]})  # type: ignore[arg-type]
    curve._score = lambda rows: next(scores)
    for step in (1, 2):
        torch.nn.init.constant_(model.weight, float(step))
        curve._take(step, 0.0)
    torch.nn.init.constant_(model.weight, 3.0)
    assert curve.keep_best(3, 0.0) == {"step": 2, "score": 70.0, "evaluations": 3, "held_out_rows": 2}
    assert model.weight.item() == 2.0
    assert [point["score"] for point in curve.points] == [1.0, 2.0, 3.0], "the curve is of what was trained"


def test_no_choice_reads_a_validation_row_and_what_is_trained_does_not_change(tmp_path: Path) -> None:
    made(tmp_path / "clean").run()
    comparison = made(tmp_path / "poisoned")
    validation = comparison.work.rows.loaded["sst2"]["validation"]
    comparison.work.rows.loaded["sst2"]["validation"] = validation.map(
        lambda row: {"sentence": "", "label": 1 - row["label"]}
    )
    comparison.run()
    clean, dirty = cell(tmp_path / "clean"), cell(tmp_path / "poisoned")
    assert clean["kept"] == dirty["kept"]
    assert [p["held_out"] for p in clean["curve"]] == [p["held_out"] for p in dirty["curve"]]
    assert clean["score"] != dirty["score"] or clean["predictions"] != dirty["predictions"], "it would be seen"


def test_trials_keep_their_best_too(tmp_path: Path) -> None:
    comparison = made(tmp_path, tune=2, save_students="none")
    comparison.run()
    trials = [json.loads(path.read_text()) for path in (tmp_path / "trials").iterdir()]
    best = max(trials, key=lambda trial: (trial["score"], -len(trial["tried"])))
    assert best["kept"] == cell(tmp_path)["kept"] and all(t["score"] == t["kept"]["score"] for t in trials)
    assert cell(tmp_path)["rows"] == best["rows"] | {"validation": 12} == {"train": 36, "validation": 12}


def test_what_leaves_nothing_to_choose_is_refused(commands: Commands, tmp_path: Path) -> None:
    for given, says in (
        ({"evaluations": 0}, "--evaluations 0 takes none"),
        ({"augment": 1}, "--augment would train on copies"),
        ({"keep": "worst"}, "keep = 'worst'"),
    ):
        with pytest.raises(KdzooError, match=says):
            resolve(**BEST | given)
    given = ("compare", "--tasks", "sst2", "--methods", "none", *SIZES, "--keep", "best", "--out", tmp_path / "out")
    commands.fails(
        *given, "--batch-size", 64, says=("none on sst2: --keep best has nothing to choose among in 1 step",)
    )
    commands.fails(*given, "--train-rows", 3, says=("sst2: 3 rows are too few",))
    assert not (tmp_path / "out").exists()


def test_the_last_weights_are_the_default_and_leave_no_trace(commands: Commands, tmp_path: Path) -> None:
    plain, best = (resolve(**BEST | {"keep": keep}) for keep in ("last", "best"))
    assert not {"keep", "evaluations"} & {*plain.shared()}
    assert (best.shared()["keep"], best.shared()["evaluations"]) == ("best", 6), "what is kept depends on both"
    given = ("compare", "--tasks", "sst2", "--methods", "none", *SIZES, "--epochs", 2, "--out", tmp_path)
    commands.works(*given)
    assert cell(tmp_path)["kept"] == {}
    said = commands.fails(
        *given, "--keep", "best", says=("another configuration: keep is None there and 'best' here.",)
    )
    assert "evaluations" not in said, "which was not typed"
