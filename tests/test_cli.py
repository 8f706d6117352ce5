"""The command line: what each command prints and writes, of a comparison what it is asked for."""

from __future__ import annotations

import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import ROWS, SIZES, STUDENT, TEACHER, Commands, records, same, weights

import kdzoo
from kdzoo.bench.grid.settings import Place, Settings
from kdzoo.bench.runs import train as training
from kdzoo.bench.runs.budget import Budget
from kdzoo.cli.compare import ASIDE
from kdzoo.cli.options import GROUPS
from kdzoo.losses import registry
from kdzoo.objectives import registry as recipe_registry
from kdzoo.objectives.recipe import Recipe


def stopping(monkeypatch: pytest.MonkeyPatch, at: int) -> Callable[[], None]:
    """Make the next training stop as by Ctrl-C after ``at`` steps; the function returned lets them go on again."""
    proceed = training._Steps.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        proceed(self, args, state, control, **more)
        if state.global_step == at:
            raise KeyboardInterrupt

    monkeypatch.setattr(training._Steps, "on_step_end", stop)
    return lambda: monkeypatch.setattr(training._Steps, "on_step_end", proceed)


# --- list, show, check ------------------------------------------------------------------------------------------------


def test_list_has_every_loss_and_recipe(commands: Commands) -> None:
    out = commands.works("list")
    for name in (*kdzoo.available(), *kdzoo.available("recipes")):
        assert re.search(rf"│ {name} +│", out), name
    assert "Kullback-Leibler divergence" in out


def test_list_has_every_task(commands: Commands) -> None:
    out = commands.works("list", "--tasks")
    for name in kdzoo.available("tasks"):
        assert re.search(rf"│ {name} +│", out), name
    assert "premise, hypothesis" in out and "pearson, spearmanr" in out
    commands.fails("list", "--tasks", "--needs", "cls", says=("--needs", "beside --tasks"))


def test_version(commands: Commands) -> None:
    assert commands.works("--version") == f"kdzoo {kdzoo.__version__}\n"


def test_a_setting_is_one_option_of_every_command_that_has_it(commands: Commands) -> None:
    """The command line is made of the settings classes, help text and range included."""
    for command in ("finetune", "distill", "pretrain", "compare"):
        out = " ".join(commands.works(command, "--help").split())
        for name, field in Budget.model_fields.items():
            assert f"--{name.replace('_', '-')} " in out and str(field.description) in out, (command, name)
        own = {"finetune": "0.1", "compare": "each recipe's own or 0.1"}.get(command, "the recipe's or 0.1")
        assert f"in a straight line after. [default: {own}; 0<=x<1]" in out.replace(" │ │ ", " "), command
    for name in set(Settings.model_fields) - {*ASIDE} | set(Place.model_fields):
        assert f"--{name.replace('_', '-')}" in out, name
    for option in ("--epochs", "--workers", "--max-grad-norm"):
        name = option[2:].replace("-", "_")
        commands.fails("compare", option, "0", says=(f"{name} = 0", "greater than"))


def test_without_the_libraries_of_the_bench(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("kdzoo.cli.") and name != "kdzoo.cli.main"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    commands.fails("list", says=("needs typer", "pip install 'kdzoo[bench]'"))


def test_show_a_loss_a_recipe_and_both(commands: Commands) -> None:
    loss = commands.works("show", "hidden_mse")
    assert loss.startswith("loss hidden_mse: ") and "student_dim=None" in loss and "Examples:" in loss
    recipe = commands.works("show", "tinybert")
    assert recipe.startswith("recipe tinybert: ") and "Jiao" in recipe and "- loss: attention_mse" in recipe
    both = commands.works("show", "kd")
    assert both.startswith("recipe kd: ") and "\nloss kd: " in both
    assert "temperature: 7" in commands.works("show", "kd", "--set", "kd.temperature=7")


@pytest.mark.parametrize("name", kdzoo.available("recipes"))
def test_show_yaml_reads_back(name: str, commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(commands.works("show", name, "--yaml"))
    assert Recipe.load(path) == Recipe.load(name)


def test_a_written_recipe_is_a_method(commands: Commands, tmp_path: Path, trained: list[Any]) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(commands.works("show", "kd", "--yaml", "--set", "kd.temperature=7", "--set", "name=warm"))
    options = ("--tasks", "sst2", "--methods", f"kd,{path}", *SIZES, "--out", tmp_path / "out")
    assert "warm" in commands.works("compare", *options)
    kept = records(tmp_path / "out")
    assert [call[1] for call in trained] == ["none", "kd", "warm"]
    temperatures = {
        name: [
            term.get("temperature") for term in kept[f"sst2-{name}-0"]["configuration"]["recipe"]["stages"][0]["terms"]
        ]
        for name in ("kd", "warm")
    }
    assert 7 in temperatures["warm"] and 7 not in temperatures["kd"]
    path.write_text(path.read_text().replace("temperature: 7", "temperature: 8"))
    says = ("sst2-warm-0.json", "another configuration", "temperature is 7 there and 8 here")
    commands.fails("compare", *options, says=says)


def test_an_expression_is_a_method(commands: Commands, tmp_path: Path) -> None:
    text = "pkd@cls[(0, 0), (1, 2)]*10 + kd(temperature=2)*0.5 + ce"
    options = ("--tasks", "sst2", "--methods", f"none, {text}", *SIZES, "--out", tmp_path / "out")
    name = "pkd-cls-0-0-1-2-10-kd-temperature-2-0.5-ce"
    assert name in commands.works("compare", *options)
    record = records(tmp_path / "out")[f"sst2-{name}-0"]
    assert [term["loss"] for term in record["configuration"]["recipe"]["stages"][0]["terms"]] == ["pkd", "kd", "ce"]
    assert text in commands.works("show", text)


def test_what_a_loss_warns_of_is_said_once_before_its_trainings(commands: Commands, tmp_path: Path) -> None:
    """DIST warns when it is bound to two classes, and would again at its first call in each training."""
    options = ("--tasks", "sst2", "--methods", "dist", *SIZES, "--seeds", "2", "--out", tmp_path / "out")
    assert commands.works("compare", *options).count("the correlation within a row of two classes") == 1


def test_all_methods_leaves_out_what_cannot_work_and_says_why(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def recipe(name: str, loss: str) -> Callable[[], Recipe]:
        return lambda: Recipe.parse({"name": name, "stages": [{"terms": [{"loss": loss}]}]})

    kdzoo.available()  # so that the registry is full before it is copied
    monkeypatch.setattr(registry, "_losses", dict(registry._losses))

    @kdzoo.register("three_classes")
    class ThreeClasses(type(kdzoo.create("kd"))):  # type: ignore[misc]
        """A loss for three classes, which says that it does little for three."""

        @classmethod
        def fit(cls, options: dict[str, Any], *, student: Any, **context: Any) -> dict[str, Any]:
            if student.num_labels < 3:
                raise kdzoo.KdzooError("three_classes needs three classes; take kd")
            warnings.warn("three are few", kdzoo.KdzooWarning, stacklevel=2)
            return options

    few = {"none": recipe("none", "ce"), "kd": recipe("kd", "kd"), "three": recipe("three", "three_classes")}
    monkeypatch.setattr(recipe_registry, "_recipes", few)
    options = ("--tasks", "sst2,mnli", *SIZES)
    out = commands.works("compare", "--methods", "all", *options, "--out", tmp_path / "out")
    assert "sst2   three left out: three_classes needs three classes; take kd" in out
    assert "mnli   three warning: three are few" in out
    assert {name for name in records(tmp_path / "out") if "teacher" not in name} == {
        "sst2-none-0",
        "sst2-kd-0",
        "mnli-none-0",
        "mnli-kd-0",
        "mnli-three-0",
    }
    checked = commands.works("check", "all", "--tasks", "sst2,mnli", *SIZES[:4])
    assert "three works on mnli: three_classes" in checked
    ran = commands("check", "three,kd", "--tasks", "sst2", *SIZES[:4])
    assert ran.code == 2 and "three works on none of the tasks" in ran.out and "kd    works on sst2" in ran.out
    commands.fails("check", "three", "--tasks", "sst2", *SIZES[:4], says=("three on sst2", "take kd"))


def test_check_names_what_works_and_trains_nothing(commands: Commands, trained: list[Any]) -> None:
    out = commands.works("check", "none,tinybert,lrc", "--tasks", "mrpc", *SIZES[:4])
    lines = out.splitlines()
    assert [line.split()[:4] for line in lines] == [
        [name, "works", "on", "mrpc:"] for name in ("none", "tinybert", "lrc")
    ]
    assert "attention_mse" in lines[1] and "; then " in lines[1] and not trained


def test_help_groups_the_options(commands: Commands) -> None:
    """By the settings class that they belong to, those of the command itself first."""
    shown = commands.works("distill", "--help")
    sections = {part.splitlines()[0]: part for part in shown.split("\n\n") if part.splitlines()[0].endswith(":")}
    assert list(sections) == ["Options:", *(f"{GROUPS[of]}:" for of in ("OwnColumns", "Rows", "Distilled", "Budget"))]
    for title, option in (("Options:", "--method"), ("Rows:", "--train-rows"), ("Training:", "--warmup-ratio")):
        assert f"  {option} <" in sections[title]
    assert commands.works("table", "--help").index("Arguments:") < commands.works("table", "--help").index("Options:")


@pytest.mark.parametrize("arguments", [(), ("--help",)])
def test_help_names_every_command(arguments: tuple[str, ...], commands: Commands) -> None:
    ran = commands(*arguments)
    assert ran.code == 0 and ran.err == ""
    for name in ("list", "show", "check", "finetune", "distill", "compare", "table"):
        assert re.search(rf"^ +{name} ", ran.out, re.MULTILINE), name


# --- finetune, distill ------------------------------------------------------------------------------------------------


def test_finetune_then_distill(
    commands: Commands, tmp_path: Path, trained: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    finetune = ("finetune", "--task", "sst2", "--model", TEACHER, "--out", tmp_path / "teacher", *ROWS)
    assert f"the model is in {tmp_path / 'teacher'}" in commands.works(*finetune)
    distill = ("distill", "--task", "sst2", "--teacher", tmp_path / "teacher", "--student", STUDENT, *ROWS)
    kd = (*distill, "--method", "kd", "--set", "kd.temperature=3", "--epochs", "3")
    out = tmp_path / "whole"
    said = commands.works(*kd, "--out", out)
    record = json.loads((out / "record.json").read_text())
    assert said.startswith(f"sst2 kd: accuracy {100 * record['metrics']['accuracy']:.1f}")
    assert record["configuration"]["recipe"]["stages"][0]["terms"][0]["temperature"] == 3
    assert record["steps"] == 6 and len(record["predictions"]["validation"]) == 32

    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    student = AutoModelForSequenceClassification.from_pretrained(out)
    assert (student.config.num_hidden_layers, student.config.hidden_size) == (1, 16)
    assert len(AutoTokenizer.from_pretrained(out)) == student.config.vocab_size

    # With the teacher's activations kept it learns the same, but for their rounding.
    said_of_it = commands.works(*kd, "--cache-folder", tmp_path / "cache", "--out", tmp_path / "cached")
    assert f"the teacher's activations are kept in {tmp_path / 'cache'}: 0.0 MB" in said_of_it
    cached = json.loads((tmp_path / "cached" / "record.json").read_text())
    assert cached["cached"] and not record["cached"] and [*(tmp_path / "cache").glob("*/logits.safetensors")]
    for name, tensor in weights(tmp_path / "cached").items():
        torch.testing.assert_close(tensor, weights(out)[name], atol=1e-4, rtol=1e-3)

    # Over the limit it asks the live teacher; a precision is a setting of its own.
    lean = (*kd, "--cache-folder", tmp_path / "lean", "--cache-limit", "0.0000001", "--out", tmp_path / "live")
    assert "no cache of the teacher: it would take 0.0 MB, and the limit is 0.0 MB" in commands(*lean).err
    assert same(weights(tmp_path / "live"), weights(out)) and not [*(tmp_path / "lean").glob("*")]
    half = ("--cache-folder", tmp_path / "cache", "--cache-precision", "bf16", "--out", tmp_path / "cached")
    commands.fails(*kd, *half, says=("cache_precision is None there and 'bf16' here",))
    commands.fails(*kd, *half[:3], "fp8", *half[4:], says=("cache_precision = 'fp8'", "'fp32', 'bf16' or 'fp16'"))

    # A finished run is not repeated, nor is it anybody else's folder.
    before, count = weights(out), len(trained)
    assert commands.works(*kd, "--out", out) == said
    assert len(trained) == count and same(weights(out), before)
    commands.fails(*kd, "--seed", 1, "--out", out, says=("another configuration", "seed is 0 there and 1 here"))
    says = ("recipe.stages.0.terms.0.temperature is 3", "and 4", "Choose another --out")
    commands.fails(*kd[:-1], 3, "--set", "kd.temperature=4", "--out", out, says=says)

    # One that was stopped goes on from its last checkpoint, and ends where the whole one did.
    go_on = stopping(monkeypatch, at=5)
    ran = commands(*kd, "--out", tmp_path / "halved")
    assert ran.code == 130 and ran.err.strip() == "kdzoo: stopped; the same command goes on from the last finished part"
    assert [path.name for path in (tmp_path / "halved").glob("checkpoint-*")] == ["checkpoint-4"]
    assert not (tmp_path / "halved" / "record.json").exists()
    go_on()
    steps: list[int] = []
    proceed = training._Steps.on_step_end

    def note(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        steps.append(state.global_step)
        proceed(self, args, state, control, **more)

    monkeypatch.setattr(training._Steps, "on_step_end", note)
    commands.fails(*kd, "--seed", 1, "--out", tmp_path / "halved", says=("seed is 0 there and 1 here",))
    commands.works(*kd, "--out", tmp_path / "halved")
    assert steps == [5, 6] and same(weights(tmp_path / "halved"), before)


def test_published_hyper_parameters_hold_where_no_option_is_given(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    budgets: list[Any] = []
    record = {"metrics": {"accuracy": 0.5}}
    monkeypatch.setattr("kdzoo.bench.runs.single.run_one", lambda **given: budgets.append(given["budget"]) or record)
    distill = ("distill", "--task", "sst2", "--teacher", "t", "--method", "tinybert", "--out", tmp_path)
    published = Recipe.load("tinybert").training
    commands.works(*distill)
    commands.works(*distill, "--learning-rate", "0.5", "--epochs", "2")
    assert budgets[0].learning_rate == published.learning_rate and budgets[0].batch_size == published.batch_size
    assert (budgets[1].learning_rate, budgets[1].epochs) == (0.5, 2)
    assert budgets[1].batch_size == published.batch_size
