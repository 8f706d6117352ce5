"""Sentences with semantic roles: pieces, the words they make up, and SemBERT's rows of tags; AllenNLP-shaped files.

Source: Zhang et al. (2020), SemBERT, section 3.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from kdzoo.errors import KdzooError
from kdzoo.tasks.bio import check_tags
from kdzoo.tasks.pieces import CLS, SEP, Pieces, cut_longest, whole
from kdzoo.tasks.reading import numbered_lines

_KEPT = ("V", "ARG0", "ARG1", "ARG2", "ARG4", "ARGM-TMP", "ARGM-LOC", "ARGM-CAU", "ARGM-PRP")
# In the order of the released embedding; every other role is O.
TAGS = ("[PAD]", CLS, SEP, *(f"{mark}-{role}" for role in _KEPT for mark in "BI"), "O")


class RoleRow(NamedTuple):
    """One row.

    Attributes:
        tokens: pieces and special tokens.
        word_spans: (first, last) token of each word, both inclusive; ``[CLS]`` and each ``[SEP]`` are a word.
        tags: as many rows as verbs are allowed, each with one tag for each of these words.
    """

    tokens: list[str]
    word_spans: list[tuple[int, int]]
    tags: list[list[str]]


class Tagged(NamedTuple):
    """The words of a sentence and, for each predicate, a mapping with its ``tags``."""

    words: list[str]
    verbs: list[dict[str, Any]]


class TaggedRow(NamedTuple):
    """A row of a file: its own index and label, if it has any, one or two sentences, and where the tags are from."""

    idx: Any
    label: Any
    sentences: tuple[Tagged, ...]
    source: Any = None


def align(
    words: Sequence[str],
    verbs: Sequence[Mapping[str, Any]],
    pieces: Pieces,
    max_length: int,
    max_verbs: int = 3,
    pair: tuple[Sequence[str], Sequence[Mapping[str, Any]]] | Mapping[str, Any] | None = None,
) -> RoleRow:
    """The row ``[CLS] words [SEP]``, or ``[CLS] words [SEP] words of the second sentence [SEP]``.

    There are exactly ``max_verbs`` rows of tags: those of the first predicates, and where there are fewer, copies of
    the row with the most tags other than O, the first of equals; without a predicate all are O. Row k of the first
    sentence is joined with row k of the second. Roles outside :data:`TAGS` become O, after rows are compared. What
    is too long loses the last pieces of its longer sentence, of equally long ones the second. A word without pieces
    is left out, with its tags.

    Args:
        words, verbs: the labeller's words, and for each predicate a mapping with ``tags``, one a word.
        pieces: word → its pieces.
        max_length: of the row, special tokens included.
        max_verbs: the number of rows of tags.
        pair: words and verbs of a second sentence, or a mapping with the two.

    Raises:
        KdzooError: tags for another number of words, a tag that is no BIO, or no room for text.
    """
    if isinstance(max_verbs, bool) or not isinstance(max_verbs, int) or max_verbs < 1:
        raise KdzooError(f"max_verbs must be a whole number of 1 or more, got {max_verbs!r}")
    if isinstance(pair, Mapping):
        pair = (pair["words"], pair["verbs"])
    sentences = [(words, verbs), *([pair] if pair is not None else [])]
    whole(max_length, len(sentences) + 2)
    # Each piece with the number of its word.
    parts = [[(n, piece) for n, word in enumerate(own) for piece in pieces(word)] for own, _ in sentences]
    cut_longest(parts, max_length - len(sentences) - 1, max_length)
    tokens, spans, tags = [CLS], [(0, 0)], [[CLS] for _ in range(max_verbs)]
    for number, ((own, roles), part) in enumerate(zip(sentences, parts, strict=True), 1):
        rows = _rows(own, roles, max_verbs, f"sentence {number}")
        last = -1
        for word, piece in part:
            if word == last:
                spans[-1] = (spans[-1][0], len(tokens))
            else:
                spans.append((len(tokens), len(tokens)))
                for row, filled in zip(tags, rows, strict=True):
                    row.append(filled[word])
            last = word
            tokens.append(piece)
        spans.append((len(tokens), len(tokens)))
        tokens.append(SEP)
        for row in tags:
            row.append(SEP)
    return RoleRow(tokens, spans, tags)


def tag_ids(tags: Sequence[Sequence[str]]) -> list[list[int]]:
    """The rows of :func:`align` as indices of :data:`TAGS`."""
    place = {tag: number for number, tag in enumerate(TAGS)}
    return [[place[tag] for tag in row] for row in tags]


def check_words(words: Sequence[str], text: str, where: str) -> None:
    """Refuse words that are not those of a sentence: their characters must be its own, white space aside.

    Raises:
        KdzooError: names where they begin to differ.
    """
    mine, own = "".join("".join(words).split()), "".join(text.split())
    if mine != own:
        at = next((n for n, (a, b) in enumerate(zip(mine, own, strict=False)) if a != b), min(len(mine), len(own)))
        raise KdzooError(
            f"{where}: the roles are for other words than the sentence's; after {own[max(0, at - 10) : at]!r} come "
            f"{mine[at : at + 10]!r} and {own[at : at + 10]!r}"
        )


def read_roles(path: str | os.PathLike[str]) -> list[TaggedRow]:
    """JSON lines with ``words`` and ``verbs`` as AllenNLP gives them, or with ``sentence1`` and ``sentence2`` of these.

    Raises:
        KdzooError: names file and row: no JSON, a key that is missing, tags for another number of words, no BIO.
    """
    found = []
    for number, line in numbered_lines(path):
        where = f"{path}, row {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise KdzooError(f"{where}: no JSON ({error})") from None
        if not isinstance(row, dict):
            raise KdzooError(f"{where}: expected an object with words and verbs, got {line[:40]!r}")
        names = [name for name in ("sentence1", "sentence2") if row.get(name) is not None]
        if names == ["sentence2"]:
            raise KdzooError(f"{where}: a sentence2 without a sentence1")
        sentences = [_sentence(row[name], f"{where}, {name}") for name in names] or [_sentence(row, where)]
        found.append(TaggedRow(row.get("idx", row.get("id")), row.get("label"), tuple(sentences), row.get("source")))
    if not found:
        raise KdzooError(f"{path}: no row")
    return found


def _sentence(value: Any, where: str) -> Tagged:
    for key in ("words", "verbs"):
        if not isinstance(value, dict) or not isinstance(value.get(key), list):
            raise KdzooError(f"{where}: no list of {key!r}")
    if not all(isinstance(word, str) for word in value["words"]):
        raise KdzooError(f"{where}: a word that is no text")
    _checked(value["words"], value["verbs"], where)
    return Tagged(value["words"], value["verbs"])


def _checked(words: Sequence[str], verbs: Sequence[Mapping[str, Any]], where: str) -> list[list[str]]:
    """The tags of each predicate."""
    found = []
    for number, verb in enumerate(verbs, 1):
        if not isinstance(verb, Mapping) or not isinstance(verb.get("tags"), list | tuple):
            raise KdzooError(f"{where}, predicate {number}: no list of 'tags'")
        if len(verb["tags"]) != len(words):
            raise KdzooError(
                f"{where}, predicate {number}: {len(verb['tags'])} tags and {len(words)} words; "
                "the roles are for other words than the sentence's"
            )
        check_tags(verb["tags"], f"{where}, predicate {number}")
        found.append(list(verb["tags"]))
    return found


def _rows(words: Sequence[str], verbs: Sequence[Mapping[str, Any]], count: int, where: str) -> list[list[str]]:
    rows = _checked(words, verbs, where)[:count] or [["O"] * len(words)]
    fullest = max(rows, key=lambda row: sum(tag != "O" for tag in row))
    rows += [fullest] * (count - len(rows))
    return [[tag if tag in TAGS else "O" for tag in row] for row in rows]
