"""Tagged sentences as rows: labels on first pieces, long sentences cut at words and joined, the files."""

from __future__ import annotations

import gzip
import random
import re
import secrets

import pytest

from kdzoo.errors import KdzooError
from kdzoo.tasks.tokens import align, join, labelled, read_conll, read_tagged_lines, rows


def pairs(word):
    """Two characters a piece; a word of blanks has none."""
    return [("##" if at else "") + word.strip()[at : at + 2] for at in range(0, len(word.strip()), 2)]


def test_a_row():
    row = align(["Ab", "cdefg", " ", "h"], ["O", "B-X", "I-X", "O"], pairs, 16)
    assert row.tokens == ["[CLS]", "Ab", "cd", "##ef", "##g", "h", "[SEP]"]
    assert row.labels == [-100, "O", "B-X", -100, -100, "O", -100]
    assert row._fields == ("tokens", "labels")
    assert align([], [], pairs, 5) == (["[CLS]", "[SEP]"], [-100, -100])
    assert align(["abcdefghij"], [3], pairs, 5) == (["[CLS]", "ab", "##cd", "##ef", "[SEP]"], [-100, 3, *[-100] * 3])


def test_long_sentences_are_cut_between_words_and_joined():
    seed = secrets.randbits(32)
    print("seed", seed)
    rng = random.Random(seed)
    for _ in range(300):
        longest = rng.randint(1, 9)
        sentences = [
            [("ab" * rng.randint(0, longest))[: rng.randint(0, 20)] for _ in range(rng.randint(0, 12))]
            for _ in range(rng.randint(1, 5))
        ]
        room = rng.randint(1, 8)
        numbers, parts = [], []
        for number, words in enumerate(sentences):
            tags = [f"{number}.{place}" for place in range(len(words))]
            found = rows(words, tags, pairs, room + 2)
            # Brute force: word by word, a new row where the word does not fit.
            expected, current = [], []
            for word, tag in zip(words, tags, strict=True):
                cut = [(piece, tag if not at else -100) for at, piece in enumerate(pairs(word)[:room])]
                if len(current) + len(cut) > room:
                    expected.append(current)
                    current = []
                current = current + cut
            expected += [current] if current else []
            assert [list(zip(*row, strict=True))[1:-1] for row in found] == expected
            assert align(words, tags, pairs, room + 2) == (found or [(["[CLS]", "[SEP]"], [-100, -100])])[0]
            for row in found:
                numbers.append(number)
                parts.append(labelled(row.labels, [*row.labels, "padding"]))
        kept = [[f"{n}.{p}" for p, word in enumerate(words) if word] for n, words in enumerate(sentences)]
        assert join(numbers, parts, len(sentences)) == kept


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: align(["a"], ["O", "O"], pairs, 9), "1 words and 2 labels"),
        (lambda: align(["a"], ["O"], pairs, 2), "max_length"),
        (lambda: align(["a"], ["O"], pairs, True), "max_length"),
        (lambda: labelled([-100, "O"], ["x"]), "1 values"),
        (lambda: join([0, 2], [["O"], ["O"]], 2), "sentence 2"),
        (lambda: join([0], [], 2), "0 rows"),
    ],
)
def test_bad_rows(call, named):
    with pytest.raises(KdzooError, match=named):
        call()


def test_conll_files(tmp_path):
    text = "-DOCSTART- -X- O\r\n\r\nEU NNP B-ORG\r\nrejects VBZ O\r\n\r\n\r\nin  O\nNew York\tB-LOC\n\u00a0\tI-LOC\n"
    path = tmp_path / "train.tsv.gz"
    path.write_bytes(gzip.compress(text.encode()))
    assert read_conll(path) == [
        (["EU", "rejects"], ["B-ORG", "O"]),
        (["in", "New York", "\u00a0"], ["O", "B-LOC", "I-LOC"]),
    ]
    bare = tmp_path / "bare.tsv"
    bare.write_text("a\tB\nb\tI\nc\tO\n")
    assert read_conll(bare)[0].tags == ["B", "I", "O"]
    assert read_conll(bare, entity="Disease")[0].tags == ["B-Disease", "I-Disease", "O"]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("a\tO\nb\n", "row 2: expected a word"),
        ("a\tO\n\tO\n", "row 2: expected a word"),
        ("a\tO\nb\t\n", "row 2: expected a word"),
        ("a O\n\nb S-X\n", "row 3, word 1: 'S-X' is no BIO tag"),
        ("a B-X\nb I\n", "row 2: 'I' in a file that has tags with a type"),
        ("\n\n", "no word"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_conll_errors_name_file_and_row(tmp_path, text, named):
    path = tmp_path / "devel.tsv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(KdzooError, match=re.escape(named)) as caught:
        read_conll(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_sentences_a_line(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("text_a\tlabel\n山 ， 男\tO O B-X\n")
    assert read_tagged_lines(path) == [(["山", "，", "男"], ["O", "O", "B-X"])]
    for text, named in (
        ("text_a\tlabel\na b\tO O O\n", "row 2: 3 tags and 2 words"),
        ("text_a\tlabel\na b\tO P\n", "row 2, word 2"),
        ("text\tlabel\na\tO\n", "row 1: no column 'text_a'"),
        ("text_a\tlabel\na\n", "row 2: 1 columns"),
        ("text_a\tlabel\n", "no sentence"),
    ):
        path.write_text(text)
        with pytest.raises(KdzooError, match=re.escape(named)):
            read_tagged_lines(path)
