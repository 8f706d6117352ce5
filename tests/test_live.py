"""What is shown and logged while a comparison runs: the screen of a terminal, TensorBoard, Weights & Biases."""

from __future__ import annotations

import io
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SIZES, Commands, records, results
from rich.console import Console

from kdzoo.bench.grid import tracking
from kdzoo.bench.grid.board import Board
from kdzoo.bench.grid.launchers.base import Job
from kdzoo.bench.progress import ROWS, STEPS, progress
from kdzoo.bench.record import FORMAT
from kdzoo.bench.timing import times_the_work

GRID = ("compare", "--tasks", "sst2", "--methods", "none,kd", *SIZES)
JOBS: list[Job] = [("sst2", method, 0) for method in ("teacher", "none", "kd", "lrc", "pkd")]


def play(terminal: bool) -> list[str]:
    """What is written while one training ends, one fails, one dies and begins again, and one waits."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    table = lambda records, failed: f"{len(records)} in the table, {len(failed)} without"  # noqa: E731
    with Board(console, dict.fromkeys(JOBS, 10), table, 7) as board:
        teacher, none, kd, lrc, _ = JOBS
        for job in (teacher, none, kd):
            board.started(job)
        speeds = {"samples_per_second": 1234.5, "train_seconds": 6.7}
        board.ended(teacher, {"metrics": {"accuracy": 0.875}, **speeds})
        board.advanced(none, 2, 4)
        board.retried(none, "killed by SIGKILL")
        board.started(none)
        board.advanced(none, 1, 4)
        board.failed(kd, "failed: it broke", [lrc])
        if terminal:
            board._live.refresh()
            written.write("\n")
    return written.getvalue().splitlines()


def test_lines_where_there_is_no_terminal() -> None:
    assert [line.rstrip() for line in play(terminal=False)] == [
        "sst2   teacher seed 0  accuracy 87.5                               1234 rows/s     6.7 s",
        "sst2   none    seed 0  its process died (killed by SIGKILL); it begins again",
        "sst2   kd      seed 0  failed: it broke",
    ]


def test_a_line_a_minute_about_all_of_it_where_there_is_no_terminal() -> None:
    written, now = io.StringIO(), [0.0]
    console = Console(file=written, width=100, color_system=None, get_time=lambda: now[0])
    with Board(console, dict.fromkeys(JOBS, 30), lambda *_: "", 7) as board:
        for job in JOBS[1:3]:
            board.started(job)
        for step in range(1, 31):
            now[0] += 10
            board.advanced(JOBS[1], step, 30)
            if step == 9:
                board.failed(JOBS[2], "failed: it broke")
    said = [line for line in written.getvalue().splitlines() if line.startswith("trainings: ")]
    assert len(said) == 5, "one a minute"
    assert said[0] == "trainings: 0 done, 0 failed, 2 running, 3 waiting (sst2 none 0 20%, sst2 kd 0); 0:24:00 left"
    assert said[1] == "trainings: 0 done, 1 failed, 1 running, 3 waiting (sst2 none 0 40%); 0:18:00 left"


def test_the_time_left_counts_a_teacher_s_step_as_what_it_is_worth() -> None:
    """The teacher is half done after 100 seconds; as many of a student's steps take a tenth of its time."""
    written, now = io.StringIO(), [0.0]
    console = Console(file=written, width=100, color_system=None, get_time=lambda: now[0])
    with Board(console, dict.fromkeys(JOBS[:3], 20), lambda *_: "", 7, weights={JOBS[0]: 10.0}) as board:
        board.started(JOBS[0])
        for step in range(1, 11):
            now[0] += 10
            board.advanced(JOBS[0], step, 20)
    said = written.getvalue().splitlines()
    assert said == ["trainings: 0 done, 0 failed, 1 running, 2 waiting (sst2 teacher 0 30%); 0:03:00 left"]


def test_a_larger_model_does_more_work_and_what_cannot_be_counted_is_no_failure() -> None:
    from transformers import BertConfig, BertModel

    with torch.device("meta"):
        config = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "vocab_size": 30}
        small, large = (BertModel(BertConfig(**config, num_hidden_layers=layers)) for layers in (1, 4))
    assert 3 < times_the_work(large, small, 16) <= 4
    assert times_the_work(torch.nn.Linear(2, 2), small, 16) == 1


@pytest.mark.parametrize("terminal", [False, True])
def test_a_name_moves_no_cursor(terminal: bool) -> None:
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=100, color_system=None, legacy_windows=False)
    evil: Job = ("sst2", "kd[red]\x1b[2J\u202e", 0)
    with Board(console, {evil: 10}, lambda *_: "", 7) as board:
        board.started(evil)
        board.advanced(evil, 1, 10)
        if terminal:
            board._live.refresh()
        board.failed(evil, "failed: \x1b]0;title\x07 broke")
    shown = written.getvalue()
    assert "kd[red]\\x1b[2J\\u202e" in shown and "\\x1b]0;title\\x07 broke" in shown
    assert "\x1b[2J" not in shown and "\u202e" not in shown and "\x1b]0" not in shown and "\x07" not in shown


def minutes(terminal: bool) -> str:
    """What is written while an hour's work is done, 10 seconds a step."""
    written, now = io.StringIO(), [0.0]
    console = Console(file=written, force_terminal=terminal, width=100, color_system=None, get_time=lambda: now[0])
    with progress(console, "tinybert on text") as progressed:
        for step in range(1, 361):
            now[0] += 10
            progressed(step, 360)
    return written.getvalue()


def test_long_work_says_how_far_it_is_where_there_is_no_terminal() -> None:
    lines = minutes(terminal=False).splitlines()
    assert len(lines) == 59, "one a minute, none at the end"
    assert lines[0] == "tinybert on text: 6 of 360 steps, 0:59:00 left"
    assert lines[-1] == "tinybert on text: 354 of 360 steps, 0:01:00 left"
    assert "left\n" not in minutes(terminal=True)


def test_a_teacher_that_runs_before_the_training_is_shown(commands: Commands, tmp_path: Path) -> None:
    written, now = io.StringIO(), [0.0]
    console = Console(file=written, width=100, color_system=None, get_time=lambda: now[0])
    with progress(console, "sst2 kd") as progressed:
        for unit in (ROWS, STEPS):
            for done in range(1, 13):
                now[0] += 10
                progressed(done, 12, unit)
    said = written.getvalue().splitlines()
    assert said == [
        "sst2 kd: 6 of 12 teacher rows, 0:01:00 left",
        "sst2 kd: 2 of 12 steps, 0:01:40 left",
        "sst2 kd: 8 of 12 steps, 0:00:40 left",
    ]
    screen = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    with Board(screen, {JOBS[2]: 10}, lambda *_: "", 7) as board:
        shown = []
        board.started(JOBS[2])
        for done in ((1, 4, ROWS), (4, 4, ROWS), (5, 10)):
            board.advanced(JOBS[2], *done)
            shown.append(str(board._screen().renderables[2]))  # type: ignore[attr-defined]
    assert shown == ["sst2 kd 0 teacher rows 25%", "sst2 kd 0 teacher rows 100%", "sst2 kd 0 50%"]


def test_one_screen_on_a_terminal() -> None:
    lines = play(terminal=True)
    said = [line for line in lines if "sst2   " in line]
    assert len(said) == 2 and "died" in said[0] and "it broke" in said[1], "what goes wrong stays above the screen"
    last = max(index for index, line in enumerate(lines) if "trainings: " in line)
    counts, bar, running, table = (line.rstrip() for line in lines[last : last + 4])
    assert counts.endswith("trainings: 1 done, 1 failed, 1 running, 1 waiting")
    assert "12/30 student steps" in bar, "what cannot run any more is not waited for"
    assert running == "sst2 none 0 20%" and table == "1 in the table, 1 without"


def test_tensorboard(commands: Commands, tmp_path: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    commands.works(*GRID, "--out", tmp_path / "plain")
    commands.works(*GRID, "--tensorboard", "--out", tmp_path / "logged")
    assert results(tmp_path / "logged") == results(tmp_path / "plain"), "the same, and of the same configuration"
    for name in ("sst2-teacher-0", "sst2-none-0", "sst2-kd-0"):
        logs = accumulator.EventAccumulator(str(tmp_path / "logged" / "logs" / name)).Reload()
        record = records(tmp_path / "logged")[name if name.split("-")[1] != "teacher" else "sst2-teacher"]
        assert {"loss", "learning_rate", "eval/score"} <= set(logs.Tags()["scalars"])
        assert [entry.value for entry in logs.Scalars("eval/score")] == pytest.approx([record["score"]])
        logged = {entry["step"]: entry["loss"] for entry in record["history"] if "loss" in entry}
        assert {entry.step: entry.value for entry in logs.Scalars("loss")} == pytest.approx(logged)
    assert not (tmp_path / "plain" / "logs").exists()


def test_weights_and_biases(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs: list[Any] = []

    class Run:
        def __init__(self, **options: Any) -> None:
            self.options, self.logged, self.ended = options, [], False
            runs.append(self)

        def __enter__(self) -> Run:
            return self

        def __exit__(self, *_: object) -> None:
            self.ended = True

        def log(self, values: dict[str, float], step: int) -> None:
            self.logged.append((step, values))

    fake: Any = types.ModuleType("wandb")
    fake.init, fake.Settings, fake.login = Run, dict, lambda: True
    monkeypatch.setitem(sys.modules, "wandb", fake)
    monkeypatch.setattr(tracking, "find_spec", lambda name: fake)
    commands.works(*GRID, "--wandb", "--out", tmp_path)
    assert [run.options["name"] for run in runs] == ["sst2-teacher-0", "sst2-none-0", "sst2-kd-0"]
    kept = records(tmp_path)["sst2-kd-0"]
    assert runs[2].options["config"] == kept["configuration"] and all(run.ended for run in runs)
    assert runs[2].logged[-1] == (2, {"eval/score": kept["score"], "eval/accuracy": kept["metrics"]["accuracy"]})
    assert any("loss/kd" in values for _, values in runs[2].logged)

    def refuse() -> None:
        raise RuntimeError("No API key configured.")

    fake.login = refuse
    says = ("--wandb: No API key configured.", "WANDB_MODE=offline")
    commands.fails(*GRID, "--wandb", "--out", tmp_path / "out", says=says)


@pytest.mark.parametrize("name", ["tensorboard", "wandb"])
def test_trackers_that_are_not_installed(
    name: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)
    says = (f"--{name} needs the package {name}", f"pip install 'kdzoo[{name}]'")
    commands.fails(*GRID, f"--{name}", "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()


def test_a_resume_with_other_settings_is_refused_before_what_trains_is_loaded(tmp_path: Path) -> None:
    code = f"""
import json, sys
from pathlib import Path
from kdzoo.bench.grid.settings import resolve
from kdzoo.cli.main import main
budget = {{"epochs": 1, "batch_size": 16, "learning_rate": 1e-3}}
made = dict(tasks=("sst2",), methods=("none",), teacher="2x32", student="1x16", budget=budget, teacher_budget=budget)
shared = resolve(**made).shared()
Path({str(tmp_path)!r}, "config.json").write_text(json.dumps({{"format": FORMAT, "shared": shared, "order": {{}}}}))
try:
    main(["compare", "--tasks", "sst2", "--teacher", "2x32", "--student", "1x16", *sys.argv[1:]])
except SystemExit as end:
    print(end.code, sorted({{"transformers", "datasets", "pandas", "scipy"}} & {{*sys.modules}}))
""".replace("FORMAT", str(FORMAT))
    done = subprocess.run(
        [sys.executable, "-c", code, "--epochs", "2", "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout == "2 []\n", done
    said = done.stderr
    assert "holds the records of another configuration: budget.epochs is 1.0 there and 2.0 here" in said, said


def test_inductor_says_nothing_before_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import logging, sys, warnings
from kdzoo.cli.main import main
try:
    main(["--version"])
except SystemExit:
    pass
exec("import warnings; warnings.warn('TensorFloat32 is not enabled')", {"__name__": "torch._inductor.compile_fx"})
exec("import warnings; warnings.warn('of another')", {"__name__": "torch.other"})
logging.getLogger("torch._inductor.utils").warning("Not enough SMs to use max_autotune_gemm mode")
"""
    monkeypatch.delenv("TORCH_LOGS", raising=False)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "of another" in done.stderr, done
    assert "TensorFloat32" not in done.stderr and "Not enough SMs" not in done.stderr
