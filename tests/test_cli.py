"""The command line: what each command prints and writes, and that a comparison is fair, repeatable and extensible."""

from __future__ import annotations

import csv
import json
import re
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from command_line import ROWS, SIZES, STUDENT, TEACHER, Commands, records, results
from safetensors.torch import load_file
from torch import Tensor

import kdzoo
from kdzoo.bench.grid import cells
from kdzoo.bench.grid.settings import Place, Settings
from kdzoo.bench.runs import single as run
from kdzoo.bench.runs import train as training
from kdzoo.bench.runs.budget import Budget
from kdzoo.cli.compare import ASIDE
from kdzoo.cli.options import GROUPS
from kdzoo.losses import registry
from kdzoo.objectives import registry as recipe_registry
from kdzoo.objectives.recipe import Recipe
from kdzoo.training import cache
from kdzoo.training.stopwatch import PARTS


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, int]]:
    """Every training of a comparison from here on, as (task, method, seed); the teacher's is called ``none``."""
    calls: list[tuple[str, str, int]] = []

    def counted(student: Any, teacher: Any, recipe: Recipe, **options: Any) -> Any:
        calls.append((options["task"].name, recipe.name, options["seed"]))
        return training.train(student, teacher, recipe, **options)

    monkeypatch.setattr(cells, "train", counted)
    monkeypatch.setattr(run, "train", counted)
    return calls


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


def weights(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


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


# --- compare ----------------------------------------------------------------------------------------------------------


GRID = ("--tasks", "sst2,stsb", "--methods", "none,crd", "--seeds", "2")


GUESS = "larger class or mean"  # the row of a constant prediction


def cells_of(out: str) -> dict[str, list[str]]:
    """The terminal's table: a method's cells, without the rules and what a constant prediction scores."""
    rows = [
        [cell.strip() for cell in line.strip("│┃ ").split("│")] for line in out.splitlines() if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in rows if row[0] != GUESS}


def test_the_teacher_runs_over_the_rows_once_for_all_methods(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[str]] = []
    computed = cache._computed

    def counted(features: Any, *others: Any) -> Any:
        passes.append([str(feature) for feature in features])
        return computed(features, *others)

    monkeypatch.setattr(cache, "_computed", counted)
    grid = ("--tasks", "sst2", "--methods", "kd,crd,tinybert", "--seeds", 1)
    commands.works("compare", *grid, *SIZES, "--out", tmp_path)
    assert len(passes) == 1 and "logits" in passes[0] and len(passes[0]) > 3
    assert all(records(tmp_path)[f"sst2-{method}-0"]["cached"] for method in ("kd", "crd", "tinybert"))


def test_a_comparison_end_to_end(commands: Commands, tmp_path: Path, trained: list[Any]) -> None:
    folder = tmp_path / "out"
    out = commands.works("compare", *GRID, *SIZES, "--out", folder)
    kept = records(folder)
    grid = [f"{task}-{method}-{seed}" for task in ("sst2", "stsb") for method in ("none", "crd") for seed in (0, 1)]
    assert set(kept) == {*grid, "sst2-teacher", "stsb-teacher"}
    assert len(trained) == 10

    for record in kept.values():
        assert record["format"] == 1 and record["configuration"]["shared"]["data"] == "synthetic"
        assert record["samples_per_second"] > 0 and record["steps"] == 2 and record["peak_memory"] > 2**20
        assert set(record["step_seconds"]) == {*PARTS}
        assert 5 * record["samples_per_second"] < record["tokens_per_second"] < 40 * record["samples_per_second"]
        assert record["flops"] > 0 and set(record["inference"]) == {"1", "32"}
        assert all(speed["latency_ms"] > 0 for speed in record["inference"].values())
        assert [point["step"] for point in record["curve"]] == [2] if record["method"] == "teacher" else [1, 2]
        assert record["curve"][-1]["score"] == record["score"]
        assert record["evaluation_samples_per_second"] > 0 and record["rows"] == {"train": 64, "validation": 32}
        assert record["versions"]["torch"] == torch.__version__ and record["device"]
        assert record["started"] <= record["finished"]
    crd, teacher = kept["sst2-crd-0"], kept["sst2-teacher"]
    assert crd["loss_parameters"] > 0 and kept["sst2-none-0"]["loss_parameters"] == 0
    assert crd["parameters"] == kept["sst2-none-0"]["parameters"] < teacher["parameters"]
    assert crd["flops"] < teacher["flops"]
    assert crd["cached"] and not kept["sst2-none-0"]["cached"] and not teacher["cached"]
    assert "sst2   the teacher's activations are kept for crd: 0.0 MB" in out
    spent = kept["sst2-none-0"]["step_seconds"]
    assert crd["step_seconds"]["teacher"] > 0 and spent["teacher"] < 0.1 * sum(spent.values())
    assert set(kept["stsb-none-0"]["metrics"]) == {"pearson", "spearmanr"}

    # Neither the cache nor the learning curve changes what is learned.
    other = tmp_path / "live"
    options = ("--evaluations", 0, "--cache-limit", 0)
    commands.works("compare", *GRID, *SIZES, *options, "--out", other)
    assert not (other / "cache").exists()
    for name, record in records(other).items():
        assert not record["cached"] and len(record["curve"]) == 1
        assert record["score"] == pytest.approx(kept[name]["score"], abs=1e-4)
        losses, same = ([e["loss"] for e in r["history"] if "loss" in e] for r in (record, kept[name]))
        assert losses == pytest.approx(same, rel=1e-4)

    # The table, from the records by hand.
    table = cells_of(out)
    assert list(table) == ["teacher", "none", "crd"]
    averages = {}
    for method, row in table.items():
        means = []
        for task, cell in zip(("sst2", "stsb"), row[:2], strict=True):
            seeds = ("teacher",) if method == "teacher" else (f"{method}-0", f"{method}-1")
            scores = [kept[f"{task}-{seed}"]["score"] for seed in seeds]
            means.append(fmean(scores))
            shown, constant, _ = cell.partition(", one ")  # class or value, for every row: its spread says nothing
            spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 and (not constant or " in 1 of" in cell) else ""
            assert shown == f"{fmean(scores):.1f}{spread}"
        averages[method] = fmean(means)
        own = [record for record in kept.values() if record["method"] == method]
        assert [row[2].partition(" ±")[0], *row[3:]] == [
            f"{averages[method]:.1f}",
            f"{averages[method] / averages['teacher']:.1%}",
            f"{fmean(record['samples_per_second'] for record in own):.0f}",
            f"{own[0]['parameters'] / 1e6:.2f} M",
        ]
    markdown = commands.works("table", folder, "--markdown")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines()]
    assert rows[0] == ["method", "sst2", "stsb", "average", "retention", "train rows/s", "parameters"]
    rows = [row for row in rows[2:] if row[0] != GUESS]
    assert {row[0]: row[1:] for row in rows} == table and [row[0] for row in rows] == list(table)
    assert cells_of(commands.works("table", folder)) == table

    with (folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for line in lines:
        name = f"{line['task']}-{line['method']}"
        record = kept[name if line["method"] == "teacher" else f"{name}-{line['seed']}"]
        assert float(line["score"]) == record["score"] and int(line["parameters"]) == record["parameters"]
        assert line["accuracy"] == str(record["metrics"].get("accuracy", ""))

    # The same again trains nothing and prints the same; a larger grid trains what is missing.
    trained.clear()
    again = commands.works("compare", *GRID, *SIZES, "--out", folder)
    assert cells_of(again) == table and not trained and records(folder) == kept
    larger = ("--tasks", "sst2,stsb,mrpc", "--methods", "none,crd,kd", "--seeds", "2")
    out = commands.works("compare", *larger, *SIZES, "--out", folder)
    assert list(cells_of(out)) == ["teacher", "none", "crd", "kd"]
    kd = [(task, "kd", seed) for task in ("sst2", "stsb") for seed in (0, 1)]
    mrpc = [("mrpc", "none", 0), *(("mrpc", method, seed) for seed in (0, 1) for method in ("none", "crd", "kd"))]
    assert trained == kd + mrpc
    grown = records(folder)
    assert {name: grown[name] for name in kept} == kept and len(grown) == 10 + 4 + 7
    trained.clear()
    commands.works("compare", "--tasks", "sst2", "--methods", "none", "--seeds", "3", *SIZES, "--out", folder)
    assert trained == [("sst2", "none", 2)]
    assert len(records(folder)) == 22 and len((folder / "results.csv").read_text().splitlines()) == 23

    # Another setting is refused, and named.
    for changed, says in (
        (("--epochs", "2"), "budget.epochs is 1.0 there and 2.0 here"),
        (("--student", "1x8"), "student is '1x16,heads=2' there and '1x8' here"),
        (("--train-rows", "32"), "train_rows is 64 there and 32 here"),
        (("--warmup-ratio", "0.1"), "configuration: options given: none there and --warmup-ratio here. "),
        (("--set", "crd.temperature=0.1"), "temperature is None there and 0.1 here"),
    ):
        refused = ("compare", *GRID, *SIZES, *changed, "--out", folder)
        commands.fails(*refused, says=("another configuration", says, "--out"))
    assert records(folder).keys() == {*grown, "sst2-none-2"}


def test_records_depend_on_the_seed_alone(commands: Commands, tmp_path: Path) -> None:
    grid = ("--tasks", "stsb", "--methods", "crd,lrc", "--seeds", "2", *SIZES)
    commands.works("compare", *grid, "--out", tmp_path / "one")
    torch.manual_seed(1234)
    # In another order, and stopped in between: no cell depends on what ran before it.
    commands.works("compare", "--tasks", "stsb", "--methods", "lrc", *SIZES, "--out", tmp_path / "other")
    commands.works("compare", *grid, "--out", tmp_path / "other")
    one, other = results(tmp_path / "one"), results(tmp_path / "other")
    assert one == other
    assert one["stsb-crd-0"]["predictions"] != one["stsb-crd-1"]["predictions"]
    assert one["stsb-crd-0"]["predictions"] != one["stsb-lrc-0"]["predictions"]


def test_all_methods_of_a_seed_start_alike_and_see_the_same_rows(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("none", "kd", "tinybert", "crd", "lrc")
    starts: dict[tuple[str, int], dict[str, Tensor]] = {}
    teachers: list[dict[str, Tensor]] = []
    seen: dict[tuple[str, int], list[list[int]]] = {}
    current: list[list[int]] = []

    def watched(student: Any, teacher: Any, recipe: Recipe, **options: Any) -> Any:
        if options["task"].name == "sst2" and student.config.hidden_size == 16:
            key = (recipe.name, options["seed"])
            starts[key] = {name: value.clone() for name, value in student.state_dict().items()}
            if teacher is not None:
                teachers.append({name: value.clone() for name, value in teacher.state_dict().items()})
            seen[key] = []
            current[:] = []
        outcome = training.train(student, teacher, recipe, **options)
        if student.config.hidden_size == 16:
            seen[key].extend(current)
        return outcome

    inner = training.DistillationTrainer.compute_loss

    def noted(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        if model.training:
            current.append(inputs["sample_ids"].tolist())
        return inner(self, model, inputs, *rest, **more)

    monkeypatch.setattr(cells, "train", watched)
    monkeypatch.setattr(training.DistillationTrainer, "compute_loss", noted)
    grid = ("--tasks", "sst2", "--methods", ",".join(methods), "--seeds", "2", *SIZES, "--batch-size", "16")
    commands.works("compare", *grid, "--out", tmp_path)
    for seed in (0, 1):
        for method in methods[1:]:
            assert same(starts[method, seed], starts["none", seed]), method
            assert seen[method, seed] == seen["none", seed], method
        assert sorted(row for batch in seen["none", seed] for row in batch) == list(range(64))
    assert not same(starts["none", 0], starts["none", 1]) and seen["none", 0] != seen["none", 1]
    assert len(teachers) == 8 and all(same(teacher, teachers[0]) for teacher in teachers)


def test_a_teacher_taken_as_it_is(commands: Commands, tmp_path: Path, trained: list[Any]) -> None:
    commands.works("finetune", "--task", "sst2", "--model", TEACHER, "--out", tmp_path / "teacher", *ROWS)
    options = ("--teacher", tmp_path / "teacher", "--no-finetune-teacher", "--methods", "kd", *ROWS)
    commands.works("compare", "--tasks", "sst2", *options, "--out", tmp_path / "out")
    assert same(weights(tmp_path / "out" / "teachers" / "sst2"), weights(tmp_path / "teacher"))
    kept = records(tmp_path / "out")
    assert kept["sst2-teacher"]["steps"] == 0
    finetuned = json.loads((tmp_path / "teacher" / "record.json").read_text())
    assert kept["sst2-teacher"]["predictions"] == finetuned["predictions"]
    # The default student is every other layer of the teacher's.
    assert kept["sst2-kd-0"]["configuration"]["shared"]["student"] == "teacher:1"


def test_workers_give_what_one_process_gives(commands: Commands, tmp_path: Path) -> None:
    methods = ("--methods", "none,kd,crd_kd", "--set", "crd_kd:kd.temperature=1e-42")
    grid = ("compare", "--tasks", "sst2,rte", *methods, "--seeds", "1", *SIZES)
    says = ("crd_kd 0 failed, and 1 more", "the loss is not finite at step 1: the term 'kd' is nan")
    commands.fails(*grid, "--out", tmp_path / "one", code=1, says=says)
    commands.fails(*grid, "--workers", "2", "--out", tmp_path / "two", code=1, says=says)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert (
        one.keys() == two.keys() == {f"{task}-{of}" for task in ("sst2", "rte") for of in ("teacher", "none-0", "kd-0")}
    )
    for name in one:
        # Not to the last bit: a sum depends on how many threads share it.
        assert one[name]["predictions"]["validation"] == pytest.approx(two[name]["predictions"]["validation"])
        assert one[name]["configuration"] == two[name]["configuration"]
    failed = ["rte-crd_kd-0.json", "sst2-crd_kd-0.json"]
    assert all(sorted(of.name for of in (tmp_path / out / "failed").iterdir()) == failed for out in ("one", "two"))


def test_weights_that_the_last_step_breaks_are_a_failure(commands: Commands, tmp_path: Path) -> None:
    """The loss of one step is finite, and no other step follows that would show what the update did."""
    grid = ("--tasks", "stsb", "--methods", "none", *SIZES, "--batch-size", "64", "--warmup-ratio", "0")
    options = ("--teacher-learning-rate", "0.01", "--learning-rate", "1e38", "--out", tmp_path / "out")
    commands.fails("compare", *grid, *options, code=1, says=("stsb none 0 failed", "weights are not finite"))
    assert records(tmp_path / "out").keys() == {"stsb-teacher"}
