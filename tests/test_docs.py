"""The examples of the README and the guides run as they are printed, page by page."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from command_line import Commands
from datasets import Dataset
from latex2mathml.converter import convert
from own_data import made, write
from transformers import BertConfig, BertForSequenceClassification, TrainingArguments
from typer.core import TyperGroup
from typer.main import get_command

import kdzoo
from kdzoo.cli.main import make_app
from kdzoo.losses import registry
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import registry as tasks

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs/results").glob("*.md"))]
GUIDES = [*PAGES, *sorted((ROOT / "docs/kernels").glob("*.md"))]
WITH_PYTHON = [page for page in GUIDES if "```python\n" in page.read_text(encoding="utf-8")]


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def commands_of(page: Path, *languages: str) -> list[list[str]]:
    """The arguments of the kdzoo commands that a page prints, in blocks of no language or of those."""
    fenced = re.findall(r"^```([^\n]*)\n(.*?)^```$", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    text = "".join(block for language, block in fenced if not language or language in languages)
    lines = text.replace("\\\n", "").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("kdzoo ")]


WITH_COMMANDS = [page for page in GUIDES if commands_of(page, "bash")]


def model(width: int) -> BertForSequenceClassification:
    return BertForSequenceClassification(
        BertConfig(vocab_size=50, hidden_size=width, num_hidden_layers=6, num_attention_heads=12, intermediate_size=16)
    )


@pytest.fixture
def reader(tmp_path: Path) -> dict[str, Any]:
    """What a page's examples take for granted: two models, a loader, a training set."""
    torch.manual_seed(0)
    batch = {"input_ids": torch.randint(1, 50, (4, 6)), "attention_mask": torch.ones(4, 6, dtype=torch.long)}
    labels, ids = torch.tensor([0, 1, 1, 0]), torch.arange(4)
    rows = {**{name: value.tolist() for name, value in batch.items()}, "labels": labels.tolist()}
    arguments = TrainingArguments(
        output_dir=str(tmp_path), max_steps=2, report_to="none", disable_tqdm=True, use_cpu=True, save_strategy="no"
    )
    return {
        "student": model(312),
        "teacher": model(768).eval(),
        "batch": batch,
        "loader": [batch, batch],
        "labels": labels,
        "ids": ids,
        "progress": 0.5,
        "train": Dataset.from_dict(rows),
        "training_arguments": arguments,
    }


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.stem)
def test_python_examples_run(
    page: Path, reader: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs").symlink_to(ROOT / "docs")  # for what reads the committed records
    was_registered = set(kdzoo.available())
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))
    for number, block in enumerate(blocks(page, "python"), 1):
        exec(compile(block, f"{page.name}, example {number}", "exec"), reader)
    for name in set(kdzoo.available()) - was_registered:
        assert kdzoo.describe(name).summary
        del registry._losses[name]


def test_the_commands_for_ones_own_data_run(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = ROOT / "docs/own-data.md"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tasks, "_tasks", dict(tasks._tasks))
    write(tmp_path / "reviews.csv", made(80))
    (described,) = (block for block in blocks(page, 'yaml title="reviews.yaml"'))
    (tmp_path / "reviews.yaml").write_text(described)
    run, commands = Commands(capsys), commands_of(page)
    assert len(commands) == 6
    printed = [run.works(*command) for command in commands if command[0] == "compare"]
    (said,) = blocks(page, "text")
    assert printed[0].startswith(said)
    assert {folder.name for folder in (tmp_path / "runs").iterdir()} == {"reviews", "shares", "tags", "both"}
    (check,) = (command for command in commands if command[0] == "check")
    assert "works on reviews" in run.works(*check)


def _refused(arguments: list[str]) -> str:
    """What `kdzoo` has against a command line, without running it; empty where it would run."""
    command: Any = get_command(make_app())
    context, name = None, "kdzoo"
    try:
        while isinstance(command, TyperGroup):
            context = command.make_context(name, [*arguments], parent=context)
            name, command, arguments = command.resolve_command(context, [*context._protected_args, *context.args])
        command.make_context(name, [*arguments], parent=context)
    except Exception as error:  # of typer's own click, which has no public name
        return "" if type(error).__name__ == "Exit" else str(error)  # the first after --help or --version
    return ""


def test_a_command_that_is_none_is_seen() -> None:
    assert "--epoch" in _refused(["compare", "--epoch", "3"])
    assert "comparison" in _refused(["comparison"])
    assert "FOLDER" in _refused(["table"]).upper()
    assert not _refused(["compare", "--epochs", "3"])


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=lambda page: page.stem)
def test_every_command_of_a_page_is_one(page: Path) -> None:
    against = {}
    for arguments in commands_of(page, "bash"):
        # "..." stands for more of the same, "> FILE" is the shell's, and [--against none] may be left out.
        typed = arguments[: arguments.index(">")] if ">" in arguments else arguments
        plain = [part[1:] if part.startswith("[--") else part for part in typed if part != "..."]
        plain = [part if "[" in part else part.removesuffix("]") for part in plain]
        why = _refused(plain)
        against[shlex.join(arguments)] = "" if "..." in typed and why.startswith("Missing") else why
    assert not {command: why for command, why in against.items() if why}


@pytest.mark.parametrize("name", kdzoo.available())
def test_the_catalogue_has_all_of_a_loss(name: str) -> None:
    loss = kdzoo.describe(name)
    assert convert(loss.formula).startswith("<math")
    assert loss.complexity and loss.related and set(loss.related) <= set(kdzoo.available()) - {name}


def test_the_catalogues_tables_have_heads() -> None:
    hooks = runpy.run_path(str(ROOT / "docs/hooks.py"))
    for page in (hooks["_index"](), hooks["_loss"]("kd"), hooks["_recipes"]()):
        heads = re.findall(r"^\|(.*)\|\n\|[-| :]+\|$", page, flags=re.MULTILINE)
        assert heads and all(cell.strip() for head in heads for cell in head.split("|")), heads


@pytest.mark.parametrize("example", sorted((ROOT / "docs" / "examples").glob("*.py")), ids=lambda path: path.stem)
def test_example_scripts_train(example: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    values = runpy.run_path(str(example))["main"]()
    assert sum(values[-3:]) < sum(values[:3])


def test_the_tutorial_runs_cell_by_cell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for package in ("onnxruntime", "onnxscript"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    cells = json.loads((ROOT / "docs/tutorial.ipynb").read_text(encoding="utf-8"))["cells"]
    seen: dict[str, Any] = {}
    for number, cell in enumerate(cells):
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), f"tutorial, cell {number}", "exec"), seen)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert {"ROWS", "EPOCHS", "SEEDS", "TEACHER", "STUDENT", "METHODS"} <= {*seen}
                seen |= {"ROWS": 96, "EPOCHS": 1, "SEEDS": 1, "METHODS": ["none", "kd"]}
                seen |= {"TEACHER": "1x16,heads=2", "STUDENT": "1x8,heads=2"}
    plotted = [line for line in seen["axes"].get_lines() if len(line.get_xdata()) > 2]
    assert all(0 <= score <= 100 for line in seen["axes"].get_lines() for score in line.get_ydata())
    shown = {round(float(line.get_ydata()[-1]), 6) for line in plotted}
    assert shown == {round(record["score"], 6) for record in seen["students"]}
    assert len(plotted) == 2 and (tmp_path / "students.png").stat().st_size > 1000
    predicted = (tmp_path / "predictions.csv").read_text().splitlines()
    assert predicted[0] == "review,label,probability" and len(predicted) == 3
    assert seen["exported"].apart < 1e-4 and seen["logits"].shape == (1, 2)


@pytest.mark.parametrize("page", [page for page in PAGES if "stages:" in page.read_text()], ids=lambda page: page.stem)
def test_recipe_examples_are_recipes(page: Path) -> None:
    recipes = [block for block in blocks(page, "yaml") if "stages:" in block]
    assert recipes
    for recipe in recipes:
        Recipe.parse(yaml.safe_load(recipe), page.name).objective()


@pytest.mark.slow  # make docs runs it
def test_tables_are_those_of_the_committed_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    refresh = runpy.run_path(str(ROOT / "docs/refresh.py"))
    pages = refresh["pages"]()
    assert (
        ROOT / "docs/results.md" in pages
        and ROOT / "docs/results/three-layers.md" in pages
        and ROOT / "docs/kernels/cos_nce.md" in pages
    )
    for page in pages:
        text = page.read_text(encoding="utf-8")
        assert refresh["refreshed"](page) == text, f"{page.name} is out of date; make figures prints its tables anew"
        assert len(re.findall("<!-- kdzoo ", text)) == len(refresh["REGION"].findall(text)), "one has no end"
