"""Extractive question answering: SQuAD's files, windows over long paragraphs, and answers from start and end logits.

Source: Devlin et al. (2019), BERT, section 4.2, and the released code; Rajpurkar et al. (2018) for questions without
an answer; Lee et al. (2019), BioBERT, for the pooling of abstracts.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.pieces import CLS, SEP, Pieces, text_pieces, whole
from kdzoo.tasks.reading import read_text

SPACES = frozenset(" \t\r\n\u202f")
MAX_QUESTION, STRIDE = 64, 128
N_BEST, MAX_ANSWER = 20, 30
POOLED, LONGEST_POOLED = 5, 100


class Question(NamedTuple):
    """A question about a paragraph.

    Attributes:
        id: its own.
        question, context: texts.
        answers: the gold texts; none for a question without an answer.
        starts: the character at which each begins.
        occurrences: how often the first answer's text is said to occur in the paragraph; with more than one, its
            start may be another occurrence's.
    """

    id: str
    question: str
    context: str
    answers: tuple[str, ...]
    starts: tuple[int, ...]
    occurrences: int = 1


class Paragraph(NamedTuple):
    """A paragraph cut into words and pieces.

    Attributes:
        words: cut at white space.
        word_of: of each character, its word; of white space the word before it, -1 at the beginning.
        pieces: of all words.
        piece_word: of each piece, its word.
        first_piece: of each word, the piece at which it begins, and one entry more with the number of pieces.
    """

    words: list[str]
    word_of: list[int]
    pieces: list[str]
    piece_word: list[int]
    first_piece: list[int]


class Window(NamedTuple):
    """One row: a question and a part of its paragraph.

    Attributes:
        tokens, token_type_ids: ``[CLS] question [SEP] part [SEP]`` in segments 0 … 0 1 … 1.
        words: of each token, its word in the paragraph; -1 outside of it.
        max_context: whether a token is a piece that no other window has with more context around it.
        start, end: the answer's first and last token; both 0 where the part does not hold all of it.
    """

    tokens: list[str]
    token_type_ids: list[int]
    words: list[int]
    max_context: list[bool]
    start: int
    end: int


class Candidate(NamedTuple):
    """An answer that was read off, with its probability among the n best."""

    text: str
    probability: float
    start_logit: float
    end_logit: float


class Answer(NamedTuple):
    """What is answered, the n best, and by how much the null answer's score passes the best one's (v2)."""

    text: str
    candidates: list[Candidate]
    null_margin: float | None


def read_squad(path: str | os.PathLike[str]) -> list[Question]:
    """The questions of an official file, version 1.1 or 2.0, plain or gzipped.

    Raises:
        KdzooError: names file and question: another form, a repeated id, an empty paragraph, an answer that is not
            in its paragraph, or none where the question is not said to be impossible.
    """
    try:
        data = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise KdzooError(f"{path}: no JSON ({error})") from None
    found: dict[str, Question] = {}
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    question = _question(entry, paragraph["context"], f"{path}, question {entry['id']!r}")
                    if found.setdefault(question.id, question) is not question:
                        raise KdzooError(f"{path}: two questions have the id {question.id!r}")
    except (KeyError, TypeError, AttributeError) as error:
        after = f" after question {next(reversed(found))!r}" if found else ""
        raise KdzooError(f"{path}{after}: not in SQuAD's form (data, paragraphs, qas): {error!r}") from None
    if not found:
        raise KdzooError(f"{path}: no question")
    return list(found.values())


def _question(entry: dict[str, Any], context: str, where: str) -> Question:
    impossible = bool(entry.get("is_impossible", False))
    answers = [] if impossible else entry["answers"]
    texts = tuple(answer["text"] for answer in answers)
    starts = tuple(answer["answer_start"] for answer in answers)
    if not context.strip():
        raise KdzooError(f"{where}: the paragraph is empty")
    if not entry["question"].strip():
        raise KdzooError(f"{where}: the question is empty")
    if not impossible and not answers:
        raise KdzooError(f'{where}: no answer; a question without one needs "is_impossible": true')
    normal = " ".join(context.split())
    for text, start in zip(texts, starts, strict=True):
        if not text.strip():
            raise KdzooError(f"{where}: an empty answer")
        if " ".join(text.split()) not in normal:
            raise KdzooError(f"{where}: the answer {text!r} is not in its paragraph")
        if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= len(context) - len(text):
            raise KdzooError(f"{where}: answer_start {start!r} is no place in the paragraph for {text!r}")
    return Question(entry["id"], entry["question"], context, texts, starts, int(entry.get("occurrences", 1)))


def split(context: str, pieces: Pieces) -> Paragraph:
    """A paragraph's words and pieces. White space is space, tab, line ends and U+202F, and no other."""
    words: list[str] = []
    word_of: list[int] = []
    after_space = True
    for character in context:
        if character in SPACES:
            after_space = True
        elif after_space:
            words.append(character)
            after_space = False
        else:
            words[-1] += character
        word_of.append(len(words) - 1)
    found: list[str] = []
    piece_word: list[int] = []
    first_piece = [0]
    for number, word in enumerate(words):
        found += pieces(word)
        piece_word += [number] * (len(found) - first_piece[-1])
        first_piece.append(len(found))
    return Paragraph(words, word_of, found, piece_word, first_piece)


def answer_pieces(paragraph: Paragraph, text: str, start: int, pieces: Pieces) -> tuple[int, int] | None:
    """The first and last piece of an answer, tightened to the pieces of its text; ``None`` where it cannot be found.

    The words that hold its first and last character must contain its text, white space normalised. Inside them the
    first sub-span that equals the answer's own pieces is taken, starts ascending and ends descending, else all.
    """
    if not 0 <= start <= len(paragraph.word_of) - len(text) or not text:
        return None
    first, last = paragraph.word_of[start], paragraph.word_of[start + len(text) - 1]
    if first < 0 or " ".join(text.split()) not in " ".join(paragraph.words[first : last + 1]):
        return None
    low, high = paragraph.first_piece[first], paragraph.first_piece[last + 1] - 1
    wanted = text_pieces(text, pieces)
    # All spans of the wanted length, from the left: an end that descends meets each start's only fit.
    for begin in range(low, high - len(wanted) + 2) if wanted else ():
        if paragraph.pieces[begin : begin + len(wanted)] == wanted:
            return begin, begin + len(wanted) - 1
    return (low, high) if low <= high else None


def encode(
    question: Question,
    pieces: Pieces,
    max_length: int,
    *,
    train: bool,
    stride: int = STRIDE,
    max_question: int = MAX_QUESTION,
) -> tuple[Paragraph, list[Window]] | None:
    """A question's paragraph and rows; in training with its first answer, ``None`` where that cannot be found.

    Raises:
        KdzooError: as :func:`windows`.
    """
    paragraph = split(question.context, pieces)
    answer = None
    if train and question.answers:
        answer = answer_pieces(paragraph, question.answers[0], question.starts[0], pieces)
        if answer is None:
            return None
    rows = windows(question.question, paragraph, pieces, max_length, answer, stride=stride, max_question=max_question)
    return paragraph, rows


def windows(
    question: str,
    paragraph: Paragraph,
    pieces: Pieces,
    max_length: int,
    answer: tuple[int, int] | None = None,
    *,
    stride: int = STRIDE,
    max_question: int = MAX_QUESTION,
) -> list[Window]:
    """The rows of a question, its paragraph cut into overlapping parts.

    Args:
        question: its text, of which ``max_question`` pieces are kept.
        paragraph: from :func:`split`.
        pieces: word → its pieces.
        max_length: of a row, special tokens included.
        answer: its first and last piece, from :func:`answer_pieces`; ``None`` without one.
        stride: how many pieces the next part begins later.
        max_question: the most pieces of the question.

    Raises:
        KdzooError: the paragraph has no pieces, or the question leaves it no room.
    """
    for name, value in (("stride", stride), ("max_question", max_question)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise KdzooError(f"{name} must be a whole number of 1 or more, got {value!r}")
    asked = text_pieces(question, pieces)[:max_question]
    whole(max_length, len(asked) + 4)
    if not paragraph.pieces:
        raise KdzooError(f"the paragraph of the question {question!r} has no pieces")
    room, count = max_length - len(asked) - 3, len(paragraph.pieces)
    parts = [(0, min(room, count))]
    while parts[-1][1] < count:
        begin = parts[-1][0] + min(room, stride)
        parts.append((begin, min(begin + room, count)))
    best = _most_context(parts, count)
    ahead = len(asked) + 2
    found = []
    for number, (begin, end) in enumerate(parts):
        inside = answer is not None and begin <= answer[0] and answer[1] < end
        place = (answer[0] - begin + ahead, answer[1] - begin + ahead) if answer is not None and inside else (0, 0)
        found.append(
            Window(
                tokens=[CLS, *asked, SEP, *paragraph.pieces[begin:end], SEP],
                token_type_ids=[0] * ahead + [1] * (end - begin + 1),
                words=[-1] * ahead + paragraph.piece_word[begin:end] + [-1],
                max_context=[False] * ahead + [best[piece] == number for piece in range(begin, end)] + [False],
                start=place[0],
                end=place[1],
            )
        )
    return found


def _most_context(parts: Sequence[tuple[int, int]], count: int) -> list[int]:
    """For each piece the part in which the smaller of its two contexts is largest, the first one on ties."""
    best, owner = [-math.inf] * count, [0] * count
    for number, (begin, end) in enumerate(parts):
        for piece in range(begin, end):
            score = min(piece - begin, end - 1 - piece) + 0.01 * (end - begin)
            if score > best[piece]:
                best[piece], owner[piece] = score, number
    return owner


def decode(
    rows: Sequence[Window],
    start_logits: Sequence[Any],
    end_logits: Sequence[Any],
    paragraph: Paragraph,
    *,
    n_best: int = N_BEST,
    max_answer: int = MAX_ANSWER,
    null_threshold: float | None = None,
) -> Answer:
    """The answer to a question, from the logits of all of its windows.

    Per window the best starts are paired with the best ends. Kept are pairs inside the paragraph whose start has its
    most context there, whose end is not before it and which are not too long; all windows' pairs are ordered by the
    sum of their logits, and equal texts count once. With a threshold the null answer takes part, with its smallest
    score over the windows, and "" is answered when that passes the best answer's by more than the threshold.

    Args:
        rows: the windows of one question.
        start_logits, end_logits: for each window, one value a token; padding after them is not looked at.
        paragraph: from :func:`split`.
        n_best: how many starts, ends and answers.
        max_answer: the most pieces of an answer.
        null_threshold: for questions that may have no answer (SQuAD 2.0).

    Raises:
        KdzooError: logits for another number of windows, fewer than tokens, or not finite.
    """
    if not rows or not len(rows) == len(start_logits) == len(end_logits):
        raise KdzooError(f"{len(rows)} windows, logits of {len(start_logits)} starts and {len(end_logits)} ends")
    pairs: list[tuple[float, float, int, int, int]] = []
    null: tuple[float, float] | None = None
    for number, row in enumerate(rows):
        starts = _logits(start_logits[number], row, number)
        ends = _logits(end_logits[number], row, number)
        if null is None or starts[0] + ends[0] < sum(null):
            null = float(starts[0]), float(ends[0])
        best_ends = _best(ends, n_best)
        for first in _best(starts, n_best):
            if row.max_context[first]:
                pairs += [
                    (float(starts[first]), float(ends[last]), number, first, last)
                    for last in best_ends
                    if row.words[last] >= 0 and first <= last < first + max_answer
                ]
    assert null is not None
    if null_threshold is not None:
        pairs.append((*null, -1, 0, 0))
    pairs.sort(key=lambda pair: pair[0] + pair[1], reverse=True)
    kept: dict[str, tuple[float, float]] = {}
    for start, end, number, first, last in pairs:
        if len(kept) >= n_best:
            break
        text = "" if number < 0 else span_text(rows[number], first, last, paragraph)
        kept.setdefault(text, (start, end))
    if null_threshold is not None:
        kept.setdefault("", null)
    if not kept:
        kept[""] = (0.0, 0.0)
    sums = np.array([sum(logits) for logits in kept.values()])
    weights = np.exp(sums - sums.max())
    shares = (weights / weights.sum()).tolist()
    candidates = [Candidate(text, p, *logits) for (text, logits), p in zip(kept.items(), shares, strict=True)]
    if null_threshold is None:
        return Answer(candidates[0].text, candidates, None)
    best = next((candidate for candidate in candidates if candidate.text), None)
    if best is None:
        return Answer("", candidates, math.inf)
    margin = sum(null) - best.start_logit - best.end_logit
    return Answer("" if margin > null_threshold else best.text, candidates, margin)


def _logits(values: Any, row: Window, number: int) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    array = np.asarray(values, dtype=np.float64)[: len(row.tokens)]
    if array.shape != (len(row.tokens),):
        raise KdzooError(f"window {number} has {len(row.tokens)} tokens and logits of the shape {array.shape}")
    if not np.isfinite(array).all():
        raise KdzooError(f"window {number}: the logit of token {int(np.isfinite(array).argmin())} is not finite")
    return array


def _best(logits: np.ndarray, count: int) -> list[int]:
    """The places of the largest logits, the first of equals first."""
    return np.argsort(-logits, kind="stable")[:count].tolist()


def span_text(row: Window, first: int, last: int, paragraph: Paragraph) -> str:
    """The original text of a span of tokens: its words, trimmed to its pieces where the two can be aligned.

    The joined pieces are looked for in the joined pieces of the whole words. Where both these and the original words
    have as many characters without spaces, a place in the one is a place in the other; else the words are taken whole.
    """
    low, high = row.words[first], row.words[last]
    original = " ".join(paragraph.words[low : high + 1])
    own = paragraph.pieces[paragraph.first_piece[low] : paragraph.first_piece[high + 1]]
    joined, wanted = _joined(own), _joined(row.tokens[first : last + 1])
    begin = joined.find(wanted)
    if begin < 0 or not wanted or "[UNK]" in own:
        return original
    places = [place for place, character in enumerate(original) if character != " "]
    if len(places) != sum(character != " " for character in joined):
        return original
    before = sum(character != " " for character in joined[:begin])
    length = sum(character != " " for character in wanted)
    return original[places[before] : places[before + length - 1] + 1]


def _joined(pieces: Sequence[str]) -> str:
    """Pieces as text: WordPiece's ``##`` and the marks of a space, ``▁`` and ``Ġ``, taken away."""
    text = " ".join(pieces)
    if any(mark in text for mark in "▁Ġ"):
        text = "".join(pieces).replace("▁", " ").replace("Ġ", " ")
    return " ".join(text.replace(" ##", "").replace("##", "").split())


def pool(candidates: Iterable[Sequence[Candidate]], most: int = POOLED, longest: int = LONGEST_POOLED) -> list[str]:
    """The answers to a question that was asked of several abstracts, best first (BioASQ).

    Args:
        candidates: the n best of each abstract. Empty texts and those of more than ``longest`` characters are
            skipped; the probabilities of texts that are equal but for case are added up, in the form seen first.
        most: how many answers to give.
    """
    total: dict[str, float] = {}
    form: dict[str, str] = {}
    for listed in candidates:
        for candidate in listed:
            if candidate.text.strip() and len(candidate.text) <= longest:
                key = candidate.text.lower()
                form.setdefault(key, candidate.text)
                total[key] = total.get(key, 0.0) + candidate.probability
    return [form[key] for key in sorted(total, key=lambda key: -total[key])[:most]]


def asked(question_id: str) -> str:
    """The question of an id of question and number, ``"55031181e9bde69634000014_003"``, that BioASQ's files have."""
    name, _, number = question_id.rpartition("_")
    if not name or not number.isdigit():
        raise KdzooError(f"{question_id!r} is no id of a question and its number, such as 'q17_003'")
    return name
