"""SQuAD's files, windows, training positions, answers from logits, pooling; against brute force."""

from __future__ import annotations

import gzip
import json
import math
import random
import re
import secrets

import numpy as np
import pytest
import torch

from kdzoo.errors import KdzooError
from kdzoo.tasks.answers import Candidate, asked, decode, pool
from kdzoo.tasks.spans import Question, answer_pieces, encode, read_squad, split, windows


def wordpieces(word):
    """Lower case, punctuation apart, two characters a piece: enough of BERT's to have every case of alignment."""
    found = []
    for part in re.findall(r"\w+|[^\w\s]", word.lower()):
        found += [("##" if at else "") + part[at : at + 2] for at in range(0, len(part), 2)]
    return found


@pytest.fixture
def rng():
    seed = secrets.randbits(32)
    print("seed", seed)
    return random.Random(seed)


def random_text(rng, count):
    words = ["John", "(1895-1943).", "naïve", "Smith's", "a-b-c", "...", "x", "Tokyo", "U.S."]
    return rng.choice(["", " "]) + "".join(rng.choice(words) + rng.choice([" ", "\n", "\u202f"]) for _ in range(count))


# --- words and answers ---


def test_words_and_pieces():
    paragraph = split("  ab cde\u00a0f\n\u202fg ", wordpieces)
    assert paragraph.words == ["ab", "cde\u00a0f", "g"]
    assert paragraph.word_of == [-1, -1, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2]
    assert paragraph.pieces == ["ab", "cd", "##e", "f", "g"]
    assert paragraph.piece_word == [0, 1, 1, 1, 2]
    assert paragraph.first_piece == [0, 1, 4, 5]


def test_an_answer_with_a_space_that_parts_no_words_is_found():
    text = "The road is 5\u00a0km long."
    paragraph = split(text, wordpieces)
    first, last = answer_pieces(paragraph, "5\u00a0km", text.index("5"), wordpieces)
    assert paragraph.words[paragraph.piece_word[first] : paragraph.piece_word[last] + 1] == ["5\u00a0km"]


def test_an_answer_is_tightened_to_its_own_pieces():
    text = "The leader was John Smith (1895-1943)."
    paragraph = split(text, wordpieces)
    first, last = answer_pieces(paragraph, "1895", text.index("1895"), wordpieces)
    assert paragraph.pieces[first : last + 1] == ["18", "##95"]
    # A part of a word that its pieces do not have: the whole word.
    first, last = answer_pieces(paragraph, "ead", text.index("ead"), wordpieces)
    assert paragraph.pieces[first : last + 1] == wordpieces("leader")
    # The words at another place do not hold the text: dropped. So is one outside.
    assert answer_pieces(paragraph, "John", 4, wordpieces) is None
    assert answer_pieces(paragraph, "x" * 99, 0, wordpieces) is None
    # Of several sub-spans the first one.
    paragraph = split("a-a-a", wordpieces)
    assert answer_pieces(paragraph, "a", 2, wordpieces) == (0, 0)


def test_tightening_against_brute_force(rng):
    for _ in range(200):
        text = random_text(rng, rng.randint(1, 6))
        paragraph = split(text, wordpieces)
        start = rng.randrange(len(text))
        answer = text[start : start + rng.randint(1, 12)]
        first, last = paragraph.word_of[start], paragraph.word_of[start + len(answer) - 1]
        inside = first >= 0 and " ".join(answer.split()) in " ".join(paragraph.words[first : last + 1])
        expected = None
        if inside:
            low = min(p for p, w in enumerate(paragraph.piece_word) if w == first)
            high = max(p for p, w in enumerate(paragraph.piece_word) if w == last)
            wanted = " ".join(p for word in answer.split() for p in wordpieces(word))
            spans = [(a, b) for a in range(low, high + 1) for b in range(high, a - 1, -1)]
            fits = [(a, b) for a, b in spans if " ".join(paragraph.pieces[a : b + 1]) == wanted]
            expected = (fits or [(low, high)])[0]
        assert answer_pieces(paragraph, answer, start, wordpieces) == expected


# --- windows ---


def test_windows_against_brute_force(rng):
    for _ in range(200):
        paragraph = split(random_text(rng, rng.randint(1, 25)), wordpieces)
        question = random_text(rng, rng.randint(1, 4))
        own = [piece for word in question.split() for piece in wordpieces(word)][:6]
        limit, stride = rng.randint(len(own) + 4, 40), rng.randint(1, 20)
        count, room = len(paragraph.pieces), limit - len(own) - 3
        first = rng.randrange(count)
        answer = rng.choice([None, (first, min(count - 1, first + rng.randint(0, 6)))])
        found = windows(question, paragraph, wordpieces, limit, answer, stride=stride, max_question=6)
        begins = [0]
        while begins[-1] + room < count:
            begins.append(begins[-1] + min(stride, room))
        parts = [(begin, min(begin + room, count)) for begin in begins]
        assert len(found) == len(parts)
        for number, (row, (begin, end)) in enumerate(zip(found, parts, strict=True)):
            assert row.tokens == ["[CLS]", *own, "[SEP]", *paragraph.pieces[begin:end], "[SEP]"]
            assert row.token_type_ids == [0] * (len(own) + 2) + [1] * (end - begin + 1)
            for place, token in enumerate(row.tokens):
                piece = place - len(own) - 2 + begin
                if not begin <= piece < end or place < len(own) + 2:
                    assert (row.words[place], row.max_context[place]) == (-1, False)
                    continue
                assert token == paragraph.pieces[piece]
                assert row.words[place] == paragraph.piece_word[piece]
                scores = [min(piece - b, e - 1 - piece) + 0.01 * (e - b) if b <= piece < e else -1.0 for b, e in parts]
                assert row.max_context[place] == (scores.index(max(scores)) == number)
            if answer and begin <= answer[0] and answer[1] < end:
                assert row.tokens[row.start : row.end + 1] == paragraph.pieces[answer[0] : answer[1] + 1]
                assert row.start - len(own) - 2 + begin == answer[0]
            else:
                assert (row.start, row.end) == (0, 0)


def test_a_longer_window_wins_by_a_hundredth_of_a_piece_a_piece():
    paragraph = split("x " * 310, wordpieces)
    first, last = windows("q", paragraph, wordpieces, 304)
    ahead = first.tokens.index("x")
    assert (len(first.tokens), len(last.tokens)) == (304, 186)
    # Piece 214 has 85 around it in the first window, 300 long, and 86 in the last one, 182 long.
    owners = [(first.max_context[ahead + p], last.max_context[ahead + p - 128]) for p in (213, 214, 215)]
    assert owners == [(True, False), (True, False), (False, True)]


def test_a_question_as_rows():
    question = Question("1", "Who?", "It is Bob (Robert).", ("Robert", "Bob"), (11, 6))
    paragraph, rows = encode(question, wordpieces, 40, train=True)
    assert rows[0].tokens[rows[0].start : rows[0].end + 1] == wordpieces("Robert")
    assert encode(question, wordpieces, 40, train=False)[1][0].start == 0
    assert paragraph.words == ["It", "is", "Bob", "(Robert)."]
    assert encode(question._replace(starts=(0, 0)), wordpieces, 40, train=True) is None
    assert encode(question._replace(answers=(), starts=()), wordpieces, 40, train=True)[1][0].end == 0


def test_bad_windows():
    paragraph = split("a b c", wordpieces)
    for arguments, options, named in (
        (("a b", paragraph, wordpieces, 5), {}, "6 or more"),
        (("a", paragraph, wordpieces, 9), {"stride": 0}, "stride"),
        (("a", paragraph, wordpieces, 9), {"max_question": 0}, "max_question"),
        (("a", split(" ", wordpieces), wordpieces, 9), {}, "no pieces"),
    ):
        with pytest.raises(KdzooError, match=named):
            windows(*arguments, **options)


# --- answers ---


def plain_decode(rows, starts, ends, paragraph, n_best, longest, threshold):
    """The released way, spelt out: (text, start logit, end logit) of the n best, and the answer."""
    found = []
    for number, row in enumerate(rows):
        order = range(len(row.tokens))
        for a in sorted(order, key=lambda i: starts[number][i], reverse=True)[:n_best]:
            for b in sorted(order, key=lambda i: ends[number][i], reverse=True)[:n_best]:
                if row.words[a] >= 0 and row.words[b] >= 0 and row.max_context[a] and 0 <= b - a < longest:
                    found.append((number, a, b, starts[number][a], ends[number][b]))
    nulls = [(s[0] + e[0], s[0], e[0]) for s, e in zip(starts, ends, strict=True)]
    null = min(nulls, key=lambda entry: entry[0])
    if threshold is not None:
        found.append((None, 0, 0, *null[1:]))
    found.sort(key=lambda entry: entry[3] + entry[4], reverse=True)
    best, seen = [], set()
    for number, a, b, start, end in found:
        if len(best) >= n_best:
            break
        text = ""
        if number is not None:
            row = rows[number]
            own = " ".join(paragraph.words[row.words[a] : row.words[b] + 1])
            cut = [t for w in own.split(" ") for t in wordpieces(w)]
            whole, part = (" ".join(p).replace(" ##", "").replace("##", "") for p in (cut, row.tokens[a : b + 1]))
            # Character by character: own text and pieces without spaces, side by side.
            at = whole.find(part)
            bare = [i for i, c in enumerate(own) if c != " "]
            mine = [i for i, c in enumerate(whole) if c != " "]
            text = own
            if at >= 0 and len(bare) == len(mine):
                inside = [bare[n] for n, i in enumerate(mine) if at <= i < at + len(part)]
                text = own[inside[0] : inside[-1] + 1]
        if text not in seen:
            seen.add(text)
            best.append((text, start, end))
    if threshold is not None and "" not in seen:
        best.append(("", *null[1:]))
    if threshold is None:
        return best, best[0][0]
    top = next(entry for entry in best if entry[0])
    return best, "" if null[0] - top[1] - top[2] > threshold else top[0]


@pytest.mark.parametrize("threshold", [None, 0.0, -2.5])
@pytest.mark.parametrize("kind", [list, np.array, torch.tensor])
def test_answers_against_the_released_way(rng, threshold, kind):
    for _ in range(25):
        paragraph = split(random_text(rng, rng.randint(3, 20)), wordpieces)
        rows = windows("who is it", paragraph, wordpieces, rng.randint(16, 40), stride=rng.randint(3, 9))
        # Coarse values, so that there are ties; padding is larger than any of them.
        starts, ends = ([[float(rng.randint(-4, 4)) for _ in row.tokens] for row in rows] for _ in range(2))
        n_best, longest = rng.randint(8, 20), rng.randint(1, 30)
        limit = {"n_best": n_best, "max_answer": longest, "null_threshold": threshold}
        padded = [[kind([*values, 99.0, 99.0]) for values in side] for side in (starts, ends)]
        try:
            best, text = plain_decode(rows, starts, ends, paragraph, n_best, longest, threshold)
        except (IndexError, StopIteration):  # no pair at all
            assert decode(rows, *padded, paragraph, **limit).text == ""
            continue
        got = decode(rows, *padded, paragraph, **limit)
        assert [(c.text, c.start_logit, c.end_logit) for c in got.candidates] == best
        assert got.text == text
        total = sum(math.exp(start + end) for _, start, end in best)
        for candidate, (_, start, end) in zip(got.candidates, best, strict=True):
            assert candidate.probability == pytest.approx(math.exp(start + end) / total)


def logits(rows, place, size=9.0):
    return [[size if number == place[0] and at == place[1] else 0.0 for at in range(len(row.tokens))]
            for number, row in enumerate(rows)]  # fmt: skip


def test_an_answer_is_the_original_text():
    text = "Said  John   Smith's (1895-1943). wife"
    paragraph = split(text, wordpieces)
    rows = windows("who", paragraph, wordpieces, 40)
    tokens = rows[0].tokens
    for first, last, expected in (
        (tokens.index("jo"), tokens.index("##h"), "John Smith"),
        (tokens.index("18"), tokens.index("18") + 1, "1895"),
        (tokens.index("sa"), tokens.index("##id"), "Said"),
        (tokens.index("##hn"), tokens.index("##hn"), "hn"),
    ):
        got = decode(rows, logits(rows, (0, first)), logits(rows, (0, last)), paragraph)
        assert got.text == expected
    # More characters in the pieces than in the text: its words are taken whole.
    longer = split("aß-b c", lambda word: wordpieces(word.replace("ß", "ss")))
    rows = windows("who", longer, wordpieces, 40)
    at = rows[0].tokens.index("b")
    assert decode(rows, logits(rows, (0, at)), logits(rows, (0, at)), longer).text == "aß-b"
    # Five characters, as many as [UNK] has by chance.
    unknown = split("日日日日日-b c", lambda word: ["[UNK]", "-", "b"] if "日" in word else wordpieces(word))
    rows = windows("who", unknown, wordpieces, 40)
    at = rows[0].tokens.index("b")
    assert decode(rows, logits(rows, (0, at)), logits(rows, (0, at)), unknown).text == "日日日日日-b"


def test_an_answer_in_pieces_of_another_kind():
    """SentencePiece marks a space, not what goes on; byte-level pieces are no text, so words are taken whole."""

    def sentencepieces(word):
        return [f"▁{word[:2].lower()}", *word[2:].lower()]

    paragraph = split("Said Smith's wife", sentencepieces)
    rows = windows("who", paragraph, sentencepieces, 40)
    at = rows[0].tokens.index("▁sm")
    got = [decode(rows, logits(rows, (0, at)), logits(rows, (0, at + n)), paragraph).text for n in (3, 6)]
    assert got == ["Smith", "Smith's wi"]
    paragraph = split("Café b", lambda word: [f"Ġ{word[:3]}", *({"é": ["Ã©"]}.get(c, [c])[0] for c in word[3:])])
    rows = windows("who", paragraph, sentencepieces, 40)
    at = rows[0].tokens.index("ĠCaf")
    assert decode(rows, logits(rows, (0, at)), logits(rows, (0, at)), paragraph).text == "Café"


def test_null_answers():
    paragraph = split("alpha beta", wordpieces)
    rows = windows("who", paragraph, wordpieces, 40)
    starts, ends = logits(rows, (0, 0), 3.0), logits(rows, (0, 0), 3.0)
    for threshold, text in ((6.0, "al"), (5.99, "")):
        got = decode(rows, starts, ends, paragraph, null_threshold=threshold)
        assert (got.text, got.null_margin) == (text, 6.0)
    assert "" in {candidate.text for candidate in got.candidates}
    assert decode(rows, starts, ends, paragraph).text == "al"
    masked = [[-math.inf if number < 0 else 1.0 for number in row.words] for row in rows]
    got = decode(rows, masked, masked, paragraph)
    assert got.text == "al"
    assert sum(candidate.probability for candidate in got.candidates) == pytest.approx(1)
    with pytest.raises(KdzooError, match="masked"):
        decode(rows, masked, masked, paragraph, null_threshold=0.0)
    nothing = [[-math.inf] * len(row.tokens) for row in rows]
    assert decode(rows, nothing, nothing, paragraph).text == ""
    for bad in ((rows, [], ends), (rows, [starts[0][:-1]], ends), (rows, [[math.nan] * 99], ends), ([], [], [])):
        with pytest.raises(KdzooError):
            decode(*bad, paragraph)


def test_pooling_of_abstracts():
    def listed(*pairs):
        return [Candidate(text, share, 0.0, 0.0) for text, share in pairs]

    found = pool([listed(("TP53", 0.4), ("", 0.5), ("x" * 101, 0.9)), listed(("p21", 0.6), ("tp53", 0.3), ("c", 0.1))])
    assert found == ["TP53", "p21", "c"]
    assert pool([listed(*((str(n), 1 / (n + 1)) for n in range(9)))]) == ["0", "1", "2", "3", "4"]
    assert pool([listed(("x" * 100, 0.1))]) == ["x" * 100]
    assert asked("55031181_b_003") == "55031181_b"
    with pytest.raises(KdzooError):
        asked("55031181")


# --- files ---


def squad(**changes):
    entry = {"id": "1", "question": "Who?", "answers": [{"text": "Bob", "answer_start": 3}]}
    return {"version": "1.1", "data": [{"paragraphs": [{"context": "It Bob", "qas": [{**entry, **changes}]}]}]}


def test_files(tmp_path):
    path = tmp_path / "train.json.gz"
    data = squad(occurrences=2)
    data["data"][0]["paragraphs"][0]["qas"].append({"id": "2", "question": "Why?", "is_impossible": True})
    path.write_bytes(gzip.compress(json.dumps(data).encode()))
    first, second = read_squad(path)
    assert first == ("1", "Who?", "It Bob", ("Bob",), (3,), 2)
    assert second == ("2", "Why?", "It Bob", (), (), 1)


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (squad(answers=[{"text": "Ann", "answer_start": 3}]), "question '1': the answer 'Ann' is not in its paragraph"),
        (squad(answers=[{"text": "Bob", "answer_start": 4}]), "question '1': answer_start 4"),
        (squad(answers=[{"text": "Bob", "answer_start": -1}]), "question '1': answer_start -1"),
        (squad(answers=[{"text": " ", "answer_start": 2}]), "question '1': an empty answer"),
        (squad(answers=[]), "question '1': no answer"),
        (squad(question=" "), "question '1': the question is empty"),
        (squad(answers=None), "question '1': its answers are not in SQuAD's form"),
        (squad(answers={"text": ["Bob"], "answer_start": [3]}), "question '1': its answers are not in SQuAD's form"),
        (squad(answers=[{"text": "Bob"}]), "question '1': its answers are not in SQuAD's form"),
        ({"data": [{"paragraphs": [{"qas": []}]}]}, "no question"),
        ({"data": [{"paragraphs": [{"context": "x", "qas": [{}]}]}]}, "KeyError('id')"),
        ([], "not in SQuAD's form"),
        ({"data": squad()["data"] * 2}, "two questions have the id '1'"),
    ],
)
def test_errors_name_file_and_question(tmp_path, data, named):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(data))
    with pytest.raises(KdzooError, match=re.escape(named)) as caught:
        read_squad(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_json(tmp_path):
    path = tmp_path / "train.json"
    path.write_text("{")
    with pytest.raises(KdzooError, match="no JSON"):
        read_squad(path)
