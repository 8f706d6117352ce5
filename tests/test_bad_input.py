"""Bad input: one line that says what was wrong and what would be right, and the right exit code, before training."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROWS, SIZES, STUDENT, TEACHER, Commands

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.losses import registry
from kdzoo.losses.base import DistillationLoss


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Untrained models: ``sst2`` and ``mnli`` with heads, ``bare`` without one, ``words`` of another vocabulary."""
    from transformers import BertConfig, BertForSequenceClassification

    from kdzoo.models.teachers import make_teacher
    from kdzoo.tasks import get_task
    from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer

    root = tmp_path_factory.mktemp("models")
    tokenizer = synthetic_tokenizer()
    for task in ("sst2", "mnli"):
        make_teacher(TEACHER, tokenizer, get_task(task)).save_pretrained(root / task)
    make_teacher(TEACHER, tokenizer, get_task("sst2")).bert.save_pretrained(root / "bare")
    small = BertConfig(
        vocab_size=50, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    BertForSequenceClassification(small).save_pretrained(root / "words")
    for folder in root.iterdir():
        tokenizer.save_pretrained(folder)
    return root


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Losses registered for a test: one that may not project, one that turns into NaN at its third step."""
    kdzoo.available()  # so that the registry is full before it is copied
    monkeypatch.setattr(registry, "_losses", dict(registry._losses))

    @kdzoo.register("plain_mse")
    class Plain(DistillationLoss):
        """A loss without a projection."""

        features = ("hidden",)

        def __init__(self) -> None:
            super().__init__()

        def compute(self, student: torch.Tensor, teacher: torch.Tensor, **_: Any) -> torch.Tensor:
            return (student - teacher).square().mean()

    @kdzoo.register("breaking")
    class Breaking(DistillationLoss):
        """A loss that becomes NaN."""

        def __init__(self, at: int = 3) -> None:
            super().__init__()
            self.left = at

        def compute(self, student: torch.Tensor, teacher: torch.Tensor, **_: Any) -> torch.Tensor:
            self.left -= 1
            return student.square().mean() * (float("nan") if self.left == 0 else 1.0)


def recipe(folder: Path, text: str) -> Path:
    """A recipe's file with one term or more."""
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def one_term(folder: Path, term: str) -> Path:
    return recipe(folder, f"name: mine\nstages:\n- terms:\n  - {{{term}}}\n")


# --- names ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("show", "cos_nse"), ("unknown loss or recipe 'cos_nse'", "did you mean 'cos_nce'?")),
        (("show", "ce", "--yaml"), ("ce is a loss", "only a recipe")),
        (("check", "tinybrt"), ("unknown recipe 'tinybrt'", "did you mean 'tinybert'?")),
        (("compare", "--methods", "none,pdk"), ("unknown recipe 'pdk'", "did you mean 'pkd'?")),
        (("compare", "--methods", "nne,kd"), ("unknown recipe 'nne'", "did you mean 'none'?")),  # and not 'annealing'
        (("compare", "--tasks", "sst3"), ("unknown task 'sst3'", "did you mean 'sst2'?")),
        (("finetune", "--task", "mprc", "--model", TEACHER, "--out", "OUT"), ("did you mean 'mrpc'?",)),
        (("compare", "--data", "synthetc", "--teacher", "MODEL"), ("did you mean 'synthetic'?",)),
        (("compare", "--data", "synthetc"), ("did you mean 'synthetic'?",)),
        (("compare", "--data", "nowhere", "--teacher", TEACHER), ("'nowhere' is not a folder",)),
        (("compare", *SIZES, "--out", ""), ("what follows --out is empty",)),
        (("compare", *SIZES, "--out="), ("what follows --out is empty",)),
        (("compare", "--set", "ks.temperature=2"), ("unknown term 'ks'",)),
        (("check", "kd", "--set", "kd.temprature=2"), ("'temprature'", "did you mean 'temperature'?")),
        (("show", "kd", "--set", "kd.temprature=2"), ("'temprature'", "did you mean 'temperature'?")),
        (("check", "kd", "--set", "kd.temperature"), ("not of the form key=value",)),
        (("check", "kd", "--set", "kd.temperature=["), ("'[' is not a YAML value",)),
        (("check", "kd", "--set", "kd.temperature=hot"), ("kd.temperature is 'hot'", "number")),
        (("check", "kd", "--set", "kd.temperature=-1"), ("temperature is -1", "positive")),
        (("comprae",), ("'comprae'", "'compare'")),
        (("compare", "--taks", "sst2"), ("--taks", "--tasks")),
        (("compare", "--seeds", "two"), ("seeds = 'two'", "a number of seeds")),
        (("compare", "--seeds", "0"), ("seeds = '0'", "from 1 to 1000", "the seed 0 alone is '0,'")),
        (("compare", "--precision", "fp64"), ("precision = 'fp64'", "'fp32'")),
        (("compare", "--epochs", "0"), ("epochs = 0", "greater than 0")),
        (("compare", "--train-rows", "0"), ("train_rows = 0",)),
        (("compare", "--methods", ","), ("methods is missing",)),
        (("compare", "--methods", "kd,kd"), ("two methods are called 'kd'",)),
        (("compare", "--tasks", "sst2,sst2"), ("'sst2' is named twice",)),
        (("compare", "--max-length", "4096"), ("max_length is 4096", "takes at most 512 tokens")),
        (("compare", "--data", "hub"), ("needs a --teacher",)),
        (("distill", "--task", "sst2", "--method", "kd"), ("'--teacher'",)),
    ],
)
def test_names_and_options(
    arguments: tuple[str, ...], says: tuple[str, ...], commands: Commands, models: Path, tmp_path: Path
) -> None:
    filled = [{"OUT": tmp_path / "out", "MODEL": models / "sst2"}.get(argument, argument) for argument in arguments]
    where = ("--out", tmp_path / "out") if arguments[0] == "compare" else ()
    commands.fails(*filled, *where, says=says)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("name: mine\nstagse: []\n", ("unknown key 'stagse'", "did you mean 'stages'?")),
        ("name: mine\nstages:\n- terms: [{loss: kdd}]\n", ("unknown loss 'kdd'", "did you mean 'kd'?")),
        ("name: mine\nstages:\n- term: [{loss: kd}]\n", ("stages.0", "unknown key 'term'", "did you mean 'terms'?")),
        (
            "name: mine\nstages:\n- terms: [{loss: kd, temprature: 2}]\n",
            ("stages.0.terms.0", "'temprature'", "did you mean 'temperature'?"),
        ),
        (
            "name: mine\nstages:\n- terms: [{loss: cos_nce, feature: hiden}]\n",
            ("unknown feature of cos_nce 'hiden'", "did you mean 'hidden'?"),
        ),
        (
            "name: mine\nstages:\n- terms: [{loss: cos_nce, layers: unifrom}]\n",
            ("unknown layer map 'unifrom'", "did you mean 'uniform'?"),
        ),
        ("name: mine\nstages:\n- {fraction: 0.5, terms: [{loss: kd}]}\n", ("add up to 0.5", "must add up to 1")),
        ("name: mine\nstages: []\n", ("stages",)),
        ("name: mine\n", ("stages",)),
        ("- kd\n", ("a recipe is a mapping",)),
        ("name: [\n", ("is not YAML", "line 2")),
    ],
)
def test_recipe_files(text: str, says: tuple[str, ...], commands: Commands, tmp_path: Path) -> None:
    path = recipe(tmp_path, text)
    commands.fails("check", path, "--tasks", "sst2", *SIZES[:4], says=("mine.yaml", *says))


def test_a_recipe_file_that_is_not_there(commands: Commands, tmp_path: Path) -> None:
    says = ("gone.yaml", "No such file")
    commands.fails("distill", "--task", "sst2", "--method", tmp_path / "gone.yaml", *NOWHERE, says=says)


NOWHERE = ("--teacher", "nowhere", "--out", "nowhere")


# --- data -------------------------------------------------------------------------------------------------------------


GOOD = "sentence\tlabel\n" + "a good film\t1\na bad film\t0\n" * 4


@pytest.mark.parametrize(
    ("train", "validation", "says"),
    [
        (None, GOOD, ("no train split for sst2", "train with one of .tsv")),
        (GOOD, None, ("no validation split for sst2",)),
        (GOOD.replace("film\t1", "film\t2", 1), GOOD, ("train.tsv, row 1, column 'label'", "'2'", "0 (negative)")),
        (GOOD, GOOD.replace("film\t0", "film\tgreat", 1), ("validation.tsv, row 2, column 'label'", "'great'")),
        (GOOD.replace("sentence", "text"), GOOD, ("train.tsv", "no column 'sentence'", "text, label")),
        (GOOD.replace("a bad film\t0", "a bad film", 1), GOOD, ("train.tsv, row 2", "column 'label' is missing")),
        (GOOD.replace("a bad film\t0", "a\tb\t0", 1), GOOD, ("train.tsv, row 2", "3 fields")),
        ("sentence\tlabel\n", GOOD, ("train.tsv", "empty")),
        (GOOD, "sentence\tlabel\n", ("validation.tsv", "empty")),
        ("", GOOD, ("train.tsv", "no column 'sentence'")),
        (GOOD, "sentence\tlabel\na good film\t1\n", ("the validation split has one row; a comparison needs two",)),
    ],
)
@pytest.mark.parametrize("command", ["compare", "finetune"])
def test_data_files(
    command: str,
    train: str | None,
    validation: str | None,
    says: tuple[str, ...],
    commands: Commands,
    models: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / "data" / "sst2").mkdir(parents=True)
    for name, text in (("train", train), ("validation", validation)):
        if text is not None:
            (tmp_path / "data" / "sst2" / f"{name}.tsv").write_text(text)
    model = {
        "compare": ("--tasks", "sst2", "--methods", "none", "--teacher", models / "sst2", "--student", STUDENT),
        "finetune": ("--task", "sst2", "--model", models / "sst2"),
    }[command]
    commands.fails(command, *model, "--data", tmp_path / "data", "--out", tmp_path / "out", *ROWS, says=says)


def test_a_folder_without_the_task(commands: Commands, models: Path, tmp_path: Path) -> None:
    options = ("--tasks", "sst2", "--data", tmp_path, "--teacher", models / "sst2")
    says = ("no data for sst2", str(tmp_path / "sst2"), str(tmp_path / "SST-2"))
    commands.fails("compare", *options, "--out", tmp_path / "out", says=says)


def test_a_score_out_of_range(commands: Commands, models: Path, tmp_path: Path) -> None:
    (tmp_path / "data" / "stsb").mkdir(parents=True)
    for name, score in (("train", 5.5), ("validation", 5.0)):
        text = f"sentence1\tsentence2\tlabel\na film\ta book\t0.5\na film\ta film\t{score}\n"
        (tmp_path / "data" / "stsb" / f"{name}.tsv").write_text(text)
    options = ("--tasks", "stsb", "--data", tmp_path / "data", "--teacher", models / "bare")
    says = ("train.tsv, row 2, column 'label'", "'5.5'", "0 to 5")
    commands.fails("compare", *options, "--out", tmp_path / "out", says=says)


# --- models -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "student", "says"),
    [
        ("loss: attention_mse", "1x32,heads=1", ("mine on sst2", "attention_mse", "heads", "1", "2")),
        ("loss: attention_kl", "1x32,heads=1", ("mine on sst2", "attention_kl", "heads", "1", "2")),
        ("loss: plain_mse", STUDENT, ("mine on sst2", "plain_mse has no projection", "16", "32")),
        ("loss: hidden_mse, layers: [[1, 3]]", STUDENT, ("teacher index 3 is out of range", "0 to 2")),
        ("loss: hidden_mse, layers: [[2, 2]]", STUDENT, ("student index 2 is out of range", "0 to 1")),
        ("loss: attention_mse, layers: [[0, 2]]", STUDENT, ("teacher index 2 is out of range", "0 to 1")),
        ("loss: pkd, layers: skip", STUDENT, ("'skip' leaves no layer",)),
        ("loss: kd, layers: last", STUDENT, ("logits", "no layers to map")),
        ("loss: kd", "4x", ("'4x' is malformed", "4x312")),
        ("loss: kd", "4x10,heads=3", ("3 heads do not divide", "10")),
        ("loss: kd", "1x16,head=2", ("unknown option of a size 'head'", "did you mean 'heads'?")),
        ("loss: kd", "teacher:0,5", ("the teacher has 2 layers", "layer 5")),
        ("loss: kd", "teacher:", ("names no layers",)),
        ("loss: kd", "nowhere/at/all", ("'nowhere/at/all'", "there is no such folder")),
    ],
)
@pytest.mark.usefixtures("own")
def test_losses_and_students_that_do_not_fit(
    term: str, student: str, says: tuple[str, ...], commands: Commands, models: Path, tmp_path: Path
) -> None:
    path = one_term(tmp_path, term)
    commands.fails("check", path, "--tasks", "sst2", "--teacher", TEACHER, "--student", student, says=says)
    options = ("--task", "sst2", "--teacher", models / "sst2", "--student", student, *ROWS)
    said = tuple(part.removeprefix("mine on sst2") for part in says)
    commands.fails("distill", "--method", path, *options, "--out", tmp_path / "out", says=said)


@pytest.mark.parametrize("command", ["compare", "distill"])
def test_vocabularies_and_classes(command: str, commands: Commands, models: Path, tmp_path: Path) -> None:
    def fails(task: str, teacher: Path, student: Path, *says: str) -> None:
        names = ("--tasks", task, "--methods", "kd") if command == "compare" else ("--task", task, "--method", "kd")
        options = ("--teacher", teacher, "--student", student, "--out", tmp_path / "out", *ROWS)
        commands.fails(command, *names, *options, says=says)

    fails("sst2", models / "sst2", models / "words", "471 tokens", "embeddings for 50", str(models / "words"))
    fails("sst2", models / "sst2", models / "mnli", "head for 3 labels", "has 2", str(models / "mnli"))
    fails("mnli", models / "sst2", models / "sst2", "head for 2 labels", "has 3", str(models / "sst2"))
    fails("sst2", tmp_path / "none", models / "sst2", str(tmp_path / "none"), "there is no such folder")


def test_all_tasks_are_checked_before_the_first_is_trained(
    commands: Commands, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdzoo.bench.grid.cells.train", lambda *_, **__: pytest.fail("trained"))
    options = ("--methods", "none", "--teacher", models / "sst2", "--student", STUDENT, "--out", tmp_path / "out")
    commands.fails("compare", "--tasks", "sst2,mnli", *options, *ROWS, says=("head for 2 labels", "mnli has 3"))


def test_a_teacher_without_a_head(commands: Commands, models: Path, tmp_path: Path) -> None:
    says = ("bare", "(BertModel) has no classification head", "kdzoo finetune")
    options = ("--student", STUDENT, "--out", tmp_path / "out", *ROWS)
    distill = ("distill", "--task", "sst2", "--method", "kd")
    commands.fails(*distill, "--teacher", models / "bare", *options, says=says)
    commands.fails("compare", "--teacher", models / "bare", "--no-finetune-teacher", *options, says=says)
    commands.fails(*distill, "--teacher", TEACHER, *options, says=("has learned nothing yet", "kdzoo finetune"))


@pytest.mark.parametrize("side", ["teacher", "student"])
def test_a_truncated_model(side: str, commands: Commands, models: Path, tmp_path: Path) -> None:
    shutil.copytree(models / "sst2", tmp_path / "broken")
    os.truncate(tmp_path / "broken" / "model.safetensors", 5000)
    of = {"teacher": models / "sst2", "student": models / "sst2", side: tmp_path / "broken"}
    options = ("--teacher", of["teacher"], "--student", of["student"], *ROWS)
    says = (str(tmp_path / "broken" / "model.safetensors"), "truncated or damaged")
    commands.fails("compare", "--tasks", "sst2", "--methods", "kd", *options, "--out", tmp_path / "grid", says=says)
    commands.fails("distill", "--task", "sst2", "--method", "kd", *options, "--out", tmp_path / "one", says=says)


@pytest.mark.skipif(torch.accelerator.is_available(), reason="the machine has the precision")
def test_a_precision_that_the_machine_lacks(commands: Commands, tmp_path: Path) -> None:
    says = ("fp16 needs an accelerator", "fp32 or bf16")
    commands.fails("compare", "--precision", "fp16", "--out", tmp_path / "out", *SIZES, says=says)
    finetune = ("finetune", "--task", "sst2", "--model", TEACHER, "--precision", "fp16")
    commands.fails(*finetune, "--out", tmp_path / "out", says=says)


# --- crd --------------------------------------------------------------------------------------------------------------


def test_crd_without_sample_ids(tmp_path: Path) -> None:
    from tiny_data import collate, rows
    from tiny_models import tiny
    from transformers import TrainingArguments

    made = {"model": tiny("bert"), "teacher": tiny("bert"), "data_collator": collate}
    arguments = TrainingArguments(output_dir=str(tmp_path), report_to="none")
    with pytest.raises(
        KdzooError, match=r"the term 'crd' needs the column 'sample_ids'; the training set has input_ids"
    ):
        kdzoo.DistillationTrainer(
            **made, recipe="crd", args=arguments, train_dataset=rows().remove_columns("sample_ids")
        )


@pytest.mark.parametrize("options", ["loss: crd", "loss: crd, bank: queue, num_samples: 1000000"])
def test_a_bank_that_does_not_fit(
    options: str, commands: Commands, models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdzoo.baselines.crd._free_memory", lambda: 64 * 8 * 128 - 1)
    monkeypatch.setattr("kdzoo.bench.grid.cells.train", lambda *_, **__: pytest.fail("trained"))
    path = one_term(tmp_path, options)
    says = ("crd: a bank of", "GB are free", 'bank="queue"', 'bank="batch"')
    commands.fails("compare", "--methods", path, "--tasks", "sst2", *SIZES, "--out", tmp_path / "out", says=says)


def test_a_bank_that_fits(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdzoo.baselines.crd._free_memory", lambda: 64 * 8 * 128)
    check = ("check", "--tasks", "sst2", "--train-rows", "64", *SIZES[:4])
    commands.works(*check, one_term(tmp_path, "loss: crd"))
    monkeypatch.setattr("kdzoo.baselines.crd._free_memory", lambda: 0)
    commands.works(*check, one_term(tmp_path, "loss: crd, bank: batch"))
    monkeypatch.setattr("kdzoo.baselines.crd._free_memory", lambda: None)
    commands.works(*check, one_term(tmp_path, "loss: crd"))


def test_free_memory_is_known() -> None:
    from kdzoo.baselines.crd import _free_memory

    free = _free_memory()
    if Path("/proc/meminfo").exists() or torch.cuda.is_available():
        assert free is not None and 2**20 < free < 2**50
    else:
        assert free is None


# --- while it runs ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("own")
def test_a_loss_that_becomes_nan(commands: Commands, models: Path, tmp_path: Path) -> None:
    path = one_term(tmp_path, "loss: breaking, name: broken")
    says = ("not finite at step 3", "the term 'broken' is nan", "the batch held training rows")
    sizes = ("--train-rows", "64", "--validation-rows", "32", "--epochs", "2", "--batch-size", "32")
    options = ("--teacher", models / "sst2", "--student", STUDENT, "--out", tmp_path / "out", *sizes)
    checkpoint = tmp_path / "out" / "checkpoint-2"
    distill = ("distill", "--task", "sst2", "--method", path)
    commands.fails(*distill, *options, code=1, says=(*says, f"the last checkpoint is {checkpoint}"))
    assert (checkpoint / "trainer_state.json").exists() and not (tmp_path / "out" / "record.json").exists()

    compare = ("compare", "--tasks", "sst2", "--methods", f"none,{path}", "--out", tmp_path / "grid")
    commands.fails(*compare, "--teacher", TEACHER, "--student", STUDENT, *sizes, code=1, says=says)
    assert [cell.name for cell in (tmp_path / "grid" / "cells").iterdir()] == ["sst2-none-0.json"]


@pytest.mark.parametrize("command", ["compare", "finetune"])
def test_output_that_cannot_be_written(
    command: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_late(*_: Any, **__: Any) -> None:
        raise AssertionError("it is said before the work")

    monkeypatch.setattr("transformers.Trainer.train", too_late)
    (tmp_path / "file").write_text("here first")
    options = SIZES if command == "compare" else ("--task", "sst2", "--model", TEACHER)
    says = ("cannot write to the output folder", str(tmp_path / "file" / "out"), "file is no folder")
    commands.fails(command, *options, "--out", tmp_path / "file" / "out", says=says)
    commands.fails(command, *options, "--out", tmp_path / "file", says=("cannot write", "is no folder"))
    assert (tmp_path / "file").read_text() == "here first"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission(commands: Commands, tmp_path: Path) -> None:
    tmp_path.chmod(0o555)
    commands.fails("compare", *SIZES, "--out", tmp_path, says=("cannot write", "Permission denied"))
    tmp_path.chmod(0o755)


def test_a_model_of_others_is_not_overwritten(commands: Commands, models: Path) -> None:
    before = (models / "bare" / "config.json").read_bytes()
    says = ("bare", "holds a model or a comparison of another command", "--out")
    finetune = ("finetune", "--task", "sst2", "--model", models / "bare")
    commands.fails(*finetune, "--out", models / "bare", *ROWS, says=says)
    assert (models / "bare" / "config.json").read_bytes() == before


def test_a_folder_without_records(commands: Commands, tmp_path: Path) -> None:
    commands.fails("table", tmp_path, says=(str(tmp_path), "holds no records", "kdzoo compare"))
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "sst2-kd-0.json").write_text(json.dumps({"task": "sst2", "method": "kd", "seed": 0}))
    ran = commands("table", tmp_path)
    assert ran.code == 2 and "sst2-kd-0.json lacks score" in ran.err
    assert ran.err.splitlines()[-1].startswith(f"kdzoo: {tmp_path} holds no whole records; `kdzoo compare")


def test_debug_shows_the_traceback(commands: Commands) -> None:
    for arguments in (("--debug", "show", "tinybrt"), ("show", "tinybrt", "--debug")):
        ran = commands(*arguments)
        assert ran.code == 2 and "Traceback (most recent call last)" in ran.err
        assert ran.err.rstrip().splitlines()[-1].startswith("kdzoo: unknown loss or recipe 'tinybrt'")


def test_an_error_of_our_own_making(commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fault(*_: object, **__: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("kdzoo.bench.runs.tasks.load", fault)
    ran = commands("finetune", "--task", "sst2", "--model", TEACHER, "--out", tmp_path)
    assert ran.code == 1
    assert ran.err == "kdzoo: unexpected ZeroDivisionError: division by zero; --debug shows where\n"


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (("--epochs", "1", "--set", "training.epochs=5"), "--epochs and --set training.epochs say the same thing"),
        (
            ("--set", "kd:training.learning_rate=1", "--learning-rate", "1"),
            "--learning-rate and --set training.learning_rate",
        ),
        (
            ("--set", "tunable={kd.temperature: [2, 4]}"),
            "kdzoo compare --tune seeks within it, and nothing is sought here",
        ),
        (
            ("--method", "lrc", "--student", "teacher:0", "--set", "cos_nce.bias=true"),
            "setting 'cos_nce.bias=true' has no effect on sst2: nothing is projected; leave it out",
        ),
    ],
)
def test_what_is_told_twice_or_for_nothing(
    told: tuple[str, ...], says: str, commands: Commands, models: Path, tmp_path: Path
) -> None:
    given = ("distill", "--task", "sst2", "--teacher", models / "sst2", "--student", STUDENT, "--method", "kd")
    commands.fails(*given, *told, "--out", tmp_path / "out", says=(says,))


def test_losses_that_relate_rows_see_a_micro_batch_and_it_is_said(
    commands: Commands, models: Path, tmp_path: Path
) -> None:
    """In a comparison and in a training of one model, before it begins."""
    small = (
        "--train-rows",
        "32",
        "--validation-rows",
        "16",
        "--epochs",
        "1",
        "--batch-size",
        "8",
        "--max-length",
        "16",
    )
    more = ("--gradient-accumulation", "2")
    said = "relates rows to each other and sees the 8 of a micro-batch, not the 16 of a step"
    given = (
        "compare",
        "--tasks",
        "sst2",
        "--teacher",
        TEACHER,
        "--student",
        STUDENT,
        "--methods",
        "lrc,kd",
        "--seeds",
        "1",
    )
    lines = commands.works(*given, *small, *more, "--out", tmp_path / "out").splitlines()
    assert [line.split()[:2] for line in lines if said in " ".join(line.split())] == [["sst2", "lrc"]]
    given = ("distill", "--task", "sst2", "--teacher", models / "sst2", "--student", STUDENT, "--method", "lrc")
    ran = commands(*given, *small, *more, "--out", tmp_path / "student")
    assert ran.code == 0 and said in ran.out + ran.err
