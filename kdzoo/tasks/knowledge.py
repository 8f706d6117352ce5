"""Sentences with facts from a triple file: the sentence tree, soft positions and the visible matrix of K-BERT.

Source: Liu et al. (2020), K-BERT, section 3.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.pieces import SEP, SPECIAL, Pieces, cut_longest, whole
from kdzoo.tasks.reading import numbered_lines

ROLES = ("subject", "predicate", "object")
ENOUGH = 8  # rows from which the columns of a triple file can be told apart by what they repeat


class Word(str):
    """A word whose pieces are known already, as ids: those that the sentence itself has been cut into."""

    ids: list[int]

    @classmethod
    def of(cls, text: str, ids: Sequence[int]) -> Word:
        """A word and its pieces."""
        word = cls(text)
        word.ids = [*ids]
        return word


class Injected(NamedTuple):
    """A sentence with its facts, N tokens in the order of the sentence tree.

    Attributes:
        tokens: of the trunk and, after each unit, of its branches.
        positions: soft positions: branches and the trunk that follows share them.
        trunk: whether a token is one of the sentence itself.
        visible: (N, N) bool, whether the row's token sees the column's.
    """

    tokens: list[str]
    positions: list[int]
    trunk: list[bool]
    visible: np.ndarray


class Tree(NamedTuple):
    """A sentence tree, N tokens in its order.

    Attributes:
        tokens, positions: as of :class:`Injected`.
        branches: of each token the branch that it is in, from 1; 0 is the trunk.
        units: of each token the unit that it belongs to or hangs on.
        left_out: how many branches there was no room for.
    """

    tokens: list[Any]
    positions: list[int]
    branches: list[int]
    units: list[int]
    left_out: int = 0


class Facts(Mapping[str, list[str]]):
    """A look-up from subject to texts, whatever the case: what :func:`inject` makes of a dict, made once.

    Repeated texts of a subject are dropped and the order is kept, so the first facts are always the same ones.

    Args:
        facts: subject → texts. Subjects that differ in case or spaces alone are one.

    Raises:
        KdzooError: a subject or a text is empty, or the texts are no list.
    """

    def __init__(self, facts: Mapping[str, Sequence[str]]) -> None:
        found: dict[str, dict[str, None]] = {}
        for subject, texts in facts.items():
            if isinstance(texts, str | Set):
                kind = "one text" if isinstance(texts, str) else "a set, which has no order"
                raise KdzooError(f"the facts of {subject!r} are {kind}; expected a list of texts")
            texts = list(texts)  # an iterator is read once
            if not subject.split() or not all(isinstance(text, str) and text.split() for text in texts):
                raise KdzooError(f"{subject!r} → {texts!r}: subject and texts must not be empty")
            found.setdefault(_key(subject.split()), {}).update(dict.fromkeys(texts))
        self._found = {subject: list(texts) for subject, texts in found.items()}
        self._reach: dict[str, int] = {}
        for subject in self._found:
            first, *others = subject.split(" ")
            self._reach[first] = max(self._reach.get(first, 0), 1 + len(others))
        self.longest_text = max(map(len, self._found), default=1)

    def __getitem__(self, subject: str) -> list[str]:
        return self._found[_key(subject.split())]

    def __contains__(self, subject: object) -> bool:
        return isinstance(subject, str) and _key(subject.split()) in self._found

    def __iter__(self) -> Iterator[str]:
        return iter(self._found)

    def longest_from(self, word: str) -> int:
        """How many words the longest subject has that begins with this one; 0 where none does."""
        return self._reach.get(word.casefold(), 0)

    def __len__(self) -> int:
        return len(self._found)


@dataclass
class _Unit:
    """A special token, a word or the words of a subject; ``tokens`` are its pieces."""

    tokens: list[Any]
    branches: list[list[Any]] = field(default_factory=list)
    special: bool = False


def inject(
    words: Sequence[str],
    facts: Mapping[str, Sequence[str]],
    pieces: Pieces = list,
    max_entities: int = 2,
    max_length: int | None = None,
) -> Injected:
    """A sentence with the facts of the subjects that it names.

    From left to right the longest run of words that is a subject, whatever the case, is one unit; each other word is
    one. A unit that is a subject gets the first of its texts as branches of depth 1, each counting on from the unit's
    last position. A token sees another when both are of the trunk, both of one branch, or one is of a branch and
    the other of the unit that it hangs on.

    Where the row is too long, the last branch of the last unit that has one is dropped until it fits, and only then
    the text is cut as usual, at the end of its longest part between special tokens; these stay. (The released code
    cuts what stands at the end.)

    Args:
        words: of the sentence with its special tokens, which are never split and never looked up.
        facts: subject → texts, in order; a :class:`Facts` is looked up as it is, a dict is made one at each call.
        pieces: word → its pieces; by default its characters.
        max_entities: the most branches of a unit.
        max_length: the most tokens; no limit by default.

    Raises:
        KdzooError: ``max_entities`` is negative, or ``max_length`` leaves a part of the text nothing.
    """
    tree = grown(words, facts, pieces, max_entities, max_length)
    branches, units = np.array(tree.branches, dtype=np.int64), np.array(tree.units, dtype=np.int64)
    trunk = [branch == 0 for branch in tree.branches]
    return Injected(tree.tokens, tree.positions, trunk, seen_by(branches, units))


def grown(
    words: Sequence[str],
    facts: Mapping[str, Sequence[str]],
    pieces: Callable[[str], Sequence[Any]] = list,
    max_entities: int = 2,
    max_length: int | None = None,
) -> Tree:
    """The sentence tree that :func:`inject` makes the matrix of; see there. Pieces may be anything, ids among them."""
    if isinstance(max_entities, bool) or not isinstance(max_entities, int) or max_entities < 0:
        raise KdzooError(f"max_entities must be a whole number of 0 or more, got {max_entities!r}")
    look_up = facts if isinstance(facts, Facts) else Facts(facts)
    units = list(_units(words, look_up, pieces, max_entities))
    before = sum(len(unit.branches) for unit in units)
    if max_length is not None:
        _shorten(units, max_length)
    return _laid_out(units)._replace(left_out=before - sum(len(unit.branches) for unit in units))


def seen_by(branches: Any, units: Any) -> Any:
    """The visible matrix (..., N, N) of tokens (..., N) that are in these branches (0: the trunk) and of these units.

    Two of one unit see each other unless they are in different branches of it; the trunk sees itself.

    Args:
        branches, units: arrays or tensors of whole numbers.
    """
    same_branch = branches[..., :, None] == branches[..., None, :]
    hanging = (branches[..., :, None] == 0) | (branches[..., None, :] == 0)
    return same_branch | ((units[..., :, None] == units[..., None, :]) & hanging)


def token_type_ids(injected: Injected) -> list[int]:
    """The segment of each token: how many ``[SEP]`` of the trunk stand before it; a branch has that of its unit.

    Raises:
        KdzooError: there are more than two segments.
    """
    found: list[int] = []
    segment = 0
    for token, trunk in zip(injected.tokens, injected.trunk, strict=True):
        found.append(segment)
        segment += trunk and token == SEP
    if found and max(found) > 1:
        raise KdzooError(f"{max(found) + 1} segments; a model has embeddings for two")
    return found


def cut_words(text: str, facts: Facts) -> list[str]:
    """The words of a text without spaces (Chinese): the longest subjects from left to right, else characters.

    White space parts words and is dropped.
    """
    found: list[str] = []
    for part in text.split():
        at = 0
        while at < len(part):
            sizes = range(min(facts.longest_text, len(part) - at), 1, -1)
            size = next((size for size in sizes if part[at : at + size] in facts), 1)
            found.append(part[at : at + size])
            at += size
    return found


def read_facts(path: str | os.PathLike[str], *, with_predicate: bool = True, check_order: bool = True) -> Facts:
    """A file of subject, predicate and object, parted by tabs, in the order of the file.

    Args:
        path: the file, plain or gzipped. A first row that names the columns, subject, predicate, object, is passed
            over, and settles their order.
        with_predicate: texts are predicate and object, for classification; else the object alone, for tagging.
        check_order: refuse a file of 8 rows or more without such a row whose middle column repeats itself less than
            another one by far: predicates are few, so that it has its columns in another order.

    Raises:
        KdzooError: names file and row: other columns, another order of them, or something empty.
    """
    path = Path(path)
    found: dict[str, list[str]] = {}
    columns: tuple[list[str], list[str], list[str]] = ([], [], [])
    for row, line in numbered_lines(path):
        values = [value.strip() for value in line.split("\t")]
        if len(values) != len(ROLES):
            raise KdzooError(f"{path}, row {row}: {len(values)} columns; expected {', '.join(ROLES)}")
        if row == 1 and {value.lower() for value in values} == set(ROLES):
            if tuple(value.lower() for value in values) != ROLES:
                raise KdzooError(f"{path}, row 1: the columns are {', '.join(values)}; expected {', '.join(ROLES)}")
            check_order = False
            continue
        for name, value, column in zip(ROLES, values, columns, strict=True):
            if not value:
                raise KdzooError(f"{path}, row {row}: the {name} is empty")
            column.append(value)
        subject, predicate, text = values
        found.setdefault(subject, []).append(f"{predicate} {text}" if with_predicate else text)
    if not found:
        raise KdzooError(f"{path}: no triple")
    if check_order:
        _check_order(path, columns)
    return Facts(found)


def _check_order(path: Path, columns: tuple[list[str], list[str], list[str]]) -> None:
    kinds = [len(set(column)) for column in columns]
    fewest = min(kinds)
    if len(columns[0]) >= ENOUGH and kinds[1] > 2 * fewest:
        raise KdzooError(
            f"{path}, row 1: column 2 has {kinds[1]} different values and column {kinds.index(fewest) + 1} only "
            f"{fewest}, as predicates have; expected {', '.join(ROLES)}. A first row that names the columns so takes "
            "them as they are"
        )


def _key(words: Sequence[str]) -> str:
    return " ".join(words).casefold()


def _units(
    words: Sequence[str], facts: Facts, pieces: Callable[[str], Sequence[Any]], max_entities: int
) -> Iterator[_Unit]:
    at = 0
    while at < len(words):
        if words[at] in SPECIAL:
            yield _Unit(list(pieces(words[at])) if isinstance(words[at], Word) else [words[at]], special=True)
            at += 1
            continue
        end = at + 1
        longest = facts.longest_from(words[at])
        while end < len(words) and end - at < longest and words[end] not in SPECIAL:
            end += 1
        while end > at + 1 and _key(words[at:end]) not in facts:
            end -= 1
        unit = _Unit([piece for word in words[at:end] for piece in pieces(word)])
        # What has no pieces is not there, so nothing can hang on it.
        if unit.tokens:
            texts = facts.get(_key(words[at:end]), [])[:max_entities]
            unit.branches = [branch for text in texts if (branch := [p for word in text.split() for p in pieces(word)])]
            yield unit
        at = end


def _shorten(units: list[_Unit], max_length: int) -> None:
    fixed = sum(unit.special for unit in units)
    whole(max_length, max(fixed, 1))
    total = sum(len(unit.tokens) + sum(map(len, unit.branches)) for unit in units)
    for unit in reversed(units):
        while unit.branches and total > max_length:
            total -= len(unit.branches.pop())
    if total <= max_length:
        return
    # Each piece of text as its unit, part by part between special tokens.
    parts: list[list[_Unit]] = [[]]
    for unit in units:
        if unit.special:
            parts.append([])
        else:
            parts[-1] += [unit] * len(unit.tokens)
    cut_longest(parts, max_length - fixed, max_length)
    kept = {id(unit): 0 for unit in units}
    for part in parts:
        for unit in part:
            kept[id(unit)] += 1
    for unit in units:
        if not unit.special:
            del unit.tokens[kept[id(unit)] :]


def _laid_out(units: list[_Unit]) -> Tree:
    tree = Tree([], [], [], [])
    position = branches = 0
    for number, unit in enumerate(units):
        branch_numbers = [0]
        parts = [(unit.tokens, position)]
        position += len(unit.tokens)
        for branch in unit.branches:
            branches += 1
            branch_numbers.append(branches)
            parts.append((branch, position))
        for branch_number, (part, first) in zip(branch_numbers, parts, strict=True):
            tree.tokens.extend(part)
            tree.positions.extend(range(first, first + len(part)))
            tree.branches.extend([branch_number] * len(part))
            tree.units.extend([number] * len(part))
    return tree
