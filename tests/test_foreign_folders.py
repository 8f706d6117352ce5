"""Models and tokenizers that somebody else saved: padding, positions, letters' case, and what cannot be counted."""

from __future__ import annotations

import csv
import importlib.util
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from command_line import Commands, records
from datasets import Dataset

from kdzoo.bench.timing import forward_flops
from kdzoo.errors import KdzooError
from kdzoo.models.heads import longest_row
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import Classification
from kdzoo.tasks.padding import padding_side

WORDS = ["red", "green", "blue", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
BUDGET = ("--epochs", "1", "--batch-size", "16", "--learning-rate", "0.003")


def table(path: Path, rows: int = 60, most: int = 6, labels: tuple[str, str] = ("cold", "warm")) -> Path:
    """Texts of one word to several, whose label is whether "red" is there."""
    drawn = random.Random(0)
    with path.open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["text", "label"])
        for _ in range(rows):
            words = drawn.choices(WORDS, k=drawn.randint(1, most))
            out.writerow([" ".join(words), labels["red" in words]])
    return path


def folder(path: Path, family: str, *, positions: int = 40, tokenizer: Any = None, **more: Any) -> Path:
    """A model's folder with a tokenizer of the words."""
    tokenizer = tokenizer or learned_tokenizer([" ".join(WORDS)] * 4, size=120)
    config = getattr(transformers, f"{family}Config")(
        vocab_size=len(tokenizer), max_position_embeddings=positions, pad_token_id=tokenizer.pad_token_id,
        **SIZES, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    getattr(transformers, f"{family}ForSequenceClassification")(config).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def changed(path: Path, **settings: Any) -> None:
    file = path / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | settings))


def predictions(path: Path) -> list[list[str]]:
    with path.open(newline="") as file:
        return [*csv.reader(file)][1:]


@pytest.mark.parametrize("family", ["Roberta", "Bert"])
def test_a_tokenizer_told_to_pad_on_the_left(family: str, commands: Commands, tmp_path: Path) -> None:
    """The head reads the first place: a row's prediction is the same alone and beside longer ones."""
    file, model = table(tmp_path / "data.csv"), folder(tmp_path / "model", family)
    changed(model, padding_side="left")
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    assert tokenizer.padding_side == "left" and padding_side(tokenizer) == "right"
    task = Classification("mine", ("text",), ("cold", "warm"))
    rows = task.encode(Dataset.from_dict({"text": ["one", "one two three"], "label": [0, 1]}), tokenizer, 16)
    batch = task.collator(tokenizer)([rows[0], rows[1]])
    assert batch["attention_mask"][0, 0] == 1 and batch["attention_mask"][0, -1] == 0
    data = ("--data", file, "--text", "text", "--label", "label", "--max-length", "16")
    commands.works("finetune", *data, "--model", model, *BUDGET, "--out", tmp_path / "trained")
    found = []
    for size in (1, 32):
        told = ("--text", "text", "--batch-size", size, "--out", tmp_path / f"{size}.csv")
        commands.works("predict", tmp_path / "trained", file, *told)
        found.append(np.array([float(row[-1]) for row in predictions(tmp_path / f"{size}.csv")]))
    assert np.abs(found[0] - found[1]).max() < 2e-4


def test_the_side_of_a_kind_that_pads_on_the_left_is_kept() -> None:
    class Left(transformers.PreTrainedTokenizerFast):
        padding_side = "left"

    assert padding_side(Left(tokenizer_object=learned_tokenizer(["a b"] * 2, size=20).backend_tokenizer)) == "left"


def test_labels_that_are_numbers_are_written_as_they_are(commands: Commands, tmp_path: Path) -> None:
    file = table(tmp_path / "data.csv", labels=("-1", "+1"))
    data = ("--data", file, "--text", "text", "--label", "label", "--max-length", "16")
    commands.works("finetune", *data, "--model", "1x16,heads=2", *BUDGET, "--out", tmp_path / "trained")
    commands.works("predict", tmp_path / "trained", file, "--text", "text", "--out", tmp_path / "said.csv")
    assert {row[-2] for row in predictions(tmp_path / "said.csv")} <= {"-1", "+1", "1"}


def test_rows_that_are_cut_are_said(commands: Commands, tmp_path: Path) -> None:
    file = table(tmp_path / "data.csv", most=30)
    told = ("--text", "text", "--label", "label", "--max-length", "16", *BUDGET)
    with file.open(newline="") as lines:
        texts = [row["text"] for row in csv.DictReader(lines)]
    assert sum(len(text.split()) > 14 for text in texts) > 10
    said = commands.works("finetune", "--data", file, *told, "--model", "1x16", "--out", tmp_path / "trained")
    assert "training rows are longer than --max-length 16, and are cut" in said
    sizes = ("--teacher", "1x16", "--student", "1x16", "--methods", "none")
    said = commands.works("compare", "--data", file, *told, *sizes, "--out", tmp_path / "out")
    assert "training rows are longer than --max-length 16, and are cut" in said
    said = commands.works(
        "finetune", "--data", file, *told, "--max-length", "64", "--model", "1x16", "--out", tmp_path / "whole"
    )
    assert "longer than" not in said


def test_deberta_s_first_version_is_trained_though_it_cannot_be_counted(commands: Commands, tmp_path: Path) -> None:
    model = folder(tmp_path / "model", "DebertaV2", relative_attention=True, pos_att_type=["c2p", "p2c"])
    assert forward_flops(transformers.AutoModelForSequenceClassification.from_pretrained(model).eval(), 8) == 0
    data = ("--data", table(tmp_path / "data.csv"), "--text", "text", "--label", "label", "--max-length", "16")
    commands.works("finetune", *data, "--model", model, *BUDGET, "--out", tmp_path / "trained")
    assert json.loads((tmp_path / "trained" / "record.json").read_text())["flops"] == 0


@pytest.mark.parametrize("family", ["DebertaV2", "MPNet"])
def test_a_teacher_that_hides_its_queries_teaches_its_attention(
    family: str, commands: Commands, tmp_path: Path
) -> None:
    relative = {"relative_attention": True, "pos_att_type": ["c2p"]} if family == "DebertaV2" else {}
    model = folder(tmp_path / "model", family, **relative)
    data = ("--data", table(tmp_path / "data.csv"), "--text", "text", "--label", "label", "--max-length", "16")
    models = ("--teacher", model, "--student", "1x16,heads=2", "--methods", "tinybert", "--seeds", "1")
    told = commands.works("compare", *data, *models, *BUDGET, "--out", tmp_path / "out")
    kept = "the teacher runs live: "
    assert [line.partition(kept)[2] for line in told.splitlines() if "teacher runs" in line or "are kept" in line] == [
        f"{family}ForSequenceClassification does not show its queries and keys"
    ]
    (cell,) = (record for record in records(tmp_path / "out").values() if record["method"] == "tinybert")
    assert all(0 < entry["loss/attention_mse"] < 100 for entry in cell["history"] if "loss/attention_mse" in entry)
    assert any("loss/attention_mse" in entry for entry in cell["history"])


def test_how_long_a_row_may_be() -> None:
    xlnet = transformers.XLNetConfig(vocab_size=30, d_model=16, n_layer=1, n_head=2, d_inner=16)
    assert longest_row(transformers.XLNetForSequenceClassification(xlnet)) is None
    sizes = {"vocab_size": 30, **SIZES, "max_position_embeddings": 40}
    assert longest_row(transformers.RobertaForSequenceClassification(transformers.RobertaConfig(**sizes))) == 38
    assert longest_row(transformers.BertForSequenceClassification(transformers.BertConfig(**sizes))) == 40
    deberta = transformers.DebertaV2Config(**sizes, position_biased_input=False, relative_attention=True)
    assert longest_row(transformers.DebertaV2ForSequenceClassification(deberta)) == 40


def test_roberta_s_reserved_positions_are_no_room(commands: Commands, tmp_path: Path) -> None:
    data = ("--data", table(tmp_path / "data.csv"), "--text", "text", "--label", "label", *BUDGET)
    model = folder(tmp_path / "model", "Roberta", positions=40)
    most = longest_row(transformers.AutoModelForSequenceClassification.from_pretrained(model))
    told = ("--model", model, "--max-length", "40", "--out", tmp_path / "trained")
    commands.fails("finetune", *data, *told, says=(f"max_length is 40; the model takes at most {most} tokens",))


def test_a_tokenizer_without_padding_is_refused_before_anything_is_trained(commands: Commands, tmp_path: Path) -> None:
    model = folder(tmp_path / "model", "Bert")
    changed(model, pad_token=None)
    data = ("--data", table(tmp_path / "data.csv"), "--text", "text", "--label", "label", "--max-length", "16")
    says = ("the teacher's tokenizer has no token that pads",)
    commands.fails("finetune", *data, "--model", model, *BUDGET, "--out", tmp_path / "trained", says=says)
    sizes = ("--teacher", model, "--student", "1x16", "--methods", "kd", "--out", tmp_path / "out")
    commands.fails("compare", *data, *sizes, *BUDGET, says=says)
    assert not records(tmp_path / "out")


def test_one_vocabulary_that_is_read_in_two_ways_is_refused(commands: Commands, tmp_path: Path) -> None:
    texts = ["Red Green Blue red green blue one two three"] * 4
    lower, cased = learned_tokenizer(texts, size=120), learned_tokenizer(texts, size=120)
    cased.backend_tokenizer.normalizer = None
    teacher = folder(tmp_path / "teacher", "Bert", tokenizer=lower)
    student = folder(tmp_path / "student", "Bert", tokenizer=cased)
    file = tmp_path / "data.csv"
    file.write_text("text,label\n" + "".join(f"Red {word},{at % 2}\n" for at, word in enumerate(WORDS * 2)))
    given = ("--data", file, "--text", "text", "--label", "label", "--max-length", "16", *BUDGET)
    models = ("--teacher", teacher, "--student", student, "--methods", "kd", "--out", tmp_path / "out")
    commands.fails("compare", *given, *models, says=("has the teacher's vocabulary and reads 'Red",))


def test_the_example_for_transformers_own_trainer_accumulates() -> None:
    """Of equal rows, several micro-batches are one batch: the losses that the Trainer logs are the same."""
    path = Path(__file__).parents[1] / "docs" / "examples" / "transformers_trainer.py"
    spec: Any = importlib.util.spec_from_file_location("transformers_trainer", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    whole, pieces = module.main(steps=1), module.main(steps=1, pieces=4)
    assert pieces[0] == pytest.approx(whole[0], rel=0.1)


def test_names_in_training_say_nothing_of_ids_elsewhere(commands: Commands, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    table(data / "train.csv", labels=("warm", "cold"))
    table(data / "dev.csv", rows=20, labels=("0", "1"))
    told = ("--text", "text", "--label", "label", "--model", "1x16", "--max-length", "16", *BUDGET)
    says = ("dev.csv, row 1, column 'label': no training row has the label", "training has cold, warm")
    commands.fails("finetune", "--data", data, *told, "--out", tmp_path / "trained", says=says)
    commands.works("finetune", "--data", data, *told, "--labels", "warm,cold", "--out", tmp_path / "trained")
    with pytest.raises(KdzooError):
        Classification("mine", ("text",), ("2", "1")).class_of("0")
