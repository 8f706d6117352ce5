"""Semantic roles as rows of tags over words, and the files they come from."""

from __future__ import annotations

import json
import random
import re
import secrets

import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks.roles import TAGS, align, check_words, read_roles, tag_ids


def pairs(word):
    return [word[at : at + 2] for at in range(0, len(word), 2)]


def verbs(*rows):
    return [{"verb": "x", "tags": row.split()} for row in rows]


def test_the_vocabulary():
    assert len(TAGS) == 22
    assert TAGS[:6] == ("[PAD]", "[CLS]", "[SEP]", "B-V", "I-V", "B-ARG0")
    assert TAGS[11:15] == ("B-ARG4", "I-ARG4", "B-ARGM-TMP", "I-ARGM-TMP")
    assert TAGS[-3:] == ("B-ARGM-PRP", "I-ARGM-PRP", "O")


def test_a_sentence():
    row = align(["abc", "de", "fghij"], verbs("B-ARG0 B-V B-ARG3"), pairs, 20)
    assert row._fields == ("tokens", "word_spans", "tags")
    assert row.tokens == ["[CLS]", "ab", "c", "de", "fg", "hi", "j", "[SEP]"]
    assert row.word_spans == [(0, 0), (1, 2), (3, 3), (4, 6), (7, 7)]
    assert row.tags == [["[CLS]", "B-ARG0", "B-V", "O", "[SEP]"]] * 3
    assert tag_ids(row.tags)[0] == [1, 5, 3, 21, 2]


def test_a_pair_may_be_a_mapping():
    first, second = (["a", "bcd"], verbs("B-V O")), (["e"], verbs("B-V"))
    row = align(*first, pairs, 20, pair=second)
    assert row.tokens == ["[CLS]", "a", "bc", "d", "[SEP]", "e", "[SEP]"]
    assert row == align(*first, pairs, 20, pair={"words": second[0], "verbs": second[1]})


def test_rows_are_cut_copied_or_empty():
    words = ["a", "b", "c"]
    two = verbs("O B-V O", "B-ARG0 B-V O")
    assert [row[1:-1] for row in align(words, two, pairs, 9).tags] == [
        ["O", "B-V", "O"],
        ["B-ARG0", "B-V", "O"],
        ["B-ARG0", "B-V", "O"],
    ]
    # Equals: the first is copied. Roles outside the vocabulary count, as in the released code, though they become O.
    equals = verbs("B-V O O", "O O B-V")
    assert align(words, equals, pairs, 9).tags[2][1:-1] == ["B-V", "O", "O"]
    outside = verbs("B-V O O", "B-ARGM-MOD B-V B-ARGM-NEG")
    assert align(words, outside, pairs, 9).tags[2][1:-1] == ["O", "B-V", "O"]
    four = verbs("B-V O O", "O B-V O", "O O B-V", "B-V B-ARG1 I-ARG1")
    assert align(words, four, pairs, 9).tags[2][1:-1] == ["O", "O", "B-V"]
    assert align(words, four, pairs, 9, max_verbs=1).tags == [["[CLS]", "B-V", "O", "O", "[SEP]"]]
    assert align(words, [], pairs, 9, max_verbs=2).tags == [["[CLS]", "O", "O", "O", "[SEP]"]] * 2


def test_random_pairs_against_brute_force():
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    marks = ["O", "B-V", "B-ARG1", "I-ARG1", "B-ARG3", "B-C-ARG0"]

    def sentence():
        words = ["abcdefgh"[: rng.randint(0, 8)] for _ in range(rng.randint(1, 6))]
        words[0] = words[0] or "a"
        return words, [{"tags": rng.choices(marks, k=len(words))} for _ in range(rng.randint(0, 5))]

    for _ in range(300):
        sentences = [sentence() for _ in range(rng.randint(1, 2))]
        limit = rng.randint(len(sentences) * 2 + 1, 40)
        most = rng.randint(1, 4)
        row = align(*sentences[0], pairs, limit, most, pair=sentences[1] if len(sentences) == 2 else None)
        kept = [[piece for word in words for piece in pairs(word)] for words, _ in sentences]
        while sum(map(len, kept)) > limit - len(sentences) - 1:
            kept[0 if len(kept) == 1 or len(kept[0]) > len(kept[1]) else 1].pop()
        tokens, spans, tags = ["[CLS]"], [(0, 0)], [["[CLS]"] for _ in range(most)]
        for (words, own), part in zip(sentences, kept, strict=True):
            rows = [verb["tags"] for verb in own][:most] or [["O"] * len(words)]
            copied = max(rows, key=lambda tags: len(tags) - tags.count("O"))
            left = len(part)
            for place, word in enumerate(words):
                size = min(left, len(pairs(word)))
                if not size:
                    continue
                spans.append((len(tokens), len(tokens) + size - 1))
                tokens += pairs(word)[:size]
                left -= size
                for number in range(most):
                    tag = (rows[number] if number < len(rows) else copied)[place]
                    tags[number].append(tag if tag in TAGS else "O")
            spans.append((len(tokens), len(tokens)))
            tokens.append("[SEP]")
            for each in tags:
                each.append("[SEP]")
        assert row == (tokens, spans, tags)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((["a"], verbs("O O"), pairs, 9), "sentence 1, predicate 1: 2 tags and 1 words"),
        ((["a"], verbs("X"), pairs, 9), "'X' is no BIO tag"),
        ((["a"], [{"verb": "a"}], pairs, 9), "no list of 'tags'"),
        ((["a"], [], pairs, 2), "max_length"),
        ((["a"], [], pairs, 4, 3, (["b"], [])), "5 or more"),
        ((["a"], [], pairs, 9, 0), "max_verbs"),
    ],
)
def test_bad_rows(arguments, named):
    with pytest.raises(KdzooError, match=re.escape(named)):
        align(*arguments)


def test_files(tmp_path):
    path = tmp_path / "train.jsonl"
    sentence = {"words": ["He", "runs"], "verbs": [{"verb": "runs", "index": 1, "tags": ["B-ARG0", "B-V"]}]}
    rows = [{"idx": 7, "label": 1, "sentence1": sentence, "sentence2": sentence}, {"id": "x", **sentence}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    first, second = read_roles(path)
    assert (first.idx, first.label, len(first.sentences)) == (7, 1, 2)
    assert (second.idx, second.label, second.sentences) == ("x", None, ((sentence["words"], sentence["verbs"]),))
    for text, named in (
        ("{", "row 1: no JSON"),
        ("[]", "row 1: expected an object"),
        ('{"words": ["a"]}', "row 1: no list of 'verbs'"),
        ('{"words": ["a"], "verbs": [{"tags": ["O", "O"]}]}', "row 1, predicate 1: 2 tags and 1 words"),
        ('{"sentence1": {"words": ["a"], "verbs": [{"tags": ["A0"]}]}}', "row 1, sentence1, predicate 1, word 1: 'A0'"),
        ('{"sentence2": {"words": ["a"], "verbs": []}}', "a sentence2 without"),
        ("", "no row"),
    ):
        path.write_text(text)
        with pytest.raises(KdzooError, match=re.escape(named)):
            read_roles(path)


def test_roles_for_other_words():
    check_words(["Do", "n't", "go", "."], "Don't  go.", "row 1")
    with pytest.raises(KdzooError, match=r"row 3: the roles are for other words .* come 'stay' and 'go'"):
        check_words(["Do", "n't", "stay"], "Don't go", "row 3")
