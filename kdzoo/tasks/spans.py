"""Extractive question answering: SQuAD's files, and windows over long paragraphs.

Source: Devlin et al. (2019), BERT, section 4.2, and the released code; Rajpurkar et al. (2018) for questions without
an answer.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from kdzoo.errors import KdzooError
from kdzoo.tasks.pieces import CLS, SEP, Pieces, text_pieces, whole
from kdzoo.tasks.reading import read_text

SPACES = frozenset(" \t\r\n\u202f")
MAX_QUESTION, STRIDE = 64, 128


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


def read_squad(path: str | os.PathLike[str]) -> list[Question]:
    """The questions of an official file, version 1.1 or 2.0, plain or gzipped.

    Raises:
        KdzooError: names file and question: another form, a repeated id, an empty paragraph, an answer that is not
            in its paragraph, or none where the question is not said to be impossible.
    """
    try:
        data = json.loads(read_text(path))
    except (ValueError, RecursionError) as error:
        raise KdzooError(f"{path}: no JSON ({error})") from None
    found: dict[str, Question] = {}
    try:
        for article in data["data"]:
            for paragraph in article["paragraphs"]:
                for entry in paragraph["qas"]:
                    question = _question(entry, paragraph["context"], f"{path}, question {entry['id']!r}")
                    if found.setdefault(question.id, question) is not question:
                        raise KdzooError(f"{path}: two questions have the id {question.id!r}")
    except KdzooError:
        raise
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        after = f" after question {next(reversed(found))!r}" if found else ""
        raise KdzooError(f"{path}{after}: not in SQuAD's form (data, paragraphs, qas): {error!r}") from None
    if not found:
        raise KdzooError(f"{path}: no question")
    return list(found.values())


def _question(entry: dict[str, Any], context: str, where: str) -> Question:
    impossible, times = entry.get("is_impossible", False), entry.get("occurrences", 1)
    if not isinstance(impossible, bool):
        raise KdzooError(f"{where}: is_impossible is {impossible!r}; it is true or false")
    if isinstance(times, bool) or not isinstance(times, int) or times < 1:
        raise KdzooError(f"{where}: occurrences is {times!r}; it is a whole number of 1 or more")
    answers: Any = [] if impossible else entry.get("answers")
    try:
        texts = tuple(answer["text"] for answer in answers)
        starts = tuple(answer["answer_start"] for answer in answers)
    except (KeyError, TypeError):
        form = "a list of text and answer_start each"
        raise KdzooError(f"{where}: its answers are not in SQuAD's form, {form}: {answers!r:.80}") from None
    if not context.strip():
        raise KdzooError(f"{where}: the paragraph is empty")
    if not entry["question"].strip():
        raise KdzooError(f"{where}: the question is empty")
    if not impossible and not answers:
        raise KdzooError(f'{where}: no answer; a question without one needs "is_impossible": true')
    for text, start in zip(texts, starts, strict=True):
        check_answer(context, text, start, where)
    return Question(entry["id"], entry["question"], context, texts, starts, times)


def check_answer(context: str, text: Any, start: Any, where: str) -> None:
    """Refuse an answer whose text does not occur in its paragraph, or whose start is no place there.

    Args:
        context: the paragraph.
        text: the answer's.
        start: the character at which it begins.
        where: what a message begins with.

    Raises:
        KdzooError: names the answer.
    """
    if not isinstance(text, str) or not text.strip():
        raise KdzooError(f"{where}: an empty answer")
    if " ".join(text.split()) not in " ".join(context.split()):
        raise KdzooError(f"{where}: the answer {text!r} is not in its paragraph")
    if isinstance(start, bool) or not isinstance(start, int) or not 0 <= start <= len(context) - len(text):
        raise KdzooError(f"{where}: answer_start {start!r} is no place in the paragraph for {text!r}")


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
    # Both sides alike: what parts no words here, such as a no-break space, is white space to Python.
    if first < 0 or " ".join(text.split()) not in " ".join(" ".join(paragraph.words[first : last + 1]).split()):
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
