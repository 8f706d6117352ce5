"""Tasks with a tag for every word: what is encoded, trained on and scored, from files of one's own too."""

from __future__ import annotations

import random
import secrets
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import ROWS, Commands, records
from tasks_by_unit import compared, losses, made, model, trainer

import kdzoo
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.tasks import TokenClassification, get_task
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.metrics import entity_f1, get_metric, resampled_values
from kdzoo.tasks.own import from_data
from kdzoo.tasks.resampling import counts
from kdzoo.tasks.synthetic import entities
from kdzoo.training.cache import TeacherCache

SMALL = ("--teacher", "2x32,heads=2", "--student", "1x16,heads=2", *ROWS, "--max-length", "32")
CONLL = "Marie B-PER\nCurie I-PER\nlived O\n\nin O\nParis B-LOC\n\nhe O\nleft O\n\nParis B-LOC\n\n"


def tags(rng: random.Random, like: list[list[str]]) -> list[list[str]]:
    names = ["O", "B-X", "I-X", "B-Y", "I-Y"]
    return [[tag if rng.random() < 0.6 else rng.choice(names) for tag in one] for one in like]


def test_kd_counts_labelled_positions_alone() -> None:
    task, _, rows, tokenizer = made("ner")
    batch = task.collator(tokenizer)([rows[at] for at in range(6)])
    student, teacher = model(task, tokenizer, "1x16,heads=2", seed=1), model(task, tokenizer)
    objective = kdzoo.Objective([kdzoo.Term("kd", temperature=2.0), kdzoo.Term("ce")])
    found = compared(objective, student, teacher, batch)

    labels = batch["labels"].numpy()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    with torch.no_grad():
        zs, zt = (side(**inputs).logits.numpy().astype(float) for side in (student, teacher))
        own = student(**inputs, labels=batch["labels"]).loss.item()
    real = batch["attention_mask"].numpy() == 1
    counted = labels != -100
    assert counted.sum() < real.sum(), "some pieces and the special tokens have no label"

    def log_softmax(z: np.ndarray) -> np.ndarray:
        return z - np.log(np.exp(z).sum(-1, keepdims=True))

    p, q = log_softmax(zt / 2), log_softmax(zs / 2)
    by_token = 4 * (np.exp(p) * (p - q)).sum(-1)
    assert found["kd"] == pytest.approx(by_token[counted].mean(), rel=1e-4)
    assert found["kd"] != pytest.approx(by_token[real].mean(), rel=1e-3)
    assert found["ce"] == pytest.approx(own, rel=1e-5)
    assert torch.equal(task.counted(batch), torch.from_numpy(counted))


def test_hidden_states_and_attention_count_all_real_tokens() -> None:
    task, _, rows, tokenizer = made("ner")
    batch = task.collator(tokenizer)([rows[at] for at in range(6)])
    models = model(task, tokenizer, "2x16,heads=2", seed=1), model(task, tokenizer)
    terms = [kdzoo.Term("hidden_mse", layers="uniform"), kdzoo.Term("attention_kl")]
    before = compared(kdzoo.Objective(terms), *models, batch)
    fewer = {**batch, "labels": batch["labels"].clone()}
    fewer["labels"][:, 3:] = -100
    assert compared(kdzoo.Objective(terms), *models, fewer) == before


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_cached_logits_by_token_are_the_teacher_s(tmp_path: Path, precision: str) -> None:
    task, _, rows, tokenizer = made("ner")

    def run(cache: TeacherCache | None) -> list[float]:
        objective = kdzoo.Objective([kdzoo.Term("kd"), kdzoo.Term("ce")])
        one = trainer(task, tokenizer, rows, tmp_path / "out", objective, cache=cache)
        one.train()
        assert (one.teacher_rows is not None) == (cache is not None)
        return losses(one)

    cached = run(TeacherCache(tmp_path / "cache", precision=precision))
    assert cached == pytest.approx(run(None), rel=1e-5 if precision == "fp32" else 0.05)


def test_micro_batches_are_weighed_by_their_labels(tmp_path: Path) -> None:
    """Two micro-batches of 4 rows give the step that one batch of 8 rows gives."""
    task, _, rows, tokenizer = made("ner")
    weights = []
    for batch, pieces in ((8, 1), (4, 2)):
        objective = kdzoo.Objective([kdzoo.Term("kd"), kdzoo.Term("ce")])
        one = trainer(task, tokenizer, rows, tmp_path / "out", objective, batch=batch, pieces=pieces)
        one.train()
        weights.append(torch.cat([parameter.detach().flatten() for parameter in one.student.parameters()]))
    torch.testing.assert_close(*weights, atol=2e-4, rtol=0)


def test_cut_sentences_are_scored_whole() -> None:
    task, rows, short, _ = made("ner", length=8)
    assert len(short) > len(rows) and short["sample_ids"][:] == [*range(len(short))]
    assert max(short["length"]) <= 8
    assert task.references(short) == rows["tags"][:]
    width = max(short["length"]) + 3
    logits = np.full((len(short), width, len(task.labels)), 0.0)
    for number, labels in enumerate(short["labels"]):
        logits[number, :, 0] = 1
        for place, label in enumerate(labels):
            logits[number, place, max(label, 0)] += 5
    assert task.predictions(logits, short) == rows["tags"][:]
    with pytest.raises(KdzooError, match=r"logits \(N, S, 7\)"):
        task.predictions(logits[..., :3], short)


def test_the_batch_holds_what_models_take() -> None:
    task, _, rows, tokenizer = made("ner")
    tokenizer.padding_side = "left"
    batch = task.collator(tokenizer)([rows[at] for at in range(5)])
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids", "labels", "sample_ids"}
    for number in range(5):
        size = rows[number]["length"]
        assert batch["input_ids"][number, :size].tolist() == rows[number]["input_ids"]
        assert batch["labels"][number, :size].tolist() == rows[number]["labels"]
        assert (batch["labels"][number, size:] == -100).all() and not batch["attention_mask"][number, size:].any()


def test_metrics_and_their_resamples_are_seqeval_s() -> None:
    seed = secrets.randbits(32)
    print("seed", seed)
    rng, drawing = random.Random(seed), np.random.default_rng(seed)
    start = [["O"] * rng.randint(0, 9) for _ in range(40)]
    true = tags(rng, start)
    cells = [tags(rng, true) for _ in range(2)]
    index = drawing.integers(40, size=(3, 40))
    drawn = counts(index, 40)
    for name, key, strict in (
        ("entity_f1", "f1", False),
        ("precision", "precision", False),
        ("recall", "recall", False),
        ("macro_f1", "macro_f1", False),
        ("strict_f1", "f1", True),
    ):
        for cell in cells:
            assert get_metric(name, "tokens").compute(cell, true) == pytest.approx(entity_f1(true, cell, strict)[key])
        found = resampled_values(name, "tokens", cells, true, drawn)
        for row, cell in enumerate(cells):
            for column, rows in enumerate(index):
                again = entity_f1([true[at] for at in rows], [cell[at] for at in rows], strict)[key]
                assert found[row, column] == pytest.approx(again)
    assert get_metric("macro_f1", "tokens").compute([["O"]], [["O"]]) == 0


def test_two_tokenizers_and_cut_sentences_are_refused() -> None:
    task, rows, _, tokenizer = made("ner")
    from kdzoo.models.vocabulary import learned_tokenizer

    other = learned_tokenizer(task.texts(rows), size=400)
    whole = Encoder(other, tokenizer, 64).for_students(task, rows)
    assert len(whole) == len(rows) and "teacher_input_ids" in whole.column_names
    with pytest.raises(KdzooError, match="larger --max-length"):
        Encoder(other, tokenizer, 12).for_students(task, rows)


def test_synthetic_rows_are_their_own() -> None:
    whole = entities.generate("train", 30, seed=3)
    assert entities.generate("train", 10, seed=3)["words"] == whole["words"][:10]
    assert entities.generate("train", 10, seed=4)["words"] != whole["words"][:10]
    held = {" ".join(words) for words in entities.generate("validation", 300)["words"]}
    assert not held & {" ".join(words) for words in entities.generate("train", 600)["words"]}
    assert {tag for tags in whole["tags"] for tag in tags} <= set(entities.TAGS)


def test_a_comparison_whole(commands: Commands, tmp_path: Path) -> None:
    out = tmp_path / "out"
    asked = ("compare", "--tasks", "ner", *SMALL, "--methods", "none,kd", "--seeds", "2", "--out", out)
    assert "entity_f1" in commands.works(*asked)
    found = records(out)
    assert len(found) == 5
    teacher = found["ner-teacher"]
    assert teacher["kind"] == "tokens" and teacher["headline"] == ["entity_f1"]
    references = teacher["references"]["validation"]
    for record in found.values():
        predicted = record["predictions"]["validation"]
        assert [*map(len, predicted)] == [*map(len, references)] and len(references) == 32
        assert record["metrics"]["entity_f1"] == pytest.approx(entity_f1(references, predicted)["f1"])
        assert record["score"] == pytest.approx(100 * record["metrics"]["entity_f1"])
    times = {name: (out / "cells").stat().st_mtime_ns for name in found}
    commands.works(*asked)  # which finds all of it
    assert {name: (out / "cells").stat().st_mtime_ns for name in found} == times
    assert "<svg" in (out / "report.html").read_text()


def test_a_model_trained_here_is_a_teacher(commands: Commands, tmp_path: Path) -> None:
    from transformers import AutoModelForTokenClassification

    data = ("--task", "ner", *ROWS, "--max-length", "32")
    commands.works("finetune", *data, "--model", "2x32,heads=2", "--out", tmp_path / "teacher")
    given = ("--teacher", tmp_path / "teacher", "--student", "1x16,heads=2", "--cache-folder", tmp_path / "cache")
    commands.works("distill", *data, *given, "--method", "lrc", "--out", tmp_path / "student")
    loaded = AutoModelForTokenClassification.from_pretrained(tmp_path / "student")
    assert tuple(loaded.config.id2label.values()) == entities.TAGS


def test_labels_are_matched_by_name(tmp_path: Path) -> None:
    from kdzoo.models.spec import ModelSpec

    task, _, rows, tokenizer = made("ner")
    one = model(task, tokenizer)
    one.save_pretrained(tmp_path)
    order = [3, 0, 6, 5, 4, 1, 2]
    turned = TokenClassification("ner", tuple(task.labels[at] for at in order))
    read = ModelSpec.parse(str(tmp_path)).build(turned)
    ids = torch.tensor([rows[0]["input_ids"]])
    with torch.no_grad():
        torch.testing.assert_close(read(ids).logits, one(ids).logits[..., order])
    with pytest.raises(KdzooError, match="labels"):
        ModelSpec.parse(str(tmp_path)).build(TokenClassification("ner", ("O", *[f"B-{n}" for n in "abcdef"])))


def test_a_folder_s_own_tags(commands: Commands, tmp_path: Path) -> None:
    folder = tmp_path / "data" / "ner"
    folder.mkdir(parents=True)
    for name in ("train.txt", "devel.txt", "test.txt"):
        (folder / name).write_text(CONLL * 4)
    task = get_task("ner").adapted(str(tmp_path / "data"))
    assert task.labels == ("O", "B-LOC", "I-LOC", "B-PER", "I-PER") and task.test_split == "test"
    data = ("--tasks", "ner", "--data", tmp_path / "data", *SMALL, "--methods", "none", "--out", tmp_path / "out")
    said = commands.works("compare", *data)
    assert "5 tags (LOC, PER)" in said
    assert set(records(tmp_path / "out")["ner-none-0"]["test"]) == {"score", "metrics", "rows"}
    assert get_task("ner").adapted("synthetic").labels == entities.TAGS


def test_data_of_one_s_own(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "mine.tsv"
    file.write_text(CONLL.replace(" ", "\t") * 10)
    own = from_data(file, kind="tokens", metric="strict_f1")
    assert own.task.name == "mine" and own.task.headline == ("strict_f1",)
    assert {split: len(rows) for split, rows in own.task.rows().items()} == {"train": 36, "validation": 4}
    assert "4 of 40 training sentences are taken" in own.notes[1]
    rows = {"words": [["a", "b"]] * 5, "tags": [["B", "O"]] * 5}
    from datasets import Dataset

    assert from_data(Dataset.from_dict(rows), kind="tokens").task.labels == ("O", "B", "I")
    described = tmp_path / "mine.yaml"
    described.write_text("kind: tokens\nfiles: mine.tsv\nname: named\n")
    small = (*SMALL, "--methods", "none", "--out", tmp_path / "out")
    commands.works("compare", "--tasks", described, *small)
    assert "named-none-0" in records(tmp_path / "out")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("a\tO\nb\tX\n", ("row 2", "'X' is no BIO tag")),
        ("a\tO\nb\n", ("row 2", "expected a word, a tab or space and its tag")),
        ("a\tB\nb\tB-X\n", ("row 2", "'B-X' in a file")),
        ("\n\n", ("no word with a tag",)),
        ("a\tB-X\tO\nb\tI-X\tO\n", ("every tag is O",)),
        ("text_a\tlabel\na b\tO\n", ("row 2", "1 tags and 2 words")),
    ],
)
def test_files_that_are_none(commands: Commands, tmp_path: Path, text: str, says: tuple[str, ...]) -> None:
    file = tmp_path / "mine.tsv"
    file.write_text(text)
    given = ("--data", file, "--kind", "tokens", *SMALL, "--out", tmp_path / "out")
    commands.fails("compare", *given, says=("mine.tsv", *says))


@pytest.mark.parametrize("tags", [["O", "I-X"], ["B-X", "I-Y"], ["O", "I"]])
def test_entities_that_the_strict_score_does_not_see_are_counted(tags: list[str]) -> None:
    rows = _lists([["a", "b"]] * 3, [tags, ["O", "O"], tags])
    known = ("O", "B-X", "I-X", "B-Y", "I-Y", "B", "I")
    strict = TokenClassification("mine", known, headline=("strict_f1",))
    with pytest.warns(KdzooWarning, match="in 2 of 3 validation sentences an I opens an entity"):
        strict.check_rows("validation", rows, None)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        TokenClassification("mine", known).check_rows("validation", rows, None)
        strict.check_rows("validation", _lists([["a", "b"]], [["B-X", "I-X"]]), None)


def test_what_else_is_refused(commands: Commands, tmp_path: Path) -> None:
    file = tmp_path / "mine.tsv"
    file.write_text(CONLL * 5)
    own = ("compare", "--data", file, "--kind", "tokens", *SMALL, "--out", tmp_path / "out")
    commands.fails(*own, "--metric", "accuracy", says=("accuracy", "for tokens there are entity_f1"))
    commands.fails(*own, "--labels", "O,B-PER", says=("row 1", "'I-PER' is none of mine's tags"))
    (tmp_path / "rows.jsonl").write_text('{"words": ["a"], "tag": ["O"]}\n' * 9)
    other = (*own[:1], "--data", tmp_path / "rows.jsonl", *own[3:])
    commands.fails(*other, says=("rows.jsonl: no column 'tags' of tags; it has words, tag",))
    commands.fails(*own, "--label-separator", ";", says=("--label-separator",))
    glove = tmp_path / "glove.txt"
    glove.write_text("a 0.1\n")
    given = ("compare", "--tasks", "ner", *SMALL, "--out", tmp_path / "out", "--augment", "1", "--glove", glove)
    commands.fails(*given, says=("ner has labels at its words", "--augment"))
    with pytest.raises(KdzooError, match="row 2, 1 tags and 2 words"):
        from_data({"train": _lists([["a"], ["b", "c"]], [["O"], ["B"]])}, kind="tokens")
    with pytest.raises(KdzooError, match="'B-NEW' is none of data's tags"):
        two = _lists([["a"], ["b"]], [["O"], ["B-OLD"]]), _lists([["a"], ["b"]], [["O"], ["B-NEW"]])
        from_data({"train": two[0], "dev": two[1]}, kind="tokens")
    with pytest.raises(KdzooError, match="no BIO tag"):
        TokenClassification("mine", ("O", "PER"))


def _lists(words: list[list[str]], marks: list[list[str]]) -> object:
    from datasets import Dataset

    return Dataset.from_dict({"words": words, "tags": marks})


def test_losses_on_rows_labels_are_refused(commands: Commands) -> None:
    given = ("check", "codir,srrl,minilmv2", "--tasks", "ner", "--teacher", "2x32,heads=2", "--train-rows", "32")
    commands.fails(*given, says=("needs one label a row",))
