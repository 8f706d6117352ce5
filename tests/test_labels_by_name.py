"""Labels are matched by name; a teacher and a student may have vocabularies of their own."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import STUDENT, TEACHER, Commands, records
from own_data import TOPICS, folder, made
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer, BertConfig, BertModel

from kdzoo.errors import KdzooError
from kdzoo.models.labels import check_config
from kdzoo.models.spec import ModelSpec
from kdzoo.models.teachers import make_teacher
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import Classification

OWN = ("--text", "text", "--label", "topic")
FAST = ("--epochs", "1", "--learning-rate", "0.01", "--evaluations", "0")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder(tmp_path_factory.mktemp("data") / "topics")


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained teacher that predicts each of the topics now and then."""
    root = tmp_path_factory.mktemp("models") / "teacher"
    tokenizer = learned_tokenizer([row["text"] for row in made(64)])
    model: Any = make_teacher(TEACHER, tokenizer, topics())
    rows = tokenizer([row["text"] for row in made(32, 1)], padding=True, return_tensors="pt")
    with torch.no_grad():
        model.classifier.weight.normal_(std=20, generator=torch.Generator().manual_seed(2))
        model.classifier.bias.copy_(-model.eval()(**rows).logits.mean(0))
    model.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


def topics() -> Classification:
    return Classification("topics", ("text",), tuple(TOPICS), label_columns=("topic",))


def renamed(teacher: Path, to: Path, names: list[str], order: list[int] | None = None) -> Path:
    """A copy of a teacher with other names for its labels, and its head's rows in another order."""
    shutil.copytree(teacher, to)
    config = json.loads((to / "config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(names)}
    config["label2id"] = {name: index for index, name in enumerate(names)}
    (to / "config.json").write_text(json.dumps(config))
    weights = load_file(to / "model.safetensors")
    for part in ("weight", "bias"):
        if order is not None:
            weights[f"classifier.{part}"] = weights[f"classifier.{part}"][order].contiguous()
    save_file(weights, to / "model.safetensors", metadata={"format": "pt"})
    return to


def compared(commands: Commands, data: Path, teacher: Path, out: Path, *more: str) -> tuple[dict[str, Any], str]:
    options = ("--data", data, *OWN, "--teacher", teacher, "--student", STUDENT, *FAST, "--out", out)
    printed = commands.works("compare", "--no-finetune-teacher", *options, *(more or ("--methods", "kd")))
    return records(out), printed


def test_a_teacher_with_exchanged_labels_gives_the_same_scores(
    commands: Commands, data: Path, teacher: Path, tmp_path: Path
) -> None:
    order = [2, 0, 3, 1]
    names = [[*TOPICS][index] for index in order]
    exchanged = renamed(teacher, tmp_path / "exchanged", names, order)
    before, _ = compared(commands, data, teacher, tmp_path / "before")
    after, printed = compared(commands, data, exchanged, tmp_path / "after")
    assert "LABEL_0" not in printed
    for name in ("topics-teacher", "topics-kd-0"):
        assert before[name]["predictions"] == after[name]["predictions"]
        assert before[name]["metrics"] == after[name]["metrics"]
    assert len(set(before["topics-teacher"]["predictions"]["validation"])) > 2, "the order would not show"
    config = json.loads((tmp_path / "after/teachers/topics/config.json").read_text())
    assert [config["id2label"][str(index)] for index in range(4)] == [*TOPICS]


def test_an_order_without_the_weights_is_another_teacher(teacher: Path, tmp_path: Path) -> None:
    """The names decide: exchanged names alone do change what the model says."""
    exchanged = renamed(teacher, tmp_path / "names", ["food", "art", "sport", "tech"])
    inputs = {"input_ids": torch.arange(5, 15)[None], "attention_mask": torch.ones(1, 10, dtype=torch.long)}
    of = [ModelSpec.parse(str(path)).build(topics()).eval()(**inputs).logits[0] for path in (teacher, exchanged)]
    torch.testing.assert_close(of[1], of[0][[1, 0, 2, 3]])


def test_names_differ_in_case_and_blanks_alone(teacher: Path, tmp_path: Path) -> None:
    spelled = renamed(teacher, tmp_path / "spelled", ["ART", "Food", " sport", "tech"])
    config: Any = ModelSpec.parse(str(spelled)).build(topics()).config
    assert list(config.id2label.values()) == [*TOPICS]


def test_other_names_are_refused_with_both_lists(
    commands: Commands, data: Path, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grid.cells", "runs.single"):
        monkeypatch.setattr(f"kdzoo.bench.{name}.train", lambda *_, **__: pytest.fail("trained"))
    other = renamed(teacher, tmp_path / "other", ["art", "food", "sport", "film"])
    says = ("has the labels art, food, sport, film", "topics has art, food, sport, tech")
    options = ("--data", data, *OWN, "--teacher", other, "--student", STUDENT)
    for more in ((), ("--no-finetune-teacher",)):
        commands.fails("compare", *options, *more, "--methods", "kd", "--out", tmp_path / "grid", says=says)
    commands.fails("distill", *options, "--method", "kd", "--out", tmp_path / "one", says=says)
    commands.fails("check", "kd", *options, says=says)


def test_labels_without_names_are_said_to_be_in_the_tasks_order(
    commands: Commands, data: Path, teacher: Path, tmp_path: Path
) -> None:
    unnamed = renamed(teacher, tmp_path / "unnamed", [f"LABEL_{index}" for index in range(4)])
    plain, _ = compared(commands, data, teacher, tmp_path / "plain")
    same, printed = compared(commands, data, unnamed, tmp_path / "same")
    line = "has no names for its labels (LABEL_0 ...); they are taken in the task's order: art, food, sport, tech"
    assert printed.count(line) == 1
    assert plain["topics-teacher"]["predictions"] == same["topics-teacher"]["predictions"]
    options = ("--data", data, *OWN, "--teacher", unnamed, "--student", STUDENT, *FAST[:4])
    assert line in commands.works("distill", *options, "--method", "kd", "--out", tmp_path / "one")


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"num_labels": 3}, "has a head for 3 labels and topics has 4"),
        ({"problem_type": "multi_label_classification"}, "is for multi_label_classification"),
        ({"id2label": {0: "art", 1: "food", 2: "sport", 3: "Art"}}, "has the labels art, food, sport, Art and topics"),
    ],
)
def test_a_head_for_something_else(changed: dict[str, Any], says: str) -> None:
    config = BertConfig(**{"num_labels": 4, **changed})
    with pytest.raises(KdzooError, match=says):
        check_config(config, topics().head(), "'m'", "topics")


def test_names_of_a_model_without_a_head_do_not_count(teacher: Path, tmp_path: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    config = BertConfig.from_pretrained(teacher, id2label=dict(enumerate(["a", "b", "c", "d"])))
    BertModel(config).save_pretrained(tmp_path / "bare")
    tokenizer.save_pretrained(tmp_path / "bare")
    model: Any = ModelSpec.parse(str(tmp_path / "bare")).build(topics())
    assert list(model.config.id2label.values()) == [*TOPICS]


# --- vocabularies -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A student's folder with a tokenizer of its own, of single letters."""
    root = tmp_path_factory.mktemp("models") / "reader"
    tokenizer = learned_tokenizer([row["text"] for row in made(64)], size=48)
    model: Any = make_teacher("2x32,heads=2", tokenizer, topics(), seed=5)
    model.bert.save_pretrained(root)
    tokenizer.save_pretrained(root)
    return root


def test_a_teacher_and_a_student_of_different_vocabularies(
    commands: Commands, data: Path, teacher: Path, reader: Path, tmp_path: Path
) -> None:
    ours, theirs = (AutoTokenizer.from_pretrained(path) for path in (reader, teacher))
    text = made(1)[0]["text"]
    assert len(ours(text)["input_ids"]) > len(theirs(text)["input_ids"])
    options = ("--data", data, *OWN, "--teacher", teacher, "--student", reader, *FAST, "--no-finetune-teacher")
    methods = "none,kd,pkd,cos_nce@cls+ce"
    commands.works("compare", *options, "--methods", methods, "--out", tmp_path / "out")
    found = records(tmp_path / "out")
    assert {"topics-none-0", "topics-kd-0", "topics-pkd-0", "topics-cos_nce-cls-ce-0"} <= found.keys()
    assert all(np.isfinite(record["score"]) for record in found.values())
    # Without its own tokens the teacher would say something else.
    alone, _ = compared(commands, data, teacher, tmp_path / "alone")
    assert alone["topics-teacher"]["predictions"] == found["topics-teacher"]["predictions"]
    losses = [entry["loss/kd"] for entry in found["topics-kd-0"]["history"] if "loss/kd" in entry]
    assert losses and all(np.isfinite(losses))


def test_losses_on_tokens_are_refused_with_those_that_work(
    commands: Commands, data: Path, teacher: Path, reader: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("grid.cells", "runs.single"):
        monkeypatch.setattr(f"kdzoo.bench.{name}.train", lambda *_, **__: pytest.fail("trained"))
    options = ("--data", data, *OWN, "--teacher", teacher, "--student", reader)
    says = ("tinybert", "compares single tokens", "a tokenizer of its own", "cls")
    commands.fails("compare", *options, "--methods", "kd,tinybert", "--out", tmp_path / "grid", says=says)
    commands.fails("distill", *options, "--method", "tinybert", "--out", tmp_path / "one", says=says[1:])
    assert "topics: 1 cell (pkd)" in commands.works(
        "compare", *options, "--methods", "pkd", "--dry-run", "--out", tmp_path / "dry"
    )
    ran = commands("check", "kd,pkd,tinybert", *options)
    assert ran.code == 2 and "kd       works on topics" in ran.out and "tinybert works on none" in ran.out


def test_the_same_vocabulary_is_no_other(commands: Commands, data: Path, teacher: Path, tmp_path: Path) -> None:
    shutil.copytree(teacher, tmp_path / "copy")
    options = ("--data", data, *OWN, "--teacher", teacher, "--student", tmp_path / "copy")
    assert "works on topics" in commands.works("check", "tinybert", *options)
