"""Sentence order on text: rows of two segments, their labels, the loss, and the accuracy that is recorded."""

from __future__ import annotations

import json
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import Commands

import kdzoo
from kdzoo import KdzooError
from kdzoo.bench.runs import on_text
from kdzoo.bench.runs.text_rows import TextCollator, held_out, order_accuracy
from kdzoo.models.activations import Needs, capture
from kdzoo.models.spec import ModelSpec
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.segments import Segments
from kdzoo.tasks.synthetic.grammar import generate
from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer
from kdzoo.tasks.text import Text, packed
from kdzoo.testing import fresh_seed
from kdzoo.training.accumulation import shares
from kdzoo.training.distiller import Distiller


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import BertConfig, BertForMaskedLM

    folder, tokenizer = tmp_path_factory.mktemp("teacher"), synthetic_tokenizer()
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    BertForMaskedLM(
        # Three labels, as of a task that it was fine-tuned on: the order still has two.
        BertConfig(
            vocab_size=len(tokenizer),
            intermediate_size=16,
            max_position_embeddings=96,
            num_labels=3,
            initializer_range=0.2,
            **sizes,
        )
    ).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def documents(count: int, seed: int) -> list[list[str]]:
    """Documents of one to six lines."""
    rng = np.random.default_rng(seed)
    lines = iter(generate("sst2", "train", 6 * count)["sentence"])
    return [[next(lines) for _ in range(int(rng.integers(1, 7)))] for _ in range(count)]


def written(path: Path, texts: list[list[str]]) -> Path:
    path.write_text("\n\n".join("\n".join(lines) for lines in texts) + "\n")
    return path


# --- rows -------------------------------------------------------------------------------------------------------------


def test_rows_hold_every_token_of_a_document_and_of_no_other(tmp_path: Path) -> None:
    seed, tokenizer, length = fresh_seed(), synthetic_tokenizer(), 24
    texts = documents(30, seed)
    texts[3].append(" ".join(["the film"] * 30))  # longer than a row
    rows = packed(
        Text([written(tmp_path / "a.txt", texts)]), tokenizer, length, tmp_path / "rows", segments=Segments(tokenizer)
    )
    expected = [[*chain(*tokenizer(lines, add_special_tokens=False)["input_ids"])] for lines in texts]
    at = 0
    for ids in expected:
        found: list[int] = []
        while len(found) < len(ids):
            row = rows[at]
            assert row["sample_ids"] == at and sum(row["pieces"]) == len(row["input_ids"])
            assert len(row["pieces"]) > 1 or len(row["input_ids"]) <= length - 3
            assert row["length"] == len(row["input_ids"]) + (3 if len(row["pieces"]) > 1 else 2) <= length
            found += row["input_ids"]
            at += 1
        assert found == ids, f"KDZOO_SEED={seed}"
    assert at == len(rows)


def test_a_tenth_of_the_rows_ends_early(tmp_path: Path) -> None:
    tokenizer, length = synthetic_tokenizer(), 63
    (tmp_path / "a.txt").write_text("the film\n" * 20000)
    rows = packed(Text([tmp_path / "a.txt"]), tokenizer, length, tmp_path / "rows", segments=Segments(tokenizer))
    sizes = np.asarray(rows["length"][:-1])
    assert (sizes == length).mean() == pytest.approx(0.9, abs=0.04)
    early = sizes[sizes < length]
    assert early.min() <= 3 + 8 and early.mean() == pytest.approx(3 + 30, abs=6)


# --- segments ---------------------------------------------------------------------------------------------------------


def test_segments_are_the_tokenizers_pairs_in_order_or_exchanged() -> None:
    tokenizer, lines = synthetic_tokenizer(), generate("sst2", "train", 4)["sentence"]
    pieces = [tokenizer(line, add_special_tokens=False)["input_ids"] for line in lines]
    ids, sizes = [*chain(*pieces)], [*map(len, pieces)]
    expected = {}
    for cut in range(1, len(lines)):
        parts = " ".join(lines[:cut]), " ".join(lines[cut:])
        for label in (0, 1):
            pair = tokenizer(*parts[:: -1 if label else 1])
            expected[tuple(pair["input_ids"]), tuple(pair["token_type_ids"])] = cut, label
    segments = Segments(tokenizer, seed=fresh_seed())
    drawn = []
    for row in range(1200):
        made = segments(ids, sizes, row)
        cut, label = expected[tuple(made["input_ids"]), tuple(made["token_type_ids"])]
        assert made["order_labels"] == label
        drawn.append((cut, label))
    counts = [sum(cut == at for cut, _ in drawn) for at in (1, 2, 3)]
    assert np.mean([label for _, label in drawn]) == pytest.approx(0.5, abs=0.08)
    assert all(count == pytest.approx(400, abs=100) for count in counts)
    again = [segments(ids, sizes, row) for row in range(50)]
    assert again == [segments(ids, sizes, row) for row in range(50)]
    assert again != [segments(ids, sizes, row, epoch=1) for row in range(50)]
    assert again != [Segments(tokenizer, seed=segments.seed + 1)(ids, sizes, row) for row in range(50)]


def test_a_line_alone_is_a_row_without_an_order() -> None:
    tokenizer = synthetic_tokenizer()
    ids = tokenizer("the film was good .", add_special_tokens=False)["input_ids"]
    whole = tokenizer("the film was good .")
    assert Segments(tokenizer)(ids, [len(ids)], 0) == {
        "input_ids": whole["input_ids"],
        "token_type_ids": whole["token_type_ids"],
        "order_labels": -100,
    }


def test_a_batch_masks_words_and_keeps_the_order() -> None:
    tokenizer = synthetic_tokenizer()
    ids = tokenizer("the film was good .", add_special_tokens=False)["input_ids"]
    rows = [{"input_ids": ids * (1 + at), "pieces": [len(ids)] * (1 + at), "sample_ids": at} for at in range(3)]
    segments = Segments(tokenizer, 3)
    masked, plain = (TextCollator(tokenizer, share, 3, segments)(rows) for share in (0.5, None))
    made = [segments(row["input_ids"], row["pieces"], row["sample_ids"]) for row in rows]
    assert masked["order_labels"].tolist() == plain["order_labels"].tolist() == [row["order_labels"] for row in made]
    longest = max(len(row["input_ids"]) for row in made)
    padded = [row["token_type_ids"] + [0] * (longest - len(row["token_type_ids"])) for row in made]
    assert masked["token_type_ids"].tolist() == plain["token_type_ids"].tolist() == padded
    labelled = masked["labels"] != -100
    assert labelled.any()
    assert torch.equal(torch.where(labelled, masked["labels"], masked["input_ids"]), plain["input_ids"])


# --- the loss ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student", ["1x16", "albert:2x16,embedding=8"])
def test_the_total_is_that_of_transformers_own_pretraining(student: str, teacher: Path) -> None:
    tokenizer, seed = synthetic_tokenizer(), fresh_seed()
    recipe = Recipe.load("mlm + sop*2").on_text()
    _, model = on_text._models(recipe, ModelSpec.parse(str(teacher)), ModelSpec.parse(student), 0)
    assert type(model).__name__ in ("BertForPreTraining", "AlbertForPreTraining")
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    lines = tokenizer(generate("sst2", "train", 40)["sentence"], add_special_tokens=False)["input_ids"]
    rows = [
        {"input_ids": one + two, "pieces": [len(one), len(two)], "sample_ids": at}
        for at, (one, two) in enumerate(zip(lines[::2], lines[1::2], strict=True))
    ]
    batch = TextCollator(tokenizer, 0.15, seed, Segments(tokenizer, seed))(rows)
    found = Distiller(model, recipe.objective().bind(model, None)).train()(**batch)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids", "labels")}
    label = "sentence_order_label" if "albert" in student else "next_sentence_label"
    expected = model(**inputs, **{label: batch["order_labels"]})
    said = expected.sop_logits if "albert" in student else expected.seq_relationship_logits
    order = torch.nn.functional.cross_entropy(said, batch["order_labels"])
    torch.testing.assert_close(found.terms["sop"], order)
    torch.testing.assert_close(found.total, expected.loss + order)
    found.total.backward()
    pooler = model.base_model.pooler
    assert all(bool(parameter.grad.abs().sum() > 0) for parameter in pooler.parameters())
    with capture(model.eval(), Needs(order=True)) as recorder:
        taken = recorder.activations(model(**inputs))
    assert taken.get("order").shape == (20, 2)
    assert taken.get("logits").shape == (*batch["input_ids"].shape, len(tokenizer))


def test_rows_without_an_order_do_not_count() -> None:
    logits, labels = torch.randn(4, 2, requires_grad=True), torch.tensor([1, -100, 0, -100])
    value = kdzoo.create("sop")(logits, labels=labels)
    torch.testing.assert_close(value, torch.nn.functional.cross_entropy(logits[[0, 2]], labels[[0, 2]]))
    assert kdzoo.create("sop")(logits, labels=torch.full((4,), -100)).item() == 0.0
    with pytest.raises(KdzooError, match="label 2 is out of range"):
        kdzoo.create("sop")(logits, labels=torch.tensor([2, 0, 1, 1]))
    with pytest.raises(KdzooError, match="no mask"):
        kdzoo.create("sop")(torch.randn(2, 3, 2), labels=torch.zeros(2, dtype=torch.long))
    # Micro-batches weigh by the rows that have an order: 2 and 1 of a mean of 1.5.
    batches = [{"input_ids": torch.ones(4, 3), "order_labels": labels}, {"input_ids": torch.ones(4, 3)}]
    batches[1]["order_labels"] = torch.tensor([-100, -100, 0, -100])
    torch.testing.assert_close(
        [float(share["orders"]) for share in shares(batches, torch.device("cpu"))], [4 / 3, 2 / 3]
    )


# --- pretrain ---------------------------------------------------------------------------------------------------------

OPTIONS = ("--batch-size", "16", "--max-length", "32", "--learning-rate", "0.01", "--method", "mlm*0.1 + sop")


@pytest.mark.parametrize("student", ["1x16,heads=2", "albert:2x16,embedding=8"])
def test_the_accuracy_is_that_of_the_saved_student_on_rows_it_was_not_trained_on(
    student: str, commands: Commands, teacher: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForPreTraining

    lines = [" ".join(line.split()[:9]) for line in generate("sst2", "train", 200)["sentence"]]
    text = written(tmp_path / "a.txt", [[f"the film {line}", f"it was {line}"] for line in lines] + [lines[:1]])
    out = tmp_path / "out"
    options = ("--text", text, "--teacher", teacher, "--student", student, *OPTIONS, "--steps", 60, "--out", out)
    said = commands.works("pretrain", *options)
    record = json.loads((out / "record.json").read_text())
    tokenizer, segments = synthetic_tokenizer(), Segments(synthetic_tokenizer(), 0)
    trained, held = held_out(packed(Text([text]), tokenizer, 32, tmp_path / "rows", segments=segments))
    assert record["sentence_order"] | {"accuracy": 0} == {"accuracy": 0, "rows": 10, "training_rows": 190}
    assert record["rows"] == len(trained) == 190 and held["sample_ids"][:] == [*range(190, 200)]
    model = AutoModelForPreTraining.from_pretrained(out).eval()
    right = []
    for row in held:
        cut = row["pieces"][0]
        made = segments(row["input_ids"], row["pieces"], row["sample_ids"])
        exchanged = made["input_ids"][1] != row["input_ids"][0] or made["input_ids"][2] != row["input_ids"][1]
        parts = [row["input_ids"][:cut], row["input_ids"][cut:]][:: -1 if exchanged else 1]
        pair = [tokenizer.cls_token_id, *parts[0], tokenizer.sep_token_id, *parts[1], tokenizer.sep_token_id]
        types = [0] * (len(parts[0]) + 2) + [1] * (len(parts[1]) + 1)
        given = {"input_ids": torch.tensor([pair]), "token_type_ids": torch.tensor([types])}
        outputs = model(**given)
        order = outputs.sop_logits if "albert" in student else outputs.seq_relationship_logits
        right.append(int(order.argmax()) == int(exchanged))
    assert record["sentence_order"]["accuracy"] == np.mean(right) >= 0.9
    assert f"the order of {np.mean(right):.1%} of 10 held-out rows is right" in said
    assert "loss/sop" in record["losses"] and "loss/mlm" in record["losses"]


def test_a_model_that_takes_no_mask_is_scored(tmp_path: Path) -> None:
    from transformers import FNetConfig, FNetForPreTraining

    tokenizer = synthetic_tokenizer()
    segments = Segments(tokenizer, 0)
    text = written(tmp_path / "a.txt", documents(20, 0))
    _, held = held_out(packed(Text([text]), tokenizer, 32, tmp_path / "rows", segments=segments))
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    model = FNetForPreTraining(FNetConfig(vocab_size=len(tokenizer), **sizes))
    with torch.no_grad():  # which says that all are in order
        model.cls.seq_relationship.weight.zero_()
        model.cls.seq_relationship.bias.copy_(torch.tensor([1.0, 0.0]))
    ordered = [segments(row["input_ids"], row["pieces"], row["sample_ids"])["order_labels"] == 0 for row in held]
    assert order_accuracy(model, held, tokenizer, segments, 4) == np.mean(ordered)


def test_layers_of_the_teacher_keep_its_head_for_words(teacher: Path) -> None:
    recipe = Recipe.load("mlm + sop").on_text()
    guide, student = on_text._models(recipe, ModelSpec.parse(str(teacher)), ModelSpec.parse("teacher:1"), 0)
    for part in ("cls.predictions.transform.dense.weight", "bert.embeddings.word_embeddings.weight"):
        assert torch.equal(student.get_parameter(part), guide.get_parameter(part))
    assert student.cls.seq_relationship.out_features == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--no-pack",), ("sop takes rows of several lines", "--no-pack")),
        (("--method", "hidden_mse + sop"), ("beside a loss on words", "add mlm")),
        (("--text", "single.txt"), ("0 of the text's ", "rows have two lines", "blank line ends a document")),
        (("--teacher", "electra"), ("'sop'", "ElectraForPreTraining has no such head", "BERT and ALBERT")),
        (("--teacher", "distilbert"), ("'sop'", "DistilBertForMaskedLM has no such head")),
        (("--teacher", "modernbert"), ("transformers has no AutoModelForPreTraining of 'modernbert'",)),
        (("--max-length", "8", "--mlm-probability", "2"), ("mlm_probability = 2.0",)),
    ],
)
def test_what_gives_no_order_is_refused_before_training(
    options: tuple[str, ...],
    says: tuple[str, ...],
    commands: Commands,
    teacher: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from tiny_models import tiny

    monkeypatch.chdir(tmp_path)
    written(Path("text.txt"), documents(20, 0))
    written(Path("single.txt"), [[line] for line in generate("sst2", "train", 20)["sentence"]])
    for family in ("electra", "distilbert", "modernbert"):
        if family in options:
            tiny(family, vocab_size=len(synthetic_tokenizer())).save_pretrained(family)
            synthetic_tokenizer().save_pretrained(family)
    given = {"--text": "text.txt", "--teacher": str(teacher), "--student": "1x16", "--method": "mlm + sop"}
    given |= {"--max-length": "32"} | dict(zip(options[::2], options[1::2], strict=False))
    flags = [part for pair in given.items() for part in pair] + ["--no-pack"] * ("--no-pack" in options)
    commands.fails("pretrain", *flags, "--steps", 2, "--out", "out", says=says)
    assert not Path("out/run.json").exists()
