"""What goes wrong while it runs: Ctrl-C, kill -9, a full disk, damaged records, two runs in one folder."""

from __future__ import annotations

import errno
import fcntl
import html
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import SIZES, TEACHER, Commands, records, results
from safetensors.torch import load_file

from kdzoo.bench.files import write_atomically
from kdzoo.bench.grid import cells
from kdzoo.bench.packed import read_study
from kdzoo.bench.runs import train as training
from kdzoo.errors import DistillationFailure, KdzooError
from kdzoo.models.spec import ModelSpec

GRID = ("compare", "--tasks", "sst2", "--methods", "none,kd,lrc", *SIZES)


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the grid when nothing happens to it."""
    from kdzoo.cli.main import main

    folder = tmp_path_factory.mktemp("grid")
    with pytest.raises(SystemExit, match="0"):
        main([*GRID, "--out", str(folder)])
    return folder


@pytest.fixture(scope="module")
def undisturbed(grid: Path) -> dict[str, Any]:
    """Its results."""
    return results(grid)


def left_over(folder: Path) -> set[str]:
    """Files that are neither a comparison's results, nor its lock, nor the teacher's activations."""
    known = {"config.json", "report.html", "results.csv", "results.tex", ".lock"}
    known |= {str(path.relative_to(folder)) for path in folder.glob("cache/*/[!.]*.safetensors")}
    known |= {str(path.relative_to(folder)) for path in folder.glob("cache/*/.lock")}
    files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
    return {name for name in files - known if not name.startswith(("cells/sst2-", "teachers/sst2/"))}


# --- stopped from outside ---------------------------------------------------------------------------------------------

# Once a file is there, the training that comes next stays at its first step, so that the test can choose the moment.
HELD = """
import sys, time
from pathlib import Path
from kdzoo.bench.runs import train as training
from kdzoo.cli.main import main
record, reached = Path(sys.argv.pop(1)), Path(sys.argv.pop(1))
def held(self, args, state, control, **more):
    if record.exists():
        reached.touch()
        while True:
            time.sleep(60)
training._Steps.on_step_end = held
main()
"""


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_stopped_in_the_middle_of_a_cell(
    how: signal.Signals, commands: Commands, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    folder, reached = tmp_path / "out", tmp_path / "reached"
    record = folder / "cells" / "sst2-none-0.json"
    command = [sys.executable, "-c", HELD, str(record), str(reached), *GRID, "--out", str(folder)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
        # A process started in the background ignores Ctrl-C, and hands that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        while not reached.exists() and process.poll() is None:
            time.sleep(0.02)
        finished = records(folder)
        process.send_signal(how)
        _, err = process.communicate()
    finally:
        process.kill()
    if how == signal.SIGINT:
        assert process.returncode == 130
        assert err.strip() == "kdzoo: stopped; the same command goes on from the last finished part"
    else:
        assert process.returncode == -signal.SIGKILL
    assert finished.keys() == {"sst2-teacher", "sst2-none-0"}, "it was stopped within the second cell"
    assert records(folder) == finished and left_over(folder) == set()

    commands.works(*GRID, "--out", folder)
    assert results(folder) == undisturbed and left_over(folder) == set()
    assert {name: records(folder)[name] for name in finished} == finished, "no finished cell was repeated"


def interrupt(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(training._Steps, "on_step_end", fail)


def test_no_teacher_is_left_half_made(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    with monkeypatch.context() as patch:
        interrupt(patch, KeyboardInterrupt())
        assert commands(*GRID, "--out", tmp_path).code == 130
    assert [*(tmp_path / "teachers").iterdir()] == [] and left_over(tmp_path) == set()
    # What kill -9 leaves behind is no teacher, and the next run removes it.
    half = tmp_path / "teachers" / ".sst2-abc"
    half.mkdir()
    (half / "record.json").write_text("{}")
    commands.fails("table", tmp_path, says=("no records",))
    commands.works(*GRID, "--out", tmp_path)
    assert [path.name for path in (tmp_path / "teachers").iterdir()] == ["sst2"]
    assert results(tmp_path) == undisturbed


def test_a_run_goes_on_from_its_last_whole_checkpoint(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = ("--train-rows", "64", "--validation-rows", "32", "--epochs", "3", "--learning-rate", "0.01")
    finetune = ("finetune", "--task", "sst2", "--model", TEACHER, *rows)
    commands.works(*finetune, "--out", tmp_path / "whole")
    expected = load_file(tmp_path / "whole" / "model.safetensors")

    def weights() -> dict[str, torch.Tensor]:
        return load_file(tmp_path / "cut" / "model.safetensors")

    def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
        return all(torch.equal(one[name], other[name]) for name in one)

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == 5:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Steps, "on_step_end", stop)
        assert commands(*finetune, "--out", tmp_path / "cut").code == 130
    # As if the machine had stopped while it wrote the next checkpoint.
    whole, cut = tmp_path / "cut" / "checkpoint-4", tmp_path / "cut" / "checkpoint-6"
    shutil.copytree(whole, cut)
    os.truncate(cut / "model.safetensors", 1000)
    (cut / "trainer_state.json").unlink()
    commands.works(*finetune, "--out", tmp_path / "cut")
    assert equal(weights(), expected)

    # As if it had stopped when the model was there and its record was not.
    (tmp_path / "cut" / "record.json").unlink()
    commands.works(*finetune, "--out", tmp_path / "cut")
    record = json.loads((tmp_path / "cut" / "record.json").read_text())
    whole_record = json.loads((tmp_path / "whole" / "record.json").read_text())
    assert record["metrics"] == whole_record["metrics"] and record["steps"] == 6
    assert equal(weights(), expected)


# --- a training that fails --------------------------------------------------------------------------------------------


@contextmanager
def failing(method: str) -> Iterator[None]:
    """The trainings of a method raise; a teacher's is called ``none``, as plain fine-tuning is."""
    train = cells.train

    def fail(student: Any, teacher: Any, recipe: Any, **options: Any) -> Any:
        if recipe.name == method:
            raise RuntimeError("something\nbroke")
        return train(student, teacher, recipe, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "train", fail)
        yield


def test_a_failing_cell_is_recorded_and_the_others_go_on(
    commands: Commands, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    says = ("sst2 kd 0 failed: RuntimeError: something broke", f"{tmp_path / 'failed'} has", "--retry-failed")
    with failing("kd"):
        ran = commands(*GRID, "--out", tmp_path)
    assert ran.code == 1 and ran.err.startswith("kdzoo: ") and all(phrase in ran.err for phrase in says), ran.err
    assert "sst2   kd   seed 0  failed: RuntimeError: something broke\n" in ran.out
    path = tmp_path / "failed" / "sst2-kd-0.json"
    failure = json.loads(path.read_text())
    assert failure.keys() == {"format", "task", "method", "seed", "configuration", "error", "traceback", "finished"}
    assert (failure["task"], failure["method"], failure["seed"]) == ("sst2", "kd", 0)
    assert failure["error"] == "RuntimeError: something broke" and 'raise RuntimeError("some' in failure["traceback"]
    assert failure["configuration"] == undisturbed["sst2-kd-0"]["configuration"]
    expected = {name: result for name, result in undisturbed.items() if name != "sst2-kd-0"}
    assert results(tmp_path) == expected
    for out in (ran.out, commands.works("table", tmp_path), commands.works("table", tmp_path, "--markdown")):
        assert any(re.match(r"[│|] kd +[│|] +1 failed", line) for line in out.splitlines()), out

    # It is left alone, unless asked for.
    kept, written = {name: file_of(tmp_path, name) for name in ("sst2-none-0", "sst2-lrc-0")}, path.read_bytes()
    ran = commands(*GRID, "--out", tmp_path)
    assert ran.code == 1 and "sst2   kd   seed 0  failed before: RuntimeError: something broke; --retry" in ran.out
    assert path.read_bytes() == written and results(tmp_path) == expected
    commands.works(*GRID, "--retry-failed", "--out", tmp_path)
    assert not path.exists() and results(tmp_path) == undisturbed
    assert {name: file_of(tmp_path, name) for name in kept} == kept
    commands.works(*GRID, "--out", tmp_path)


def test_a_failed_cell_of_another_recipe_is_run(commands: Commands, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    for temperature in (1e-42, 1.0):
        mine.write_text(f"name: mine\nstages:\n- terms: [{{loss: kd, temperature: {temperature}}}]\n")
        ran = commands("compare", "--tasks", "sst2", "--methods", mine, *SIZES, "--out", tmp_path / "out")
        assert ran.code == (1 if temperature < 1 else 0), ran


def test_a_failed_teacher_costs_its_task_alone(commands: Commands, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    grid = ("compare", "--tasks", "rte,sst2", "--methods", "kd,lrc", *SIZES, "--out", tmp_path)
    build = ModelSpec.build

    def fail_rte(self: ModelSpec, task: Any, **options: Any) -> Any:
        if task.name == "rte" and options.get("teacher") is None:
            raise MemoryError("no more")
        return build(self, task, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelSpec, "build", fail_rte)
        ran = commands(*grid)
    assert ran.code == 1 and "rte teacher 0 failed: out of memory (no more); lower --batch-size" in ran.err
    assert "seed 0  failed: out of memory (no more); lower" in ran.out and "2 cells are left out" in ran.out
    assert [path.name for path in (tmp_path / "failed").iterdir()] == ["rte-teacher-0.json"]
    assert records(tmp_path).keys() == {"sst2-teacher", "sst2-kd-0", "sst2-lrc-0"}
    again = commands(*grid)
    assert again.code == 1 and "seed 0  failed before: out of memory (no more)" in again.out
    commands.works(*grid, "--retry-failed")
    assert records(tmp_path).keys() >= {"rte-teacher", "rte-kd-0", "rte-lrc-0"}
    assert [*(tmp_path / "failed").iterdir()] == []
    assert results(tmp_path)["sst2-kd-0"] == undisturbed["sst2-kd-0"]


def test_nothing_but_failures(commands: Commands, tmp_path: Path) -> None:
    with failing("none"):
        ran = commands("compare", "--tasks", "sst2", "--methods", "kd", *SIZES, "--out", tmp_path)
    assert ran.code == 1 and "sst2 teacher 0 failed: RuntimeError" in ran.err and "1 failed" in ran.out
    assert "report" not in ran.out and not (tmp_path / "report.html").exists()
    commands.fails("table", tmp_path, says=("holds no records",))


# --- the disk ---------------------------------------------------------------------------------------------------------


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Every file of this process ends at ``size`` bytes, as on a disk that is full by then."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def test_no_room_for_a_teacher(commands: Commands, tmp_path: Path, undisturbed: dict[str, Any]) -> None:
    with files_of_at_most(20_000):
        commands.fails(*GRID, "--out", tmp_path, code=1, says=(f"cannot write to {tmp_path}", "File too large"))
    assert records(tmp_path) == {} and [*(tmp_path / "teachers").iterdir()] == []
    commands.works(*GRID, "--out", tmp_path)
    assert results(tmp_path) == undisturbed


def test_no_room_for_a_checkpoint(commands: Commands, tmp_path: Path) -> None:
    model = ("--train-rows", "64", "--validation-rows", "32", "--epochs", "1")
    finetune = ("finetune", "--task", "sst2", "--model", TEACHER, *model, "--out", tmp_path)
    # The weights take 210 kB, the optimiser's state twice that: each library says that it failed in its own way.
    for size, says in ((20_000, "File too large"), (300_000, "full disk")):
        with files_of_at_most(size):
            commands.fails(*finetune, code=1, says=(f"cannot write to {tmp_path}", says))
        assert not (tmp_path / "record.json").exists()
    commands.works(*finetune)
    assert (tmp_path / "record.json").exists()


def full(*_: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_no_room_for_a_record(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, Any]
) -> None:
    path, replace = tmp_path / "cells" / "sst2-kd-0.json", os.replace

    def full_for_kd(source: Path, target: Path) -> None:
        full() if target == path else replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full_for_kd)
        commands.fails(*GRID, "--out", tmp_path, code=1, says=(f"cannot write {path}: No space left on device",))
    assert records(tmp_path).keys() == {"sst2-teacher", "sst2-none-0"} and left_over(tmp_path) == set()
    assert [file.name for file in (tmp_path / "cells").iterdir()] == ["sst2-none-0.json"]
    commands.works(*GRID, "--out", tmp_path)
    assert results(tmp_path) == undisturbed


def test_a_file_is_there_whole_or_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "new" / "file"
    write_atomically(path, "first")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DistillationFailure, match="No space left on device"):
        write_atomically(path, "second")
    assert path.read_text() == "first" and [*path.parent.iterdir()] == [path]


# --- the folder -------------------------------------------------------------------------------------------------------


def file_of(folder: Path, cell: str) -> tuple[int, int]:
    """What changes when a record is written again."""
    found = (folder / "cells" / f"{cell}.json").stat()
    return found.st_ino, found.st_mtime_ns


FORMS = {"score": float("nan"), "metrics": None, "step_seconds": 3, "history": [1], "curve": "x", "peak_memory": "x"}


@pytest.mark.parametrize("damage", ["truncated", "empty", "list", "noise", "lacking", "forms"])
def test_a_damaged_record_is_set_aside_and_computed_again(
    damage: str, commands: Commands, tmp_path: Path, undisturbed: dict[str, Any], grid: Path
) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    path, aside = tmp_path / "cells" / "sst2-kd-0.json", tmp_path / "cells" / "sst2-kd-0.json.damaged-1"
    whole = path.read_bytes()
    lacking = b'{"task": "sst2", "method": "kd", "seed": 0, "score": null}'
    contents = {"truncated": whole[:200], "empty": b"", "list": b"[]", "noise": b"\xff\xfe\x00", "lacking": lacking}
    contents["forms"] = json.dumps(json.loads(whole) | FORMS).encode()
    path.write_bytes(contents[damage])
    before = {name: file_of(tmp_path, name) for name in ("sst2-none-0", "sst2-lrc-0")}
    shown = commands("table", tmp_path)
    assert shown.code == 0 and f"warning: left out: {path}" in shown.err and "remove it" in shown.err
    out = commands.works(*GRID, "--out", tmp_path)
    assert f"warning: {path}" in out and f"set aside as {aside}\n" in out
    assert aside.read_bytes() == contents[damage] and results(tmp_path) == undisturbed
    assert {name: file_of(tmp_path, name) for name in before} == before, "the others are as they were"

    path.write_bytes(contents[damage])
    commands.works(*GRID, "--out", tmp_path)
    assert path.with_name("sst2-kd-0.json.damaged-2").exists() and aside.exists()


@pytest.mark.parametrize("name", FORMS)
def test_a_record_with_one_field_in_another_form_is_named_and_left_out(
    name: str, commands: Commands, tmp_path: Path, grid: Path
) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cells" / "sst2-kd-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: FORMS[name]}))
    line, before = f"left out: {path} lacks {name}; remove it, and what it held is computed again", path.read_bytes()
    for command in (("table", "--markdown"), ("table", tmp_path), *[("report",)] * (name == "curve")):
        ran = commands(*command, tmp_path)
        assert ran.code == 0 and f"kdzoo: warning: {line}\n" in ran.err, ran
        assert command[-1] != "--markdown" or ("| none |" in ran.out and "| kd |" not in ran.out)
    assert path.read_bytes() == before
    assert name != "curve" or line in html.unescape((tmp_path / "report.html").read_text())
    with pytest.raises(KdzooError, match=f"{path} lacks {name}"):
        read_study(tmp_path)


def test_a_damaged_record_of_a_teacher(
    commands: Commands, tmp_path: Path, undisturbed: dict[str, Any], grid: Path
) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    (tmp_path / "teachers" / "sst2" / "record.json").write_text("{")
    out = commands.works(*GRID, "--out", tmp_path)
    aside = tmp_path / "teachers" / ".sst2.damaged-1"
    assert f"set aside as {aside}\n" in out and "sst2   teacher seed 0" in out and "sst2   kd " not in out
    assert (aside / "record.json").read_text() == "{" and (aside / "model.safetensors").exists()
    assert results(tmp_path) == undisturbed


def test_a_damaged_teacher_is_named(
    commands: Commands, tmp_path: Path, grid: Path, undisturbed: dict[str, Any]
) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    teacher = tmp_path / "teachers" / "sst2"
    os.truncate(teacher / "model.safetensors", 5000)
    (tmp_path / "cells" / "sst2-kd-0.json").unlink()
    ran = commands(*GRID, "--out", tmp_path)
    says = (str(teacher / "model.safetensors"), "truncated or damaged", f"remove {teacher}", "--retry-failed")
    assert ran.code == 1 and all(phrase in ran.err for phrase in says), ran
    shutil.rmtree(teacher)
    commands.works(*GRID, "--retry-failed", "--out", tmp_path)
    assert results(tmp_path) == undisturbed


@pytest.mark.parametrize("text", ['{"task": "sst2", "method"', '{"task": "sst2"}'])
def test_a_damaged_failure(text: str, commands: Commands, tmp_path: Path, grid: Path) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "failed" / "sst2-crd-0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    shown = commands("table", tmp_path)
    assert shown.code == 0 and f"warning: left out: {path}" in shown.err, shown
    out = commands.works(*GRID, "--out", tmp_path)
    assert f"warning: {path}" in out and f"set aside as {path}.damaged-1" in out
    commands.works("report", tmp_path)


@pytest.mark.parametrize("text", ['{"format": 1', '{"format": "1"}', '{"format": 1, "commands": "kdzoo"}', "[]"])
def test_a_damaged_configuration(text: str, commands: Commands, tmp_path: Path, grid: Path) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "config.json"
    path.write_text(text)
    for command in (("table", tmp_path), ("report", tmp_path), (*GRID, "--out", tmp_path)):
        commands.fails(*command, says=(str(path), "remove it: the records beside it say themselves"))
    path.unlink()
    commands.works(*GRID, "--out", tmp_path)


def test_a_record_of_a_newer_kdzoo(commands: Commands, tmp_path: Path, grid: Path) -> None:
    shutil.copytree(grid, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "cells" / "sst2-kd-0.json"
    path.write_text(json.dumps({"format": 99, "result": 1}))
    config = (tmp_path / "config.json").read_bytes()
    for command in ((*GRID, "--seeds", "2", "--out"), ("table",)):
        commands.fails(*command, tmp_path, says=(str(path), "newer kdzoo", "format 99"))
    assert json.loads(path.read_text()) == {"format": 99, "result": 1}
    assert (tmp_path / "config.json").read_bytes() == config


def test_a_folder_of_a_newer_kdzoo(commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"format": 99, "shared": {}}))
    commands.fails(*GRID, "--out", tmp_path, says=(str(tmp_path), "newer kdzoo", "format 99"))


def test_one_run_at_a_time_in_a_folder(commands: Commands, tmp_path: Path) -> None:
    finetune = ("finetune", "--task", "sst2", "--model", TEACHER, "--train-rows", "64")
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        for command in (GRID, finetune):
            commands.fails(*command, "--out", tmp_path, says=(f"{tmp_path} is in use by another run", "--out"))
    assert not (tmp_path / "config.json").exists() and records(tmp_path) == {}
