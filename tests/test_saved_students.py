"""--save-students: what is kept loads with plain transformers, and is the student that the record is of."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import ROWS, SIZES, Commands
from rich.console import Console
from test_tuning import TINY
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from kdzoo.bench.grid.cells import Cells
from kdzoo.bench.grid.comparison import Comparison
from kdzoo.bench.grid.settings import resolve
from kdzoo.tasks import get_task, load


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


def test_the_best_of_all_seeds_is_kept_when_some_come_later(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One that came later and is worse goes, one that is better takes the place, and one that is not there is said."""
    settings = resolve(**TINY | {"methods": ("none",), "tune": 0, "save_students": "best"})
    made = Comparison(settings, tmp_path, Console(width=1000))
    capsys.readouterr()
    students, done = tmp_path / "students", {}
    (tmp_path / "cells").mkdir()
    scores = {0: 50.0, 3: 70.0, 7: 60.0, 8: 80.0, 9: 65.0, 11: 99.0}

    def run(*seeds: int) -> tuple[set[str], str]:
        """As if these seeds had been trained now: what is kept then, and what is said."""
        done.clear()
        for seed in seeds:
            job = ("sst2", "none", seed)
            done[job] = {"configuration": made.work.configuration(job), "score": scores[seed]}
            made.work.place(job).write_text(json.dumps(done[job]))
            (students / f"sst2-none-{seed}").mkdir(parents=True)
        made._keep_students(done)
        return {path.name for path in students.iterdir()}, capsys.readouterr().out

    other = {"configuration": made.work.configuration(("sst2", "none", 11)) | {"recipe": {}}, "score": scores[11]}
    made.work.place(("sst2", "none", 11)).write_text(json.dumps(other))
    made.work.place(("sst2", "none", 12)).write_text("damaged")
    assert run(0, 3) == ({"sst2-none-3"}, "")
    assert run(7) == ({"sst2-none-3"}, "")
    assert run(8) == ({"sst2-none-8"}, "")
    (students / "sst2-none-8").rename(tmp_path / "elsewhere")
    kept, said = run(9)
    assert kept == {"sst2-none-9"}, "the only one there is"
    assert "the best student is not kept of sst2 none 8, done before it was asked for or removed since" in said
    assert "the best of the others stays" in said and "run this again with the seed 8 too" in said
