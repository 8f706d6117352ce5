"""Triples as rows, the folder of files, negatives, and what a filtered rank leaves out."""

from __future__ import annotations

import gzip
import random
import re
import secrets
from collections import Counter

import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks.triples import KnownTriples, Negatives, Triple, encode, read_graph


def test_segments_and_specials():
    row = encode(["a", "b"], ["r"], ["c"], 20)
    assert row.tokens == ["[CLS]", "a", "b", "[SEP]", "r", "[SEP]", "c", "[SEP]"]
    assert row.token_type_ids == [0, 0, 0, 0, 1, 1, 0, 0]
    assert row._fields == ("tokens", "token_type_ids")
    assert encode(["a", "b"], None, ("c",), 20) == (
        ["[CLS]", "a", "b", "[SEP]", "c", "[SEP]"],
        [0, 0, 0, 0, 1, 1],
    )


def test_the_longest_part_is_shortened_on_ties_the_last():
    assert encode(["h"] * 5, ["r"] * 5, ["t"], 12).tokens.count("r") == 3  # 5 5 1 → 5 4 1 → 4 4 1 → 4 3 1
    assert encode(["h"] * 9, ["r"], ["t"], 7).tokens == ["[CLS]", "h", "[SEP]", "r", "[SEP]", "t", "[SEP]"]
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        parts = [[f"{name}{n}" for n in range(rng.randint(1, 8))] for name in "hrt"]
        if rng.random() < 0.5:
            parts[1] = None
        kept = [part for part in parts if part is not None]
        given = [part and list(part) for part in parts]
        limit = rng.randint(2 * len(kept) + 1, 30)
        row = encode(*parts, limit)
        assert parts == given  # nothing of the caller's is changed
        lengths = [len(part) for part in kept]
        while sum(lengths) > limit - len(kept) - 1:
            longest = max(lengths)
            lengths[max(n for n, length in enumerate(lengths) if length == longest)] -= 1
        expected = ["[CLS]"]
        for part, length in zip(kept, lengths, strict=True):
            expected += [*part[:length], "[SEP]"]
        assert row.tokens == expected
        assert len(row.tokens) <= limit


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ((["h"], ["r"], ["t"], 6), "7 or more"),
        ((["h"], None, ["t"], 4), "5 or more"),
        (("head", ["r"], ["t"], 20), "the head is one text"),
        (([], ["r"], ["t"], 10), "the head has no text"),
        ((["h"], [], ["t"], 10), "the relation has no text"),
        ((["h"], None, [], 10), "the tail has no text"),
        ((["h"], None, ["t"], 7.5), "whole number"),
    ],
)
def test_bad_rows(arguments, named):
    with pytest.raises(KdzooError, match=named):
        encode(*arguments)


# --- files ---


@pytest.fixture
def folder(tmp_path):
    files = {
        "entity2text.txt": "a\tthe a\nb\tthe b\nc\tthe c\noutside\tnot in the graph\n",
        "relation2text.txt": "r\tis r of\ns\tis s of\n",
        "train.tsv": "a\tr\tb\nb\ts\ta\n",
        "dev.tsv": "a\tr\ta\t1\nb\tr\tb\t-1\n",
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "test.tsv.gz").write_bytes(gzip.compress(b"c\tr\tb\n"))
    return tmp_path


def test_a_folder(folder):
    graph = read_graph(folder)
    assert graph.entities == {"a": "the a", "b": "the b", "c": "the c"}
    assert graph.relations == {"r": "is r of", "s": "is s of"}
    assert graph.train == [("a", "r", "b"), ("b", "s", "a")]
    assert (graph.dev_labels, graph.test_labels) == ([True, False], None)
    assert graph.true() == [("a", "r", "b"), ("b", "s", "a"), ("a", "r", "a"), ("c", "r", "b")]
    (folder / "entities.txt").write_text("outside\nc\n")
    assert list(read_graph(folder).entities) == ["outside", "c", "a", "b"]
    (folder / "long.txt").write_text("a\tA\nb\tB\nc\tC\noutside\tO\n")
    assert read_graph(folder, "long").entities["a"] == "A"


@pytest.mark.parametrize(
    ("name", "text", "named"),
    [
        ("train.tsv", "a\tr\tb\nx\tr\tb\n", "train.tsv, row 2: 'x' has no text in"),
        ("train.tsv", "a\tq\tb\n", "train.tsv, row 1: 'q' has no text in"),
        ("train.tsv", "a\tb\tr\n", "row 1: the relation is not in the second column"),
        ("train.tsv", "r\ta\tb\n", "row 1: the relation is not in the second column"),
        ("train.tsv", "a\tr\n", "row 1: 2 columns"),
        ("train.tsv", "a\tr\tb\na\tr\tb\t1\n", "row 2: 4 columns; expected 3"),
        ("train.tsv", "a\tr\tb\t1\nb\tr\ta\t-1\n", "train.tsv, row 2: a false triple"),
        ("train.tsv", "", "no triple"),
        ("dev.tsv", "a\tr\tb\t0\n", "dev.tsv, row 1: the fourth column"),
        ("entity2text.txt", "a\t \n", "entity2text.txt, row 1: 'a' has no text"),
        ("entity2text.txt", "a\n", "row 1: expected name and text"),
        ("entity2text.txt", "a\tone\na\ttwo\n", "row 2: 'a' has two texts"),
        ("entities.txt", "z\n", "entities.txt, row 1: 'z' has no text"),
        ("test.tsv", "a\tr\tb\n", "test more than once"),
    ],
)
def test_errors_name_file_and_row(folder, name, text, named):
    (folder / name).write_text(text)
    with pytest.raises(KdzooError, match=re.escape(named)) as caught:
        read_graph(folder)
    assert "\n" not in str(caught.value)


def test_a_missing_file(folder):
    (folder / "relation2text.txt").unlink()
    with pytest.raises(KdzooError, match="no relation2text"):
        read_graph(folder)


# --- negatives and the filter ---


def test_negatives_are_uniform_false_and_of_one_side():
    names = [f"e{n}" for n in range(8)]
    train = [Triple("e0", "r", f"e{n}") for n in range(1, 6)] + [Triple("e1", "s", "e2")] * 2
    negatives = Negatives(train, names, 5, seed=3)
    drawn = Counter()
    sides = Counter()
    for epoch in range(400):
        found = negatives.epoch(epoch)
        assert len(found) == len(train)
        for triple, made in zip(train, found, strict=True):
            assert len(made) == 5
            assert not set(made) & set(train)
            heads = [one.head != triple.head for one in made]
            assert len(set(heads)) == 1
            assert all((one.head != triple.head) != (one.tail != triple.tail) for one in made)
            assert all(one.relation == triple.relation for one in made)
            sides[heads[0]] += 1
        drawn.update(made.tail for made in found[0] if made.head == "e0")
    assert 0.45 < sides[True] / sum(sides.values()) < 0.55
    # e0 r e1 … e5 are known: three tails remain, with equal chances.
    assert set(drawn) == {"e0", "e6", "e7"}
    assert all(0.28 < count / sum(drawn.values()) < 0.39 for count in drawn.values())


def test_negatives_are_redrawn_and_repeatable():
    names = [f"e{n}" for n in range(50)]
    train = [Triple("e0", "r", "e1"), Triple("e2", "r", "e3")]
    one, same, other = (Negatives(train, names, 5, seed=seed) for seed in (1, 1, 2))
    assert one.epoch(4) == same.epoch(4)
    assert one.epoch(4) != one.epoch(5)
    assert one.epoch(4) != other.epoch(4)


def test_a_side_without_negatives_gives_way_to_the_other():
    train = [Triple(head, "r", "a") for head in "ab"]  # any head is true
    for epoch in range(10):
        assert Negatives(train, "ab", 2).epoch(epoch) == [[Triple(head, "r", "b")] * 2 for head in "ab"]
    full = [Triple(head, "r", tail) for head in "ab" for tail in "ab"]
    with pytest.raises(KdzooError, match="no negative of"):
        Negatives(full, "ab").epoch(0)
    for bad in (([Triple("a", "r", "b")], "ab", 0), ([Triple("a", "r", "b")], "a")):
        with pytest.raises(KdzooError):
            Negatives(*bad)


def test_the_filter_leaves_out_the_other_true_ones():
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    entities, relations = list("abcdef"), list("rs")
    true = [Triple(rng.choice(entities), rng.choice(relations), rng.choice(entities)) for _ in range(30)]
    known = KnownTriples(true, entities, relations)
    for triple in [*true, Triple("a", "r", "b"), Triple("new", "r", "a")]:
        for part, names in (("head", entities), ("relation", relations), ("tail", entities)):
            expected = [
                place
                for place, name in enumerate(names)
                if name != getattr(triple, part) and triple._replace(**{part: name}) in true
            ]
            assert known.known(triple, part) == expected
    with pytest.raises(KdzooError, match="tail"):
        known.known(true[0], "tails")
