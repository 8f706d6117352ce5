"""What a run is known by: its commands, and the contents of the rows, models and tokenizers that it was made of."""

from __future__ import annotations

import json
import pickle
import shlex
from pathlib import Path

import pytest
from command_line import ROWS, SIZES, STUDENT, TEACHER, Commands, records
from datasets import Dataset, DatasetDict
from rich.console import Console
from safetensors.torch import load_file, save_file

from kdzoo.bench.contents import contents_of
from kdzoo.bench.grid.comparison import Comparison
from kdzoo.bench.grid.settings import resolve
from kdzoo.models.spec import ModelSpec


def test_every_command_is_kept(commands: Commands, tmp_path: Path) -> None:
    given = (*SIZES, "--out", str(tmp_path / "a folder"))
    for method in ("kd*0.5 + ce", "none", "kd*0.5 + ce"):
        commands.works("compare", "--tasks", "sst2", "--methods", method, *given)
    kept = json.loads((tmp_path / "a folder" / "config.json").read_text())
    expected = [["kdzoo", "compare", "--tasks", "sst2", "--methods", m, *given] for m in ("kd*0.5 + ce", "none")]
    assert [shlex.split(command) for command in kept["commands"]] == expected
    assert "launcher" not in json.dumps(kept["shared"])


def test_other_contents_under_the_same_name_are_refused(commands: Commands, tmp_path: Path) -> None:
    student, out = tmp_path / "student", tmp_path / "out"
    commands.works("finetune", "--task", "sst2", "--model", STUDENT, "--out", student, *ROWS)
    grid = ("compare", "--tasks", "sst2", "--methods", "none", "--teacher", TEACHER, "--student", student, *ROWS)
    commands.works(*grid, "--out", out)
    weights = student / "model.safetensors"
    before = weights.read_bytes()
    tensors = {name: tensor + 1e-3 for name, tensor in load_file(weights).items()}
    save_file(tensors, weights, {"format": "pt"})
    says = (str(out), "other contents of the files of the student, which have changed", "Choose another --out")
    commands.fails(*grid, "--seeds", 2, "--out", out, says=says)
    assert records(out).keys() == {"sst2-teacher", "sst2-none-0"}
    weights.write_bytes(before)
    commands.works(*grid, "--seeds", 2, "--out", out)


def test_relative_folders_are_found_by_a_worker_elsewhere(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    commands.works("finetune", "--task", "sst2", "--model", STUDENT, "--out", "student", *ROWS)
    options = {"train_rows": 64, "validation_rows": 32, "budget": {"epochs": 1}, "teacher_budget": {"epochs": 1}}
    given = {"tasks": ("sst2",), "methods": ("none",), "teacher": TEACHER, "student": "student", **options}
    settings = resolve(data="synthetic", cache_folder="cache", **given)
    work = pickle.loads(pickle.dumps(Comparison(settings, Path("out"), Console(quiet=True)).work))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    there = work.moved(tmp_path / "elsewhere")
    assert there.cache_folder == tmp_path / "cache"
    assert there.train(("sst2", "teacher", 0))["steps"] == there.train(("sst2", "none", 0))["steps"]


def test_contents_are_those_of_rows_and_weights() -> None:
    def of(*sentences: str) -> dict[str, str]:
        rows = Dataset.from_dict({"sentence": list(sentences), "label": [0] * len(sentences)})
        return contents_of(
            ModelSpec.parse("4x128"), ModelSpec.parse("teacher:0,2"), {"rte": DatasetDict({"train": rows})}
        )

    assert of("one", "two") == of("one", "two") and of("one", "two").keys() == {"the rows of rte"}
    assert len({json.dumps(found) for found in (of("one", "two"), of("two", "one"), of("onet", "wo"), of("one"))}) == 4


@pytest.mark.parametrize(
    "name",
    [
        "vocab.txt",
        "tokenizer.json",
        "tokenizer_config.json",
        "added_tokens.json",
        "merges.txt",
        "source.spm",
        "bpe.codes",
    ],
)
def test_a_tokenizer_that_changed_is_another(name: str, tmp_path: Path) -> None:
    hashes = []
    for text in (None, "[]", "[ ]"):
        if text is not None:
            (tmp_path / name).write_text(text)
        (tmp_path / "README.md").write_text(f"{text}")
        (tmp_path / "config.json").write_text("{}")
        hashes.append(contents_of(ModelSpec.parse(str(tmp_path)), None, {})["the files of the teacher"])
    assert len(set(hashes)) == 3
    (tmp_path / "README.md").write_text("again")
    assert contents_of(ModelSpec.parse(str(tmp_path)), None, {})["the files of the teacher"] == hashes[-1]


def test_a_teacher_without_its_tokenizer_is_refused(commands: Commands, tmp_path: Path) -> None:
    teacher = tmp_path / "teacher"
    commands.works("finetune", "--task", "sst2", "--model", TEACHER, "--out", teacher, *ROWS)
    for path in teacher.glob("*token*"):
        path.unlink()
    says = ("has no tokenizer files (tokenizer.json, vocab.txt", "copy those it was trained with")
    grid = ("compare", "--tasks", "sst2", "--methods", "kd", "--teacher", teacher, *ROWS)
    commands.fails(*grid, "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()
