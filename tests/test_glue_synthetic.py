"""The synthetic grammar: deterministic, disjoint, balanced, true to its labels; and its tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks import TASKS, get_task, load
from kdzoo.tasks.synthetic import grammar as synthetic
from kdzoo.tasks.synthetic.grammar import DEFAULT_SIZES, SIZES, generate
from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer, vocabulary

FINGERPRINT = """
import hashlib, json
from kdzoo.tasks.synthetic.grammar import generate
from kdzoo.tasks.synthetic.tokenizer import vocabulary
from kdzoo.tasks.glue import TASKS
rows = [generate(name, "train", 50, seed) for name in TASKS for seed in (0, 1)]
print(hashlib.sha256(json.dumps([rows, vocabulary()]).encode()).hexdigest())
"""


def test_rows_are_the_same_in_every_process():
    rows = [generate(name, "train", 50, seed) for name in TASKS for seed in (0, 1)]
    here = hashlib.sha256(json.dumps([rows, vocabulary()]).encode()).hexdigest()
    for hash_seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": hash_seed}
        run = subprocess.run([sys.executable, "-c", FINGERPRINT], env=env, capture_output=True, text=True, check=True)
        assert run.stdout.strip() == here


@pytest.mark.parametrize("name", TASKS)
def test_seeds_differ_and_more_rows_begin_with_the_fewer(name):
    first = TASKS[name].columns[0]
    assert generate(name, "train", 30, 0)[first] != generate(name, "train", 30, 1)[first]
    assert generate(name, "train", 60, 0)[first][:30] == generate(name, "train", 30, 0)[first]


@pytest.mark.parametrize("name", TASKS)
def test_no_sentence_is_in_two_splits_or_twice_in_one(name):
    task = TASKS[name]
    splits = [generate(name, "train")] + [generate(name, split, None, 1) for split in task.validation_splits]
    firsts = [row for split in splits for row in split[task.columns[0]]]
    assert len(set(firsts)) == len(firsts)
    sizes = SIZES.get(name, DEFAULT_SIZES)
    assert [len(split["label"]) for split in splits] == [sizes.train] + [sizes.validation] * len(task.validation_splits)


@pytest.mark.parametrize("name", TASKS)
def test_labels_are_valid_and_spread(name):
    task = TASKS[name]
    labels = generate(name, "train", 400)["label"]
    assert [task.parse_label(label) for label in labels] == labels
    if task.regression:
        assert min(labels) < 1.5 and max(labels) == 5.0
    else:
        counts = Counter(labels)
        assert len(counts) == task.num_labels
        assert min(counts.values()) > 0.7 * 400 / task.num_labels


def test_sentiment_follows_from_the_words():
    """Read by hand-written rules, every label comes out."""
    from kdzoo.tasks.synthetic import lexicon

    flips = ("not", "never", "hardly", "nobody", "wrong")
    rows = generate("sst2", "train", 500)
    for text, label in zip(rows["sentence"], rows["label"], strict=True):
        for opener in lexicon.OPENERS:
            text = text.removeprefix(f"{opener} , ")
        if text.startswith("although "):
            main = text.split(" , ")[1]
        elif " , but " in text:
            main = text.split(" , but ")[1]
        else:
            main = text.split(" , ")[0]
        words = main.split()
        positive = any(word in lexicon.POSITIVE for word in words)
        assert (positive != any(word in flips for word in words)) == bool(label), text


@pytest.mark.parametrize("name", ["sst2", "mnli"])
def test_asking_for_too_many_rows_or_a_wrong_split(name):
    with pytest.raises(KdzooError, match=f"{name} has no split 'dev'"):
        generate(name, "dev")


def test_a_grammar_has_its_limit(monkeypatch):
    monkeypatch.setitem(synthetic.GRAMMARS, "sst2", lambda rng, split: (f"sentence {rng.randrange(40)}", 0))
    with pytest.raises(KdzooError, match=r"the grammar of sst2 is too small for 100 train rows; it made \d+"):
        generate("sst2", "train", 100)


def test_load_gives_the_hubs_features():
    data = load(get_task("rte"), "synthetic", train_rows=5, validation_rows=4)
    assert {split: len(rows) for split, rows in data.items()} == {"train": 5, "validation": 4}
    assert data["train"].features["label"].names == ["entailment", "not_entailment"]
    assert load(get_task("stsb"), "synthetic", train_rows=5)["train"].features["label"].dtype == "float32"


@pytest.mark.parametrize("name", TASKS)
def test_the_tokenizer_knows_every_word(name):
    tokenizer = synthetic_tokenizer()
    for split in ("train", *TASKS[name].validation_splits):
        rows = generate(name, split, 1500 if name != "wnli" else 150, 7)
        for column in TASKS[name].columns:
            assert not any(tokenizer.unk_token_id in ids for ids in tokenizer(rows[column])["input_ids"])
    assert tokenizer("zzz")["input_ids"][1] == tokenizer.unk_token_id


def test_the_tokenizer_survives_a_round_trip_and_feeds_a_bert(tmp_path):
    from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

    tokenizer = synthetic_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    texts = ["The dog watched the king .", "the king"], ["Today , the king .", "the dog ."]
    one, two = (t(*texts, padding=True, return_tensors="pt") for t in (tokenizer, again))
    assert set(one) == set(two) == {"input_ids", "token_type_ids", "attention_mask"}
    assert all((one[key] == two[key]).all() for key in one)
    cls, sep, pad = (tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[PAD]"))
    assert (tokenizer.pad_token_id, again.pad_token_id, pad) == (0, 0, 0)
    row = one["input_ids"][1].tolist()
    assert row[0] == cls and row[3] == sep and row[7] == sep and set(row[8:]) == {pad}
    assert one["token_type_ids"][1].tolist()[:8] == [0, 0, 0, 0, 1, 1, 1, 1]
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8
    )
    assert BertForSequenceClassification(config)(**one).logits.shape == (2, 2)


def test_the_hubs_word_pieces_cover_the_grammar_by_plain_english():
    assert all(word.isascii() and (word.isalpha() or word in ".,?") for word in vocabulary())
