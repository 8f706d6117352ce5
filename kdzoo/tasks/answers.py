"""Answers from start and end logits: the n best of a question's windows, and of several abstracts.

Source: Devlin et al. (2019), BERT, section 4.2, and the released code; Rajpurkar et al. (2018) for the null answer; Lee
et al. (2019), BioBERT, for the pooling of abstracts.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.spans import Paragraph, Window

N_BEST, MAX_ANSWER = 20, 30
POOLED, LONGEST_POOLED = 5, 100


class Candidate(NamedTuple):
    """An answer that was read off, with its probability among the n best."""

    text: str
    probability: float
    start_logit: float
    end_logit: float


_Pair = tuple[float, float, int, int, int]  # the logits of start and end, the window (-1: the null answer), both places


class Answer(NamedTuple):
    """What is answered, the n best, and by how much the null answer's score passes the best one's (v2)."""

    text: str
    candidates: list[Candidate]
    null_margin: float | None


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
        KdzooError: logits for another number of windows, fewer than tokens, NaN or infinite; masked places may be
            -inf, but not the first token's where there is a threshold.
    """
    pairs, null = _pairs(rows, start_logits, end_logits, n_best, max_answer)
    if null_threshold is not None:
        if sum(null) == -math.inf:
            raise KdzooError("the null answer's logits, those of the first token, are masked: no threshold can count")
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


def _pairs(
    rows: Sequence[Window], start_logits: Sequence[Any], end_logits: Sequence[Any], n_best: int, max_answer: int
) -> tuple[list[_Pair], tuple[float, float]]:
    """What may be answered, and the null answer's logits where they are smallest."""
    if not rows or not len(rows) == len(start_logits) == len(end_logits):
        raise KdzooError(f"{len(rows)} windows, logits of {len(start_logits)} starts and {len(end_logits)} ends")
    pairs: list[_Pair] = []
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
                    if row.words[last] >= 0
                    and first <= last < first + max_answer
                    and starts[first] + ends[last] > -math.inf
                ]
    assert null is not None
    return pairs, null


def _logits(values: Any, row: Window, number: int) -> np.ndarray:
    if hasattr(values, "detach"):
        values = values.detach().cpu().double()
    array = np.asarray(values, dtype=np.float64)[: len(row.tokens)]
    if array.shape != (len(row.tokens),):
        raise KdzooError(f"window {number} has {len(row.tokens)} tokens and logits of the shape {array.shape}")
    # A head may mask places with -inf.
    bad = np.isnan(array) | np.isposinf(array)
    if bad.any():
        raise KdzooError(f"window {number}: the logit of token {int(bad.argmax())} is {array[bad][0]}")
    return array


def _best(logits: np.ndarray, count: int) -> list[int]:
    """The places of the largest logits, the first of equals first."""
    return np.argsort(-logits, kind="stable")[:count].tolist()


def span_text(row: Window, first: int, last: int, paragraph: Paragraph) -> str:
    """The original text of a span of tokens: its words, trimmed to its pieces where the two can be aligned.

    The joined pieces are looked for in the joined pieces of the whole words. Where both these and the original words
    have as many characters without spaces, a place in the one is a place in the other; else, and where one of the
    words' pieces is unknown, the words are taken whole.
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
