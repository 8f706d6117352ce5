"""Data augmentation: the candidates of each word, how many are exchanged, and what a comparison does with the rows."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import SIZES, Commands, records

from kdzoo import KdzooError
from kdzoo.bench.runs import augmentation
from kdzoo.tasks.augmentation import CANDIDATES, Neighbours, WordReplacement, augmented

VOCABULARY = "[PAD] [UNK] [CLS] [SEP] [MASK] the film was good bad ##ly ##s act actor plot scene " + " ".join(
    f"{a}{b}" for a in "bcdfg" for b in ("an", "en", "in", "on")
)
TEXT = "The film was badly good, the plot 7 bad."


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    ids = {word: number for number, word in enumerate(VOCABULARY.split())}
    made = Tokenizer(models.WordPiece(ids, unk_token="[UNK]"))
    made.normalizer, made.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.BertPreTokenizer()
    made.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    tokens = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    return PreTrainedTokenizerFast(tokenizer_object=made, model_max_length=64, **tokens)


@pytest.fixture(scope="module")
def model(tokenizer: Any) -> Any:
    from transformers import BertConfig, BertForMaskedLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 4}
    return BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), initializer_range=0.5, **sizes)).eval()


@pytest.fixture(scope="module")
def replacement(tokenizer: Any, model: Any) -> WordReplacement:
    return WordReplacement(tokenizer, model, Neighbours.of_model(model, tokenizer))


def rows(texts: list[str]) -> Any:
    from datasets import Dataset

    return Dataset.from_dict({"sentence": texts, "label": list(range(len(texts)))})


# --- candidates -------------------------------------------------------------------------------------------------------


def test_neighbours_are_the_nearest_by_cosine() -> None:
    vectors = np.array([[1, 0], [5, 1], [0.1, 0.1], [-1, 0], [0, 2]])
    near = Neighbours(["good", "fine", "fair", "bad", "odd"], vectors)
    assert near.nearest("good") == near.nearest("Good") == ("fine", "fair", "odd", "bad")
    assert near.nearest("unheard") == ()


def test_glove_files(tmp_path: Path) -> None:
    path = tmp_path / "glove.txt"
    path.write_text("good 1 0\nfine 5 1\nbad -1 0\n")
    assert Neighbours.of_glove(path).nearest("good") == ("fine", "bad")
    for content, says in (
        ("good 1 0\nfine 1\n", "line 2: not a word and its vector"),
        ("good 1 0\nfine 1 x\n", "line 2: not a word and its vector"),
        ("good\n", "line 1: not a word and its vector"),
        ("", "is empty"),
    ):
        path.write_text(content)
        with pytest.raises(KdzooError, match=says):
            Neighbours.of_glove(path)


def test_a_word_of_one_piece_gets_the_models_predictions_where_it_is_masked(
    tokenizer: Any, model: Any, replacement: WordReplacement
) -> None:
    found = replacement.candidates(["the plot", TEXT])[1]
    inputs = tokenizer(TEXT, return_tensors="pt")
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0])
    for word in ("film", "good", "plot", "bad"):
        start = TEXT.index(f" {word}") + 1 if word != "bad" else TEXT.rindex("bad")
        place = tokens.index(word) if word != "bad" else len(tokens) - 3
        masked = inputs["input_ids"].clone()
        masked[0, place] = tokenizer.mask_token_id
        with torch.no_grad():
            logits = model(masked, attention_mask=inputs["attention_mask"]).logits[0, place]
        best = tokenizer.convert_ids_to_tokens(logits.argsort(descending=True).tolist())
        expected = [token for token in best if re.fullmatch("[a-z]+", token)][:CANDIDATES]
        assert found[start, start + len(word)] == tuple(expected)


def test_a_word_of_several_pieces_gets_neighbours(tokenizer: Any, model: Any, replacement: WordReplacement) -> None:
    table = model.get_input_embeddings().weight.detach()
    names = [word for word in VOCABULARY.split() if re.fullmatch("[a-z]+", word)]
    pieces = table[tokenizer.convert_tokens_to_ids(["bad", "##ly"])].mean(0)
    closeness = torch.cosine_similarity(table[tokenizer.convert_tokens_to_ids(names)], pieces)
    expected = [names[at] for at in closeness.argsort(descending=True).tolist()][:CANDIDATES]
    start = TEXT.index("badly")
    assert replacement.candidates([TEXT])[0][start, start + 5] == tuple(expected)
    alone = WordReplacement(tokenizer, None, replacement.neighbours)
    assert alone.candidates(["good"])[0][0, 4] == replacement.neighbours.nearest("good")
    assert "good" not in replacement.neighbours.nearest("good")


def test_stop_words_numbers_and_punctuation_stay(replacement: WordReplacement) -> None:
    words = {TEXT[start:end] for start, end in replacement.candidates([TEXT])[0]}
    assert words == {"film", "badly", "good", "plot", "bad"}


# --- rows -------------------------------------------------------------------------------------------------------------


def test_copies_keep_labels_and_exchange_four_words_in_ten(replacement: WordReplacement) -> None:
    texts = [f"Film {'bad plot ' * 20}number {number}" for number in range(30)]
    made = augmented(rows(texts), ["sentence"], replacement, 3)
    assert len(made) == 120 and made["sentence"][:30] == texts and made["label"][:] == [*range(30)] * 4
    total = changed = 0
    for number, text in enumerate(made["sentence"][30:]):
        old, new = texts[number % 30].split(), text.split()
        assert len(old) == len(new) and new[-2:] == [old[-2] if new[-2] == old[-2] else new[-2], old[-1]]
        assert new[0][0].isupper() and new[0][1:].islower()  # the case is kept
        total, changed = total + len(old) - 1, changed + sum(a != b for a, b in zip(old, new, strict=True))
    # A word may be exchanged for itself, which one candidate in 15 is.
    assert 0.33 < changed / total < 0.43


def test_a_rows_copies_depend_on_seed_and_place_alone(replacement: WordReplacement) -> None:
    texts = [f"the film and the {word} was good and bad" for word in ("plot", "scene", "actor")]
    made = augmented(rows(texts), ["sentence"], replacement, 2)["sentence"][:]
    assert augmented(rows(texts), ["sentence"], replacement, 2)["sentence"][:] == made
    assert augmented(rows(texts[:2]), ["sentence"], replacement, 1)["sentence"][:] == made[:2] + made[3:5]
    assert augmented(rows(texts), ["sentence"], replacement, 2, seed=1)["sentence"][:] != made
    assert next(replacement.copies(texts[:1], 1, [random.Random("0 0")])) == [made[3]]


# --- a comparison -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def glove(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from kdzoo.tasks.synthetic.tokenizer import vocabulary

    path = tmp_path_factory.mktemp("glove") / "glove.txt"
    draw = np.random.default_rng(0)
    path.write_text("".join(f"{word} {draw.normal():.4f} {draw.normal():.4f}\n" for word in vocabulary()))
    return path


def test_students_learn_from_the_copies_and_the_teacher_does_not(
    commands: Commands, glove: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = ("compare", "--tasks", "sst2", *SIZES, "--augment", 2, "--glove", glove, "--out", tmp_path)
    said = commands.works(*options, "--methods", "kd,crd")
    assert "2 copies of each of 64 training rows, words exchanged for neighbours in GloVe" in said
    found = records(tmp_path)
    assert found["sst2-kd-0"]["steps"] == found["sst2-crd-0"]["steps"] == 3 * found["sst2-teacher"]["steps"]
    assert found["sst2-kd-0"]["rows"] == {"train": 64, "augmented": 192, "validation": 32}
    assert found["sst2-kd-0"]["cached"] and "augment" not in found["sst2-teacher"]["configuration"]["shared"]

    def fail(*arguments: Any, **options: Any) -> None:
        raise AssertionError("the rows are there")

    monkeypatch.setattr(augmentation, "augmented", fail)
    commands.works(*options, "--methods", "none")
    other = [part if part != 2 else 3 for part in options]
    commands.fails(*other, "--methods", "none", says=("another configuration", "augment is 2 there and 3 here"))


def test_plain_comparisons_keep_their_configuration(commands: Commands, tmp_path: Path) -> None:
    commands.works("compare", "--tasks", "sst2", "--methods", "none", *SIZES, "--out", tmp_path)
    shared = records(tmp_path)["sst2-none-0"]["configuration"]["shared"]
    assert not {"augment", "augment_model", "glove"} & shared.keys()


def test_distill_takes_augmented_rows(commands: Commands, glove: Path, tmp_path: Path) -> None:
    shape = ("--train-rows", 32, "--validation-rows", 16, "--epochs", 1, "--batch-size", 8)
    commands.works("finetune", "--task", "sst2", "--model", "1x16,heads=2", *shape, "--out", tmp_path / "teacher")
    options = ("distill", "--task", "sst2", "--method", "kd", "--teacher", tmp_path / "teacher", *shape)
    options = (*options, "--student", "1x8,heads=2", "--augment", 1, "--glove", glove)
    commands.works(*options, "--out", tmp_path / "student")
    assert (tmp_path / "student" / "checkpoint-8").is_dir()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), ("has learned no words", "--augment-model", "--glove")),
        (("--glove", "absent.txt"), ("no GloVe file at absent.txt",)),
        (("--augment-model", "4x128"), ("a model of size 4x128 has learned no words",)),
    ],
)
def test_an_augmentation_without_words_is_refused(
    options: tuple[str, ...], says: tuple[str, ...], commands: Commands, tmp_path: Path
) -> None:
    commands.fails("compare", "--tasks", "sst2", *SIZES, "--augment", 1, *options, "--out", tmp_path, says=says)
