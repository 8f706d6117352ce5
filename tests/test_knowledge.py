"""Facts in sentences: the tree, soft positions and the visible matrix against brute force, lengths, triple files."""

from __future__ import annotations

import random
import re
import secrets
from contextlib import nullcontext

import numpy as np
import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks.knowledge import Facts, cut_words, inject, read_facts, token_type_ids

SPECIALS = ("[CLS]", "[SEP]")


def word_pieces(word):
    return [word[:2], *(f"##{character}" for character in word[2:])]


def brute_force(words, facts, pieces, most):
    """Token by token, each with what it belongs to: (unit, branch), branch 0 being the unit itself."""
    lowered = {key.lower(): texts for key, texts in facts.items()}
    longest = max((len(key.split()) for key in facts), default=1)
    tokens, owners, positions = [], [], []
    at = unit = position = 0
    while at < len(words):
        size = 1
        if words[at] not in SPECIALS:
            for more in range(2, longest + 1):
                run = words[at : at + more]
                if len(run) == more and not set(run) & set(SPECIALS) and " ".join(run).lower() in lowered:
                    size = more
        run = words[at : at + size]
        own = run if run[0] in SPECIALS else [piece for word in run for piece in pieces(word)]
        texts = [] if run[0] in SPECIALS else lowered.get(" ".join(run).lower(), [])[:most]
        for branch, part in enumerate([own, *([p for w in text.split() for p in pieces(w)] for text in texts)]):
            begin = position if branch == 0 else position + len(own)
            for offset, token in enumerate(part):
                tokens.append(token)
                owners.append((unit, branch))
                positions.append(begin + offset)
        position += len(own)
        at += size
        unit += 1
    sees = [
        [
            (a[1] == 0 and b[1] == 0) or a == b or (a[0] == b[0] and 0 in (a[1], b[1]))
            for b in owners
        ]
        for a in owners
    ]  # fmt: skip
    return tokens, positions, [branch == 0 for _, branch in owners], np.array(sees, dtype=bool)


def test_the_papers_example():
    words = ["[CLS]", "Tim", "Cook", "is", "visiting", "Beijing", "now", "[SEP]"]
    facts = {"tim cook": ["CEO Apple"], "Beijing": ["capital China", "is_a City", "never third"]}
    got = inject(words, facts, pieces=lambda word: [word])
    assert got._fields == ("tokens", "positions", "trunk", "visible")
    expected = "[CLS] Tim Cook CEO Apple is visiting Beijing capital China is_a City now [SEP]"
    assert " ".join(got.tokens) == expected
    assert got.positions == [0, 1, 2, 3, 4, 3, 4, 5, 6, 7, 6, 7, 6, 7]
    assert got.trunk == [True, True, True, False, False, True, True, True, *[False] * 4, True, True]
    assert got.visible.dtype == bool
    assert np.flatnonzero(got.visible[3]).tolist() == [1, 2, 3, 4]  # a branch sees its whole unit
    assert np.flatnonzero(got.visible[8]).tolist() == [7, 8, 9]  # and no other branch
    assert np.flatnonzero(got.visible[0]).tolist() == [0, 1, 2, 5, 6, 7, 12, 13]  # [CLS] sees none
    assert np.flatnonzero(got.visible[7]).tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13]


def test_characters_by_default():
    got = inject(["[CLS]", "北京", "好", "[SEP]"], {"北京": ["首都"], "[CLS]": ["x"]})
    assert got.tokens == ["[CLS]", "北", "京", "首", "都", "好", "[SEP]"]
    assert got.positions == [0, 1, 2, 3, 4, 3, 4]


def test_random_trees():
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    vocabulary = ["ab", "Cde", "f", "GHIJ", "kl"]

    def text(most):
        return " ".join(rng.choices(vocabulary, k=rng.randint(1, most)))

    for _ in range(200):
        facts = {text(3).lower(): list(dict.fromkeys(text(3) for _ in range(rng.randint(0, 4)))) for _ in range(5)}
        words = ["[CLS]", *rng.choices(vocabulary, k=rng.randint(0, 8)), "[SEP]"]
        if rng.random() < 0.4:
            words += [*rng.choices(vocabulary, k=3), "[SEP]"]
        most = rng.randint(0, 3)
        got = inject(words, facts, word_pieces, most)
        tokens, positions, trunk, visible = brute_force(words, facts, word_pieces, most)
        assert (got.tokens, got.positions, got.trunk) == (tokens, positions, trunk)
        assert (got.visible == visible).all()
        made_once = inject(words, Facts(facts), word_pieces, most)
        assert made_once[:3] == got[:3]
        segments = token_type_ids(got)
        plain = [token for token, own in zip(got.tokens, got.trunk, strict=True) if own]
        assert [s for s, own in zip(segments, got.trunk, strict=True) if own] == [
            plain[:place].count("[SEP]") for place in range(len(plain))
        ]


def test_repeats_are_dropped_and_the_order_kept():
    facts = {"a": ["x", "x", "y", "z"]}
    assert inject(["A"], facts).tokens == ["A", "x", "y"]
    assert inject(["a"], {"a": ["x"], "A": ["x", "y"]}).tokens == ["a", "x", "y"]
    assert inject(["a"], facts, max_entities=0).tokens == ["a"]
    assert inject(["", "a"], {"a": ["x"]}).positions == [0, 1]
    assert inject([], {}).visible.shape == (0, 0)


def test_the_last_branches_go_first_and_then_the_text():
    words = ["[CLS]", "a", "b", "c", "[SEP]"]
    facts = {"a": ["1 1", "2"], "b": ["3"]}
    one = lambda word: [word]  # noqa: E731
    whole = ["[CLS]", "a", "1", "1", "2", "b", "3", "c", "[SEP]"]
    expected = {
        9: whole,
        8: ["[CLS]", "a", "1", "1", "2", "b", "c", "[SEP]"],
        7: ["[CLS]", "a", "1", "1", "b", "c", "[SEP]"],
        6: ["[CLS]", "a", "b", "c", "[SEP]"],
        5: ["[CLS]", "a", "b", "c", "[SEP]"],
        4: ["[CLS]", "a", "b", "[SEP]"],
        3: ["[CLS]", "a", "[SEP]"],
    }
    for limit, tokens in expected.items():
        got = inject(words, facts, one, max_length=limit)
        assert got.tokens == tokens
        assert got.visible.shape == (len(tokens), len(tokens))
        if limit < 7:
            assert got.positions == list(range(len(tokens)))
    with pytest.raises(KdzooError, match="3 or more"):
        inject(words, facts, one, max_length=2)
    pair = ["[CLS]", "a", "a", "[SEP]", "b", "c", "[SEP]"]
    assert inject(pair, {}, one, max_length=6).tokens == ["[CLS]", "a", "a", "[SEP]", "b", "[SEP]"]
    assert inject(pair, {}, one, max_length=5).tokens == ["[CLS]", "a", "[SEP]", "b", "[SEP]"]


def test_facts_may_be_read_once():
    assert inject(["a"], {"a": iter(["b"])}).tokens == inject(["a"], {"a": ["b"]}).tokens == ["a", "b"]


def test_bad_facts():
    for facts in ({"a": "text"}, {"a": {"x", "y"}}, {"a": [" "]}, {"": ["x"]}, {"a": [3]}):
        with pytest.raises(KdzooError):
            inject(["a"], facts)
    for most in (-1, 1.5, True):
        with pytest.raises(KdzooError, match="max_entities"):
            inject(["a"], {}, max_entities=most)
    with pytest.raises(KdzooError, match="3 segments"):
        token_type_ids(inject(["a", "[SEP]", "b", "[SEP]", "c"], {}))


def test_words_of_a_text_without_spaces():
    facts = Facts({"北京": ["首都"], "北京大学": ["学校"], "大": ["x"]})
    assert cut_words("我在北京大学 北京大", facts) == ["我", "在", "北京大学", "北京", "大"]


def test_a_triple_file(tmp_path):
    path = tmp_path / "mine.spo"
    path.write_text("Subject\tpredicate\tobject\nFlu\tis a\tdisease\nflu\thas\tfever\nFLU\tis a\tdisease\n")
    assert read_facts(path)["flu"] == ["is a disease", "has fever"]
    assert read_facts(path, with_predicate=False)["FLU"] == ["disease", "fever"]
    for text, named in (
        ("a\tb\n", "row 1: 2 columns"),
        ("a\tb\tc\na\t\tc\n", "row 2: the predicate is empty"),
        ("subject\tobject\tpredicate\na\tb\tc\n", "row 1: the columns are subject, object, predicate"),
        ("".join(f"s{n}\to{n}\tis a\n" for n in range(20)), "column 2 has 20 different values and column 3 only 1"),
        ("".join(f"is a\ts{n}\to{n}\n" for n in range(20)), "column 2 has 20 different values and column 1 only 1"),
        ("", "no triple"),
    ):
        path.write_text(text)
        with pytest.raises(KdzooError, match=re.escape(named)) as caught:
            read_facts(path)
        assert str(path) in str(caught.value)
    for rows, refused in ((7, False), (8, True), (20, True)):
        written = "".join(f"one\tp{n}\to\n" for n in range(rows))
        path.write_text(written)
        with pytest.raises(KdzooError, match="A first row that names the columns") if refused else nullcontext():
            read_facts(path)
        assert len(read_facts(path, check_order=False)["one"]) == rows
        path.write_text("subject\tpredicate\tobject\n" + written)
        assert len(read_facts(path)["one"]) == rows
