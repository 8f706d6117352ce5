"""Tagged sentences (NER): words and their labels as rows of pieces, long sentences cut and joined, CoNLL files.

Source: Lee et al. (2019), BioBERT, section 3.3; Devlin et al. (2019), section 5.3, for the label on the first piece.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any, NamedTuple

from kdzoo.errors import KdzooError
from kdzoo.tasks.bio import check_tags
from kdzoo.tasks.pieces import CLS, IGNORED, SEP, Pieces, whole
from kdzoo.tasks.reading import numbered_lines

DOCUMENT = "-DOCSTART-"
LEAST = 3  # [CLS], one piece, [SEP]


class TokenRow(NamedTuple):
    """One row: its tokens and, for each, a label or -100."""

    tokens: list[str]
    labels: list[Any]


class Sentence(NamedTuple):
    """The words of a sentence and their tags."""

    words: list[str]
    tags: list[str]


def align(words: Sequence[str], labels: Sequence[Any], pieces: Pieces, max_length: int) -> TokenRow:
    """The row of a sentence: ``[CLS]``, the pieces of its words, ``[SEP]``.

    A word's label stands at its first piece; -100 stands at the others and at the special tokens. A word with no
    pieces is left out. Of a sentence that is too long this is the first row; :func:`rows` gives them all.

    Args:
        words, labels: of one sentence.
        pieces: word → its pieces.
        max_length: of a row, special tokens included.

    Raises:
        KdzooError: words and labels differ in number, or ``max_length`` is under 3.
    """
    found = rows(words, labels, pieces, max_length)
    return found[0] if found else TokenRow([CLS, SEP], [IGNORED, IGNORED])


def rows(words: Sequence[str], labels: Sequence[Any], pieces: Pieces, max_length: int) -> list[TokenRow]:
    """All rows of a sentence, cut between words; none for a sentence of which no piece remains.

    A row takes as many whole words as it can. Of a word that is longer than a row, the first pieces are kept.

    Raises:
        KdzooError: as :func:`align`.
    """
    if len(words) != len(labels):
        raise KdzooError(f"{len(words)} words and {len(labels)} labels; every word needs one")
    whole(max_length, LEAST)
    room = max_length - 2
    found: list[TokenRow] = []
    tokens: list[str] = []
    marks: list[Any] = []

    def close() -> None:
        if tokens:
            found.append(TokenRow([CLS, *tokens, SEP], [IGNORED, *marks, IGNORED]))
            tokens.clear()
            marks.clear()

    for word, label in zip(words, labels, strict=True):
        parts = list(pieces(word))[:room]
        if len(tokens) + len(parts) > room:
            close()
        tokens += parts
        marks += [label, *[IGNORED] * (len(parts) - 1)] if parts else []
    close()
    return found


def labelled(labels: Sequence[Any], values: Sequence[Any]) -> list[Any]:
    """What stands at a row's labelled positions: one value for each word of the row that has pieces.

    Args:
        labels: of the row.
        values: one for each of its tokens; padding after them is not looked at.

    Raises:
        KdzooError: there are fewer values than tokens.
    """
    if len(values) < len(labels):
        raise KdzooError(f"{len(values)} values for a row of {len(labels)} tokens")
    return [value for label, value in zip(labels, values, strict=False) if not _ignored(label)]


def join(sentences: Sequence[int], parts: Sequence[Sequence[Any]], count: int | None = None) -> list[list[Any]]:
    """The rows of sentences that were cut, put together again for scoring.

    Args:
        sentences: for each row, the number of its sentence from 0.
        parts: for each row, what :func:`labelled` gave, in the order of the text.
        count: how many sentences there are; those without a row get an empty list. The last number + 1 by default.

    Raises:
        KdzooError: rows and numbers differ in number, or a sentence's number is none.
    """
    if len(sentences) != len(parts):
        raise KdzooError(f"{len(parts)} rows and {len(sentences)} numbers of sentences")
    count = max(sentences, default=-1) + 1 if count is None else count
    joined: list[list[Any]] = [[] for _ in range(count)]
    for sentence, part in zip(sentences, parts, strict=True):
        if not 0 <= sentence < count:
            raise KdzooError(f"a row of sentence {sentence}, where there are {count}, numbered from 0")
        joined[sentence] += part
    return joined


def opens_with_i(tags: Sequence[str]) -> bool:
    """Whether an I stands where no entity of its type goes before, and so opens one unless the reading is strict."""
    pairs = zip(("O", *tags), tags, strict=False)
    return any(tag[0] == "I" and (before == "O" or before[1:] != tag[1:]) for before, tag in pairs)


def read_conll(path: str | os.PathLike[str], entity: str | None = None) -> list[Sentence]:
    """A file of one word a line with its tag, and a blank line between sentences.

    The word is the first column and the tag the last one; columns are parted by tabs or, in a line without any, by
    spaces. Lines that begin with ``-DOCSTART-`` are passed over.

    Args:
        path: the file, plain or gzipped.
        entity: the type of tags that name none: with ``"Disease"``, B becomes B-Disease.

    Raises:
        KdzooError: names file and row: a word without a tag, a tag that is no BIO, tags with a type beside tags
            without, or a file without words.
    """
    found: list[Sentence] = []
    words: list[str] = []
    tags: list[str] = []
    typed: bool | None = None
    for row, line in numbered_lines(path):
        where = f"{path}, row {row}"
        if not line.strip() or line.startswith(DOCUMENT):
            if words:
                found.append(Sentence(words, tags))
                words, tags = [], []
            continue
        # No other white space parts columns: a word may hold, or be, a no-break space.
        columns = [column.strip(" ") for column in line.split("\t")] if "\t" in line else line.split(" ")
        columns = columns if "\t" in line else [column for column in columns if column]
        if len(columns) < 2 or not columns[0] or not columns[-1]:
            raise KdzooError(f"{where}: expected a word, a tab or space and its tag, got {line!r}")
        tag = columns[-1]
        check_tags([tag], where)
        if tag != "O":
            if typed is not None and typed != (len(tag) > 1):
                raise KdzooError(f"{where}: {tag!r} in a file that has tags with a type and tags without")
            typed = len(tag) > 1
        words.append(columns[0])
        tags.append(f"{tag}-{entity}" if entity and tag in ("B", "I") else tag)
    if words:
        found.append(Sentence(words, tags))
    if not found:
        raise KdzooError(f"{path}: no word with a tag")
    return found


def read_tagged_lines(path: str | os.PathLike[str]) -> list[Sentence]:
    """A file of one sentence a line, words and tags in the columns ``text_a`` and ``label``, parted by single spaces.

    Source: the form of K-BERT's tagging files.

    Raises:
        KdzooError: names file and row: a column that is missing, more or fewer tags than words, a tag that is no BIO.
    """
    lines = numbered_lines(path)
    header = next(lines, (1, ""))[1].split("\t")
    for column in ("text_a", "label"):
        if column not in header:
            raise KdzooError(f"{path}, row 1: no column {column!r} in the header; it has {', '.join(header)}")
    text, label = header.index("text_a"), header.index("label")
    found: list[Sentence] = []
    for row, line in lines:
        columns = line.split("\t")
        if len(columns) != len(header):
            raise KdzooError(f"{path}, row {row}: {len(columns)} columns, the header has {len(header)}")
        words, tags = columns[text].split(" "), columns[label].split(" ")
        if len(words) != len(tags):
            raise KdzooError(f"{path}, row {row}: {len(tags)} tags and {len(words)} words; every word needs one")
        check_tags(tags, f"{path}, row {row}")
        found.append(Sentence(words, tags))
    if not found:
        raise KdzooError(f"{path}: no sentence after the header")
    return found


def _ignored(label: Any) -> bool:
    return not isinstance(label, str) and bool(label == IGNORED)
