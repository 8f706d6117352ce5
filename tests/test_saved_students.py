"""--save-students: what is kept loads with plain transformers, and is the student that the record is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, SIZES, Commands
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdzoo.bench.grid.cells import Cells
from kdzoo.tasks import get_task, load


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.mark.parametrize("which", ["best", "all"])
def test_students_are_kept(commands: Commands, tmp_path: Path, which: str) -> None:
    given = ("--tasks", "sst2", "--methods", "none,kd", "--seeds", 2, *SIZES, "--evaluations", 0)
    commands.works("compare", *given, "--save-students", which, "--out", tmp_path)
    kept = {path.name for path in (tmp_path / "students").iterdir()}
    scores = {path.stem: json.loads(path.read_text())["score"] for path in (tmp_path / "cells").iterdir()}
    if which == "all":
        assert kept == set(scores)
    else:
        assert len(kept) == 2
        for method in ("none", "kd"):
            own = {name: score for name, score in scores.items() if name.startswith(f"sst2-{method}-")}
            [name] = kept & set(own)
            assert own[name] == max(own.values())
    folder = tmp_path / "students" / sorted(kept)[0]
    record = json.loads((folder / "record.json").read_text())
    assert record["score"] == scores[folder.name] and (folder / "README.md").is_file()
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = load(get_task("sst2"), "synthetic", train_rows=int(ROWS[1]), validation_rows=int(ROWS[3]))["validation"]
    with torch.no_grad():
        inputs = tokenizer(rows["sentence"][:], padding=True, return_tensors="pt")
        logits = model(**{name: value for name, value in inputs.items() if name != "length"}).logits
    assert np.array_equal(logits.argmax(-1).numpy(), record["predictions"]["validation"])


def test_cells_that_were_done_before_have_no_student_and_it_is_said(commands: Commands, tmp_path: Path) -> None:
    given = ("compare", "--tasks", "sst2", "--methods", "none", *SIZES, "--evaluations", 0, "--out", tmp_path)
    commands.works(*given, "--seeds", "0,")
    said = commands.works(*given, "--seeds", "0,1", "--save-students", "all")
    assert "the student is not kept of sst2 none 0, done before it was asked for" in " ".join(said.split())
    assert [path.name for path in (tmp_path / "students").iterdir()] == ["sst2-none-1"]


@pytest.mark.parametrize("best", [0, 1])
def test_the_best_of_those_there_are_is_kept(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, best: int
) -> None:
    """A best seed that was done before has no student: it is said, and the best student there is stays."""
    train = Cells.train

    def made_up(work: Cells, job: Any, progress: Any = None) -> dict[str, Any]:
        return train(work, job, progress) | {"score": 90.0 if job[2] == best else 50.0 + job[2]}

    monkeypatch.setattr(Cells, "train", made_up)
    given = ("compare", "--tasks", "sst2", "--methods", "none", *SIZES, "--evaluations", 0, "--out", tmp_path)
    commands.works(*given, "--seeds", "0,")
    said = " ".join(commands.works(*given, "--seeds", "0,1,2", "--save-students", "best").split())
    kept = [path.name for path in (tmp_path / "students").iterdir()]
    assert kept == (["sst2-none-1"] if best == 1 else ["sst2-none-2"])
    assert ("the best student is not kept of sst2 none 0" in said) == (best == 0)
    if best == 0:  # as the line says
        (tmp_path / "cells" / "sst2-none-0.json").unlink()
        said = commands.works(*given, "--seeds", "0,1,2", "--save-students", "best")
        assert [path.name for path in (tmp_path / "students").iterdir()] == ["sst2-none-0"] and "not kept" not in said
