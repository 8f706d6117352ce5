"""General distillation: text is read and packed whole, the student learns from it, and a task starts from it."""

from __future__ import annotations

import gzip
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Commands, records
from safetensors.torch import load_file
from tiny_models import tiny

import kdzoo
from kdzoo import KdzooError
from kdzoo.bench.runs import on_text as pretraining
from kdzoo.bench.runs.on_text import check_on_text
from kdzoo.bench.runs.text_rows import TextCollator
from kdzoo.models.loading import load_model
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.synthetic.grammar import generate
from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer
from kdzoo.tasks.text import Text, packed

SMALL = ("--student", "1x16,heads=4", "--batch-size", "8", "--max-length", "24", "--learning-rate", "0.01")
GENERAL = [name for name in kdzoo.available("recipes") if Recipe.load(name).general is not None]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A masked language model that reads the synthetic sentences."""
    from transformers import BertConfig, BertForMaskedLM

    folder, tokenizer = tmp_path_factory.mktemp("teacher"), synthetic_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = BertConfig(
        vocab_size=len(tokenizer), intermediate_size=32, max_position_embeddings=32, initializer_range=0.2, **sizes
    )
    BertForMaskedLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def headless(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    load_model(teacher, head="none").save_pretrained(folder)
    synthetic_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    path.write_text("\n".join(generate("sst2", "train", 60)["sentence"]) + "\n")
    return path


# --- text -------------------------------------------------------------------------------------------------------------


def rows(folder: Path, *sources: Path, length: int = 12, **options: Any) -> list[list[int]]:
    return packed(Text(sources), synthetic_tokenizer(), length, folder / "rows", **options)["input_ids"][:]


def test_rows_hold_every_token_in_order_and_end_with_a_document(tmp_path: Path) -> None:
    documents = ["the film was good .\nthe film was bad .\nit was it was it was it was it was it was", "a film ."]
    path = tmp_path / "a.txt"
    path.write_text("\n\n".join(documents))
    tokenizer = synthetic_tokenizer()
    ids = [tokenizer(document.split("\n"), add_special_tokens=False)["input_ids"] for document in documents]
    found = rows(tmp_path, path)
    cls, sep = tokenizer.cls_token_id, tokenizer.sep_token_id
    assert all(row[0] == cls and row[-1] == sep and len(row) <= 12 for row in found)
    inside = [row[1:-1] for row in found]
    # Two sentences in one row, the long line over two rows, the next document in a row of its own.
    assert inside == [ids[0][0] + ids[0][1], ids[0][2][:10], ids[0][2][10:], ids[1][0]]
    assert [row[1:-1] for row in rows(tmp_path, path, pack=False)] == [*ids[0][:2], *inside[1:]]


def test_files_folders_and_datasets_give_the_same_rows(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    lines = generate("sst2", "train", 9)["sentence"]
    plain, folder, saved = tmp_path / "a.txt", tmp_path / "folder", tmp_path / "saved"
    plain.write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8", newline="")
    folder.mkdir()
    (folder / "1.txt.gz").write_bytes(gzip.compress("\n".join(lines[:4]).encode()))
    (folder / "2.txt").write_text("\n".join(lines[4:]))
    DatasetDict({"train": Dataset.from_dict({"text": lines})}).save_to_disk(saved)
    expected = rows(tmp_path, plain, pack=False)
    assert len(expected) >= 9
    assert rows(tmp_path, folder, pack=False) == rows(tmp_path, saved, pack=False) == expected
    assert rows(tmp_path, saved / "train", pack=False) == expected


def test_changed_text_is_packed_anew(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a film .")
    first = rows(tmp_path, path)
    path.write_text("the film")
    assert rows(tmp_path, path) != first
    path.write_text("a film .")
    assert rows(tmp_path, path) == first


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "holds no text"),
        (b" \n\n", "holds no text"),
        (b"a film .\nthe\0film", "line 2: not text, it holds a zero byte"),
        (b"a film .\n\xff\xfe", "line 2: not UTF-8 text"),
        (None, "there is no such file"),
    ],
)
def test_text_that_is_none_is_refused(content: bytes | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(KdzooError, match=says):
        rows(tmp_path, path)
    assert not [*tmp_path.glob("rows/*.arrow*")] and not [*tmp_path.glob("rows/.*.arrow")]


def test_folders_without_text_are_refused(tmp_path: Path) -> None:
    from datasets import Dataset

    with pytest.raises(KdzooError, match=r"holds no \.txt"):
        Text([tmp_path])
    Dataset.from_dict({"body": ["a film ."]}).save_to_disk(tmp_path / "saved")
    with pytest.raises(KdzooError, match="no column 'text'; it has body"):
        rows(tmp_path, tmp_path / "saved")
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a film .")[:-9])
    with pytest.raises(KdzooError, match="cannot be read"):
        rows(tmp_path, tmp_path / "a.txt.gz")
    with pytest.raises(KdzooError, match="2 special tokens fill"):
        rows(tmp_path, tmp_path / "a.txt.gz", length=2)


# --- masks ------------------------------------------------------------------------------------------------------------


def test_masks_are_of_seed_epoch_and_rows() -> None:
    tokenizer = synthetic_tokenizer()
    batch = [{"input_ids": tokenizer("the film was good " * 5)["input_ids"], "sample_ids": at} for at in range(40)]
    batch[1]["input_ids"] = batch[1]["input_ids"][:7]
    collator = TextCollator(tokenizer, 0.15, seed=0)
    first, again = collator(batch), collator(batch)
    labelled = first["labels"] != -100
    assert torch.equal(first["input_ids"], again["input_ids"]) and torch.equal(first["labels"], again["labels"])
    assert 0.1 < labelled.float().mean() < 0.2
    assert not (labelled & (first["attention_mask"] == 0)).any() and not labelled[:, 0].any()
    plain = TextCollator(tokenizer, None, seed=0)(batch)
    assert "labels" not in plain
    assert torch.equal(torch.where(labelled, first["labels"], first["input_ids"]), plain["input_ids"])
    collator.epoch = 1
    assert not torch.equal(collator(batch)["labels"], first["labels"])
    assert not torch.equal(TextCollator(tokenizer, 0.15, seed=1)(batch)["labels"], first["labels"])


def test_mlm_counts_the_labelled_positions_alone() -> None:
    logits, labels = torch.randn(3, 5, 7, requires_grad=True), torch.full((3, 5), -100)
    labels[0, 1], labels[2, 4] = 3, 6
    mask = torch.ones(3, 5)
    mask[2, 4] = 0
    loss = kdzoo.create("mlm")
    expected = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss(logits, labels=labels), expected)
    torch.testing.assert_close(loss(logits, labels=labels, mask=mask), -logits[0, 1].log_softmax(0)[3])
    assert loss(logits, labels=torch.full((3, 5), -100)).item() == 0.0
    with pytest.raises(KdzooError, match="label 7 is out of range"):
        loss(logits, labels=torch.full((3, 5), 7))


# --- pretrain ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", GENERAL)
def test_general_stages_work_on_text(name: str, teacher: Path) -> None:
    recipe = Recipe.load(name).on_text()
    guide, student = pretraining._models(recipe, ModelSpec.parse(str(teacher)), ModelSpec.parse("1x16,heads=4"), 0)
    batch = [{"input_ids": [2, 5, 6, 3][: 4 - at], "sample_ids": at} for at in range(2)]
    masked = bool(pretraining.text_labels(recipe))
    check_on_text(recipe, student, guide, TextCollator(synthetic_tokenizer(), 0.15 if masked else None, 0)(batch), 2)
    assert "ForMaskedLM" in type(student).__name__ if masked else type(student).__name__ == "BertModel"


def test_recipes_with_a_general_stage() -> None:
    assert {"tinybert", "minilm", "minilmv2", "distilbert", "lrc"} <= set(GENERAL)
    recipe = Recipe.load("tinybert")
    assert Recipe.parse(recipe.model_dump(mode="json", exclude_defaults=True)) == recipe
    assert recipe.on_text().losses == ("embedding_mse", "hidden_mse", "attention_mse")
    assert recipe.on_text().on_text() == recipe.on_text() and Recipe.load("kd").on_text() == Recipe.load("kd")


def test_a_task_starts_from_the_student_of_the_general_stage(
    commands: Commands, teacher: Path, text: Path, tmp_path: Path
) -> None:
    out = tmp_path / "general"
    said = commands.works("pretrain", "--text", text, "--teacher", teacher, *SMALL, "--steps", 30, "--out", out)
    assert "tinybert_general: 30 steps" in said and f"--student {out}" in said
    record = json.loads((out / "record.json").read_text())
    logged = [entry["loss/hidden_mse"] for entry in record["history"] if "loss/hidden_mse" in entry]
    assert logged[-1] < 0.8 * logged[0] and record["losses"]["loss/hidden_mse"] == logged[-1]
    assert not (out / "text").exists() and record["tokens"] > record["rows"]
    assert "AutoModel`" in (out / "README.md").read_text()
    guide = load_model(teacher, 2)
    student, again = (make_student(str(out), guide, seed=seed) for seed in (0, 0))
    saved = load_file(out / "model.safetensors")
    state = student.base_model.state_dict()
    assert saved.keys() == state.keys() and all(torch.equal(saved[name], state[name]) for name in saved)
    assert torch.equal(student.classifier.weight, again.classifier.weight)
    assert not torch.equal(student.classifier.weight, make_student(str(out), guide, seed=1).classifier.weight)
    # The same command has nothing left to do.
    commands.works("pretrain", "--text", text, "--teacher", teacher, *SMALL, "--steps", 30, "--out", out)
    sizes = ("--train-rows", 32, "--validation-rows", 16, "--epochs", 1, "--max-length", 24)
    options = ("--tasks", "sst2", "--methods", "kd", "--teacher", teacher, "--student", out, *sizes)
    commands.works("compare", *options, "--out", tmp_path / "comparison")
    assert "sst2-kd-0" in records(tmp_path / "comparison")


def test_an_interrupted_run_goes_on_as_if_it_had_not_been(
    commands: Commands, teacher: Path, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    teacher = shutil.copytree(teacher, tmp_path / "teacher")
    options = ("pretrain", "--text", text, "--teacher", teacher, *SMALL, "--steps", 20, "--method")
    options = (*options, "hidden_mse + kd(temperature=2) + mlm + sop", "--out")
    commands.works(*options, tmp_path / "whole")
    proceed = pretraining._Watch.on_step_end

    def stop(self: Any, args: Any, state: Any, control: Any, **more: Any) -> None:
        proceed(self, args, state, control, **more)
        if state.global_step == 13:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretraining._Watch, "on_step_end", stop)
    assert commands(*options, tmp_path / "cut").code == 130
    monkeypatch.setattr(pretraining._Watch, "on_step_end", proceed)
    assert (tmp_path / "cut" / "checkpoint-12").is_dir()
    commands.works(*options, tmp_path / "cut")
    whole, cut = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "cut"))
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    # The heads go with it.
    assert any("predictions" in name for name in whole) and any("seq_relationship" in name for name in whole)
    said = [json.loads((tmp_path / name / "record.json").read_text())["sentence_order"] for name in ("whole", "cut")]
    assert said[0] == said[1]
    (teacher / "config.json").write_text((teacher / "config.json").read_text() + "\n")
    commands.fails(*options, tmp_path / "cut", says=("other contents of the files of the teacher", "another --out"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--method", "crd"), ("crd on text", "'ce' needs a task's labels")),
        (("--method", "kd*1"), ("no masked-language-model head", "kd would compare")),
        (("--method", "dist*1 + hidden_mse"), ("no masked-language-model head",)),
        (("--method", "hidden_mse*1", "--max-length", "64"), ("max_length is 64", "at most 32")),
        (("--method", "hidden_mse*1", "--student", "teacher:0,5"), ("the teacher has 2 layers",)),
        (("--method", "hidden_mse*1", "--mlm-probability", "2"), ("mlm_probability = 2.0",)),
        (("--teacher", "4x128"), ("a teacher of size 4x128 has learned nothing",)),
        (("--text", "absent.txt"), ("no text at absent.txt",)),
    ],
)
def test_what_cannot_work_is_refused_before_training(
    options: tuple[str, ...], says: tuple[str, ...], commands: Commands, headless: Path, text: Path, tmp_path: Path
) -> None:
    base = {"--text": text, "--teacher": headless, **dict(zip(SMALL[::2], SMALL[1::2], strict=True))}
    given = base | dict(zip(options[::2], options[1::2], strict=True))
    commands.fails("pretrain", *(part for pair in given.items() for part in pair), "--out", tmp_path, says=says)
    assert not (tmp_path / "run.json").exists()  # so that the corrected command can take the folder


def test_a_student_of_another_vocabulary_is_refused(
    commands: Commands, headless: Path, text: Path, tmp_path: Path
) -> None:
    tiny("bert").save_pretrained(tmp_path / "student")
    options = ("pretrain", "--text", text, "--teacher", headless, *SMALL, "--out", tmp_path / "out")
    commands.fails(
        *options, "--student", tmp_path / "student", says=("the student's vocabulary has 99 entries and the teacher's",)
    )


@pytest.mark.parametrize(("loss", "needed"), [("mlm", "masked words"), ("sop", "two segments of a document")])
def test_what_only_text_has_is_refused_on_a_task(loss: str, needed: str, commands: Commands, tmp_path: Path) -> None:
    options = ("compare", "--tasks", "sst2", "--methods", f"ce + {loss}", "--out", tmp_path)
    commands.fails(*options, says=(f"ce-{loss} on sst2", f"{loss!r} needs {needed}", "kdzoo pretrain"))
