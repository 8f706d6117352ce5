"""Everything in `tests/hostile` is refused in one line, before anything runs, or set aside."""

from __future__ import annotations

import json
import os
import shutil
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROWS, SIZES, STUDENT, TEACHER, Commands
from hostile import files, names, numbers

from kdzoo.bench.files import DamagedRecord, write_atomically
from kdzoo.bench.folder import Records, check_output, undone
from kdzoo.bench.grid import cells
from kdzoo.bench.record import read_failure, read_record
from kdzoo.bench.report.table import load
from kdzoo.bench.runs.train import last_checkpoint
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning, check_name, out_of_memory
from kdzoo.objectives.overrides import load_recipes
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.own_file import from_yaml
from kdzoo.tasks.spans import read_squad
from kdzoo.tasks.text import Text
from kdzoo.tasks.tokens import read_conll

GRID = ("compare", "--tasks", "sst2", "--methods", "none,kd", *SIZES)
TERMS = [{"terms": [{"loss": "kd"}]}]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a comparison."""
    from kdzoo.cli.main import main

    folder = tmp_path_factory.mktemp("grid")
    with pytest.raises(SystemExit, match="0"):
        main([*GRID, "--out", str(folder)])
    return folder


@pytest.fixture
def copy(grid: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    shutil.copytree(grid, tmp_path / "copy")
    return tmp_path / "copy"


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*names.REFUSED, *names.REFUSED_METHODS], ids=names.shown)
def test_no_recipe_or_method_is_called_so(name: str) -> None:
    with pytest.raises(KdzooError) as of_recipe:
        Recipe.parse({"name": name, "stages": TERMS})
    said = [str(of_recipe.value)]
    assert "cannot be called" in said[0]
    if name.strip() not in names.FINE and name != "name\n":
        with pytest.raises(KdzooError) as of_method:
            Recipe.load(f"{name} = kd + ce")
        said.append(str(of_method.value))
    assert all(line.isprintable() and len(line) < 600 for line in said)


@pytest.mark.parametrize("name", names.REFUSED, ids=names.shown)
def test_no_task_is_called_so(name: str) -> None:
    from kdzoo.tasks import Classification
    from kdzoo.tasks.registry import register_task

    with pytest.raises(KdzooError, match="cannot be called"):
        register_task(Classification(name, ("text",), labels=("a", "b")))


@pytest.mark.parametrize("name", names.FINE)
def test_these_are_names(name: str) -> None:
    assert check_name("recipe", name) == name
    assert Recipe.load(f"{name}=kd+ce").name == name
    assert Recipe.parse({"name": name, "stages": TERMS}).name == name


@pytest.mark.parametrize("name", ["../x", "teacher", "$x$", "=1+1"])
def test_a_name_is_refused_before_anything_is_there(name: str, commands: Commands, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(json.dumps({"name": name, "stages": TERMS}))
    before = sorted(tmp_path.iterdir())
    for method in (tmp_path / "mine.yaml", f"{name} = kd + ce"):
        options = ("--tensorboard", "--out", tmp_path / "out")
        commands.fails("compare", "--methods", method, *SIZES, *options, says=("cannot be called",))
    assert sorted(tmp_path.iterdir()) == before


def test_a_long_expression_has_a_name_of_its_own() -> None:
    text = "hidden_mse(name=a)*0.125 + cos_nce@cls[skip](name=b)*0.25 + kd(temperature={}) + ce"
    one, other = (Recipe.load(text.format(temperature)) for temperature in (2, 3))
    assert one.name != other.name and len(one.name) == len(other.name) == 64
    assert check_name("method", one.name)


def test_two_methods_that_a_file_system_takes_for_one() -> None:
    with pytest.raises(KdzooError, match="two methods are called 'mine' and 'MINE'"):
        load_recipes(["mine = kd + ce", "MINE = kd*2 + ce"])


def test_records_of_two_cells_in_one_file(tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=r"the records of kd on my-a and of a-kd on my would be one file, my-a-kd"):
        Records(tmp_path, {}, {"tasks": ["my", "my-a"], "methods": ["a-kd", "kd"]})


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("arguments", "says"), numbers.REFUSED, ids=names.shown)
def test_a_number_that_is_none(
    arguments: tuple[str, ...], says: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdzoo.bench.runs.tasks.load", lambda *_, **__: pytest.fail("rows were made"))
    if arguments[0].startswith("-"):
        arguments = (
            ("compare", "--methods", "kd", *arguments) if "--methods" not in arguments else ("compare", *arguments)
        )
    if arguments[0] in ("compare", "finetune"):
        arguments += ("--out", str(tmp_path / "out"))
    said = commands.fails(*arguments, says=(says,))
    assert len(said) < 2500 and not (tmp_path / "out").exists()


# --- recipes and records ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("content", "says"), [case[1:] for case in files.RECIPES], ids=[of[0] for of in files.RECIPES])
def test_a_recipe_s_file_that_is_none(content: bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_bytes(content)
    with pytest.raises(KdzooError, match=says) as raised:
        Recipe.load(tmp_path / "mine.yaml")
    assert "mine.yaml" in str(raised.value) and len(str(raised.value)) < 2100


@pytest.mark.parametrize("content", [files.BOMB, files.MERGES, "a: &a [*a]"])
def test_aliases_of_a_task_s_file_that_grow(content: str, tmp_path: Path) -> None:
    (tmp_path / "task.yaml").write_text(content)
    with pytest.raises(KdzooError, match=r"task\.yaml is not YAML: its aliases stand for more than 10000 values"):
        from_yaml(tmp_path / "task.yaml")


@pytest.mark.parametrize("name", ["checkpoint-x", "checkpoint-", "checkpoint--1", "checkpoint-²", "checkpoint-1e3"])
def test_a_folder_that_is_called_nearly_like_a_checkpoint(name: str, tmp_path: Path) -> None:
    for folder, step in ((name, 9), ("checkpoint-2", 2), ("checkpoint-10", 10)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "trainer_state.json").write_text(json.dumps({"global_step": step}))
    assert last_checkpoint(tmp_path) == (str(tmp_path / "checkpoint-10"), 10)


def test_an_output_folder_is_looked_at_and_left_as_it_was(tmp_path: Path) -> None:
    check_output(tmp_path / "a" / "b")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "cells").write_text("")
    with pytest.raises(KdzooError, match="cells is no folder, and a folder of kdzoo's goes there"):
        check_output(tmp_path)
    with pytest.raises(KdzooError, match=r"out: .*cells is no folder; choose another --out"):
        check_output(tmp_path / "cells" / "out")


def test_aliases_are_honoured(tmp_path: Path) -> None:
    text = "name: mine\nstages:\n- terms: &t [{loss: kd}]\n  fraction: 0.5\n- terms: *t\n  fraction: 0.5\n"
    (tmp_path / "mine.yaml").write_text(text)
    assert [len(stage.terms) for stage in Recipe.load(tmp_path / "mine.yaml").stages] == [1, 1]


@pytest.mark.parametrize("content", [of[1] for of in files.RECORDS], ids=[of[0] for of in files.RECORDS])
def test_a_text_that_is_no_record(content: bytes, copy: Path, commands: Commands) -> None:
    path = copy / "cells" / "sst2-kd-0.json"
    path.write_bytes(content)
    with pytest.raises(DamagedRecord, match="remove it"):
        read_record(path)
    with pytest.raises(DamagedRecord, match="remove it"):
        read_failure(path)
    shown = commands("table", copy)
    assert shown.code == 0 and f"warning: left out: {path}" in shown.err and "remove it" in shown.err, shown


@pytest.mark.parametrize(("field", "value"), files.FIELDS, ids=names.shown)
def test_a_record_that_the_report_cannot_draw(field: str, value: Any, copy: Path) -> None:
    path = copy / "cells" / "sst2-kd-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {field: value}))
    with pytest.raises(DamagedRecord, match=f"{path} (lacks|is of|cannot)"):
        read_record(path)


def test_such_a_record_is_set_aside(copy: Path, commands: Commands) -> None:
    path, other = copy / "cells" / "sst2-kd-0.json", copy / "cells" / "sst2-none-0.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"curve": [{}]}))
    other.write_bytes(other.read_bytes().replace(b'"method": "none"', b'"method": "kd"'))
    out = commands.works(*GRID, "--out", copy)
    assert out.count("set aside as") == 2 and f"{other} is of sst2, kd, seed 0, which its name does not say" in out
    assert read_record(path)["method"] == "kd" and read_record(other)["method"] == "none"


def test_a_record_whose_answers_are_of_other_rows_is_left_out(copy: Path) -> None:
    cell, teacher = copy / "cells" / "sst2-kd-0.json", copy / "teachers" / "sst2" / "record.json"
    whole = json.loads(cell.read_text())
    short = whole | {"predictions": {"validation": whole["predictions"]["validation"][:-1]}}
    cell.write_text(json.dumps(short))
    read_record(cell)
    with pytest.warns(KdzooWarning, match="left out: the record of sst2, kd, seed 0 has 31 predictions on validation"):
        study = load(copy)
    assert {record["method"] for record in study.records} == {"teacher", "none"} and len(study.damaged) == 1
    cell.write_text(json.dumps(whole))
    of_teacher = json.loads(teacher.read_text())
    for damage in (
        {"references": {"validation": of_teacher["references"]["validation"][:-1]}},
        {"references": {"validation": [[0, 1]] * 32}},
        {"sources": ["a text"]},
    ):
        teacher.write_text(json.dumps(of_teacher | damage))
        with pytest.warns(KdzooWarning, match="left out: .*sst2"):
            assert "teacher" not in {record["method"] for record in load(copy).records}
    for path in copy.glob("cells/*.json"):
        path.write_text("{")
    with pytest.warns(KdzooWarning), pytest.raises(KdzooError, match="holds no whole records"):
        load(copy)


def test_a_teacher_s_record_in_another_s_folder(copy: Path) -> None:
    shutil.copytree(copy / "teachers" / "sst2", copy / "teachers" / "mrpc")
    with pytest.raises(DamagedRecord, match="which its name does not say"):
        read_record(copy / "teachers" / "mrpc" / "record.json")


# --- files that are none ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["pipe", "socket", "folder", "loop", "below a file"])
def test_no_file_is_written_there(kind: str, tmp_path: Path, commands: Commands, grid: Path) -> None:
    path = tmp_path / "x"
    with socket.socket(socket.AF_UNIX) as listening:
        if kind == "pipe":
            os.mkfifo(path)
        elif kind == "socket":
            os.chdir(tmp_path)  # the path of a socket is short
            listening.bind("x")
        elif kind == "folder":
            path.mkdir()
        elif kind == "loop":
            path.symlink_to("x")
        else:
            path.write_text("here first")
            path = path / "y"
        before = path.lstat().st_mode if kind != "below a file" else None
        with pytest.raises(KdzooError, match="cannot write"):
            write_atomically(path, "text")
        commands.fails("report", grid, "--out", path, says=("cannot write", str(path)))
        commands.fails("cost", "kd", "--out", path, says=("cannot write", str(path)))
        assert before is None or path.lstat().st_mode == before
        assert [of.name for of in tmp_path.iterdir()] == ["x"]


def test_a_device_is_not_replaced(grid: Path, commands: Commands) -> None:
    before = os.stat(os.devnull)
    commands.fails("report", grid, "--out", os.devnull, says=("cannot write /dev/null", "a device"))
    commands.fails("compare", *GRID[1:], "--out", os.devnull, says=("/dev/null",))
    for also in ((), ("--dry-run",)):
        says = ("cannot write to the output folder /dev/full/x/y: /dev/full is no folder; choose another --out",)
        commands.fails("compare", *GRID[1:], "--out", "/dev/full/x/y", *also, says=says)
    assert os.stat(os.devnull).st_rdev == before.st_rdev


def test_behind_a_link_the_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_atomically(tmp_path / "link", "one")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "real").read_text() == "one"


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o002])
def test_files_and_folders_have_the_umask_s_rights(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "file", "text")
        with Records(tmp_path / "out", {}, {}).building(tmp_path / "out" / "teachers" / "sst2") as scratch:
            (scratch / "record.json").write_text("{}")
    finally:
        os.umask(before)
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask
    assert (tmp_path / "out" / "teachers" / "sst2").stat().st_mode & 0o777 == 0o777 & ~umask


def _link(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to("/nowhere/at/all")


def _pipe(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(path)


@pytest.mark.parametrize("make", [_link, _pipe])
@pytest.mark.parametrize(
    "part", [".lock", "config.json", "cells", "teachers", "teachers/sst2", "failed", "work", "trials"]
)
def test_something_else_in_the_folder(make: Any, part: str, tmp_path: Path, commands: Commands) -> None:
    make(tmp_path / "out" / part)
    said = "it is a pipe; remove it" if (part, make) == ("config.json", _pipe) else "another --out"
    commands.fails(*GRID, "--out", tmp_path / "out", says=(str(tmp_path / "out" / part), said))


def test_a_lock_that_is_a_link_leaves_its_target(tmp_path: Path, commands: Commands) -> None:
    (tmp_path / "precious").write_text("here first")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / ".lock").symlink_to(tmp_path / "precious")
    commands.fails(*GRID, "--out", tmp_path / "out", says=("is a link",))
    assert (tmp_path / "precious").read_text() == "here first"


def test_pipes_are_not_waited_for(tmp_path: Path, copy: Path, commands: Commands) -> None:
    os.mkfifo(tmp_path / "mine.yaml")
    commands.fails("check", tmp_path / "mine.yaml", says=("mine.yaml", "a pipe or the like; name a file"))
    os.mkfifo(copy / "cells" / "sst2-pkd-0.json")
    ran = commands("table", copy)
    assert ran.code == 0 and "sst2-pkd-0.json" in ran.err and "a pipe" in ran.err


def _yaml(folder: Path, files: str) -> Path:
    (folder / "task.yaml").write_text(f"columns: {{text: text, label: label}}\nfiles: {files}\n")
    return folder / "task.yaml"


# What is read, by its option; each is given a pipe that nobody writes to.
READ: dict[str, Callable[[Path], tuple[Any, ...]]] = {
    "a table": lambda pipe: ("--data", pipe.rename(pipe.with_suffix(".csv")), "--text", "text", "--label", "label"),
    "parquet": lambda pipe: ("--data", pipe.rename(pipe.with_suffix(".parquet")), "--text", "t", "--label", "label"),
    "no suffix": lambda pipe: ("--data", pipe, "--text", "text", "--label", "label"),
    "tagged sentences": lambda pipe: ("--data", pipe, "--kind", "tokens"),
    "questions": lambda pipe: ("--data", pipe, "--kind", "spans"),
    "a task": lambda pipe: ("--tasks", pipe.rename(pipe.with_suffix(".yaml"))),
    "a task's file": lambda pipe: ("--tasks", _yaml(pipe.parent, pipe.name)),
    "a task's split": lambda pipe: ("--tasks", _yaml(pipe.parent, f"{{train: {pipe.name}}}")),
    "a recipe": lambda pipe: ("--tasks", "sst2", "--methods", pipe.rename(pipe.with_suffix(".yaml"))),
    "word vectors": lambda pipe: ("--tasks", "sst2", "--augment", "1", "--glove", pipe),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", READ)
def test_a_pipe_is_not_read(what: str, commands: Commands, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    given = READ[what](tmp_path / "pipe")
    models = ("--teacher", "1x16,heads=2", "--student", "1x16,heads=2")
    commands.fails("compare", *given, *models, "--out", tmp_path / "out", says=("pipe",))
    assert not (tmp_path / "out").exists()


@pytest.mark.timeout(60)
def test_no_text_is_read_from_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "text.txt")
    with pytest.raises(KdzooError, match=r"text\.txt is no plain file; name a file"):
        Text([tmp_path / "text.txt"])
    for folder, reader in (("conll", read_conll), ("squad", read_squad)):
        os.mkfifo(tmp_path / folder)
        with pytest.raises(KdzooError, match=f"{folder} is no plain file"):
            reader(tmp_path / folder)


def test_a_path_that_is_not_utf8(commands: Commands) -> None:
    for arguments in ((*GRID, "--out", "/tmp/\udcff"), ("table", "\udcff"), ("check", "\udcff.yaml")):
        commands.fails(*arguments, says=("is not UTF-8",))


def test_a_file_of_a_name_that_is_not_utf8(copy: Path, commands: Commands) -> None:
    (copy / "cells" / os.fsdecode(b"\xff.json")).write_text("{}")
    ran = commands("table", copy)
    assert ran.code == 0 and "json lacks task, method, seed" in ran.err
    assert "set aside as" in commands.works(*GRID, "--out", copy)


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", ["nothing", "an empty folder"])
def test_the_folder_is_removed_while_it_runs(
    left: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = cells.train

    def train(*given: Any, **options: Any) -> Any:
        found = trained(*given, **options)
        if options["evaluations"] and given[2].name == "none":
            shutil.rmtree(tmp_path / "out")
            if left != "nothing":
                (tmp_path / "out").mkdir()
        return found

    monkeypatch.setattr(cells, "train", lambda *given, **options: train(*given, **{"evaluations": 0} | options))
    commands.fails(*GRID, "--out", tmp_path / "out", code=1, says=("was removed while it was written",))


def test_a_model_s_folder_is_removed_while_it_runs(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from kdzoo.bench.runs import single

    trained = single.train

    def train(*given: Any, **options: Any) -> Any:
        found = trained(*given, **options)
        shutil.rmtree(tmp_path / "out")
        return found

    monkeypatch.setattr(single, "train", train)
    finetune = ("finetune", "--task", "sst2", "--model", STUDENT, *ROWS, "--out", tmp_path / "out")
    commands.fails(*finetune, code=1, says=("was removed while it was written",))


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you ..."),
                                   torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")])  # fmt: skip
def test_out_of_memory(
    error: BaseException, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> Any:
        raise error

    monkeypatch.setattr(cells, "train", full)
    monkeypatch.setattr("kdzoo.bench.runs.single.train", full)
    commands.fails(*GRID, "--out", tmp_path / "grid", code=1, says=("out of memory", "lower --batch-size"))
    finetune = ("finetune", "--task", "sst2", "--model", STUDENT, *ROWS, "--out", tmp_path / "one")
    commands.fails(*finetune, code=1, says=("out of memory", "lower --batch-size"))
    assert out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied")) is None


def test_what_is_refused_leaves_nothing(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdzoo.bench.grid.launchers.local import InProcess

    def refused(*_: Any) -> Any:
        raise KdzooError("no Ray cluster at 127.0.0.1:1")

    monkeypatch.setattr(InProcess, "run", refused)
    out = tmp_path / "new" / "out"
    commands.fails(*GRID, "--out", out, says=("no Ray cluster",))
    assert not out.parent.exists()
    out.mkdir(parents=True)
    (out / "mine.txt").write_text("here first")
    commands.fails(*GRID, "--out", out, says=("no Ray cluster",))
    assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_what_is_trained_or_another_s_is_left(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        with pytest.raises(KdzooError), undone(tmp_path / "out"):
            (tmp_path / "out" / name).parent.mkdir(parents=True)
            (tmp_path / "out" / name).write_text("{}")
            raise KdzooError("no")

    refuse("cells/sst2-kd-0.json")
    assert (tmp_path / "out" / "cells").exists()
    shutil.rmtree(tmp_path / "out")
    refuse("config.json")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DistillationFailure), undone(tmp_path / "out"):
        (tmp_path / "out").mkdir()
        raise DistillationFailure("that is no refusal")
    assert (tmp_path / "out").exists()


def test_a_refused_pretraining_leaves_no_folder(commands: Commands, tmp_path: Path) -> None:
    from kdzoo.models.spec import ModelSpec
    from kdzoo.tasks import get_task
    from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer

    tokenizer = synthetic_tokenizer()
    ModelSpec.parse(TEACHER).build(get_task("sst2"), tokenizer=tokenizer).bert.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "text.txt").write_text("a good film\n" * 20)
    options = ("--text", tmp_path / "text.txt", "--teacher", tmp_path / "model", "--student", STUDENT)
    commands.fails("pretrain", *options, "--method", "ce*1", "--out", tmp_path / "out", says=("needs a task's labels",))
    assert not (tmp_path / "out").exists()


def test_a_record_names_no_function_to_run(copy: Path, tmp_path: Path, commands: Commands, monkeypatch: Any) -> None:
    """A metric of one's own is imported where a task of one's own has it, and not because a record says so."""
    (tmp_path / "evil_metric.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\ndef score(*_): return 1.0\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    for path in [*(copy / "cells").glob("*.json"), copy / "teachers" / "sst2" / "record.json"]:
        path.write_text(json.dumps(json.loads(path.read_text()) | {"headline": ["evil_metric:score"]}))
    commands.works("report", copy)
    commands.works("table", copy, "--against", "none")
    assert not (tmp_path / "ran").exists()
