"""A task whose teacher reads facts from a triple file beside each sentence (K-BERT), and whose students do not.

Source: Liu et al. (2020), K-BERT. That a plain student learns from such a teacher is not in the paper.
"""

from __future__ import annotations

import os
import re
import warnings
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo import hashing
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.tasks.base import Task
from kdzoo.tasks.classification import Classification
from kdzoo.tasks.encoding import INDEX
from kdzoo.tasks.knowledge import Facts, Tree, Word, cut_words, grown, read_facts, seen_by
from kdzoo.tasks.padding import padding_side
from kdzoo.tasks.pieces import CLS, IGNORED, SEP, tokenizer_pieces
from kdzoo.tasks.synthetic import things
from kdzoo.tasks.token_classification import TokenClassification
from kdzoo.tasks.wrapped import Wrapped

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

ARMS = {  # how the task's name goes on, and what it is
    "": "the teacher reads the facts",
    "none": "the teacher reads no facts",
    "random": "the teacher reads facts of other subjects",
    "blind": "without the visible matrix: every token sees every other",
    "flat": "without soft positions: tokens are counted as they stand",
    "both": "teacher and students read the facts",
}
BRANCHES, UNITS = "tree_branches", "tree_units"  # columns of a row's sentence tree
WORD = re.compile(r"\w+|[^\w\s]")
UNSPACED = re.compile(r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")  # kana and Chinese characters


@dataclass(frozen=True)
class WithKnowledge(Wrapped):
    """A task with facts about what its sentences name.

    The teacher's row is the student's with facts in it: the same tokens, cut at the same length, with the facts after
    what they are about as long as there is room. Soft positions and the visible matrix go with them.

    Attributes:
        facts: subject → texts, in order; texts go in beside a subject that the sentence names.
        arm: which of `ARMS`.
        max_entities: the most facts of a subject in a sentence.
        seed: of the facts' new order in the arm ``"random"``.

    Raises:
        KdzooError: for a task of another kind, or an unknown arm.
    """

    made: ClassVar[str] = things.NAME
    asked: ClassVar[str] = "a triple file with --knowledge"

    facts: Facts = field(repr=False, compare=False)
    arm: str = ""
    max_entities: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, (Classification, TokenClassification)):
            raise KdzooError(f"facts go into sentences that are classified or tagged, and {self.name} is {self.kind}")
        if self.arm not in ARMS:
            raise unknown("arm", self.arm, [arm for arm in ARMS if arm])
        if self.arm == "random" and len(self.facts) < 2:
            raise KdzooError(
                f"{self.name}: the arm random gives a subject another's facts; it needs two subjects or more"
            )

    def identity(self) -> dict[str, Any]:
        told = {"facts": self.vocabulary_key, "arm": self.arm, "max_entities": self.max_entities}
        return {**self.inner.identity(), **told, **({"facts_seed": self.seed} if self.arm == "random" else {})}

    def in_arm(self, arm: str) -> WithKnowledge:
        """The same task in an arm, whose name goes on with the arm's."""
        return replace(self, name=f"{self.name}-{arm}", arm=arm) if arm else self

    @cached_property
    def vocabulary_key(self) -> str:
        # Their order counts: subjects that are one to a text share the first facts, and the arm random pairs by it.
        return hashing.of_values([*self.facts.items()])

    def texts(self, rows: Dataset) -> Iterator[str]:
        yield from self.inner.texts(rows)
        for subject, texts in self.facts.items():
            for text in texts:
                yield f"{subject} {text}"

    def describe(self) -> str:
        return f"{self.inner.describe().replace(self.inner.name, self.name, 1)}; {self.about()}"

    def about(self) -> str:
        """What there is beside the inner task, in words."""
        facts = sum(map(len, self.facts.values()))
        return f"{len(self.facts)} subjects with {facts} facts; {ARMS[self.arm]}"

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        if self.inner.name == things.NAME:
            return things.generate(split, rows, seed)
        return self.inner.synthetic(split, rows, seed)

    # --- models ---

    @property
    def apart(self) -> bool:
        return self.arm not in ("none", "both")

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        return ("position_ids", BRANCHES, UNITS, INDEX)

    def abilities(self, *, teacher: bool) -> tuple[str, ...]:
        if self.arm == "none" or not (teacher or self.arm == "both"):
            return ()
        needed = {"position_ids": self.arm != "flat", "pairs": self.arm != "blind"}
        return tuple(name for name, there in needed.items() if there)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        if self.arm == "both":
            return self.encode_for_teacher(rows, tokenizer, max_length).remove_columns(INDEX)
        return self.inner.encode(rows, tokenizer, max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return self.teacher_collator(tokenizer) if self.arm == "both" else self.inner.collator(tokenizer)

    def teacher_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        if self.arm == "none":
            return self.inner.collator(tokenizer)
        tagged = self.kind == "tokens"  # whose rows are padded on the right, and others as their tokenizer pads
        side = "right" if tagged else padding_side(tokenizer)
        padding: Any = tokenizer.pad_token_id
        return TreeCollator(padding or 0, tagged=tagged, index_side=side)

    def encode_for_teacher(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The students' rows with facts: tokens, soft positions, the tree, and `INDEX`, each student's token's place.

        Raises:
            KdzooError: the tokenizer does not say where in a text its tokens stand.
        """
        plain = self.inner.encode(rows, tokenizer, max_length)
        if self.arm == "none":
            return plain
        plant = self._planter(tokenizer, max_length)
        sentences = self._words(rows, plain, tokenizer, max_length)
        kept = [name for name in ("labels", "sample_ids", "unit_ids") if name in plain.column_names]
        typed = "token_type_ids" in plain.column_names
        made: dict[str, list[Any]] = {name: [] for name in ("input_ids", "length", INDEX)}
        branches = left_out = without = 0
        for number, (words, row) in enumerate(zip(sentences, plain, strict=True)):
            tree = plant(words)
            trunk = np.flatnonzero(np.asarray(tree.branches) == 0)
            if [tree.tokens[place] for place in trunk] != row["input_ids"]:
                raise KdzooError(f"{self.name}, row {number + 1}: its words are not what the tokenizer made of it")
            branches += len(set(tree.branches)) - 1
            left_out += tree.left_out
            without += tree.left_out > 0 and not any(tree.branches)
            made["input_ids"].append(tree.tokens)
            made["length"].append(len(tree.tokens))
            made[INDEX].append(trunk.tolist())
            for name, values in self._columns(tree).items():
                made.setdefault(name, []).append(values)
            # A fact has the segment of what it hangs on, and no label.
            own = np.cumsum(np.asarray(tree.branches) == 0) - 1
            if typed:
                made.setdefault("token_type_ids", []).append(np.asarray(row["token_type_ids"])[own].tolist())
            if self.kind == "tokens":
                marks = np.full(len(tree.tokens), IGNORED)
                marks[trunk] = row["labels"]
                made.setdefault("labels", []).append(marks.tolist())
        if line := self._about_room(len(rows), branches, left_out, without, max_length):
            warnings.warn(f"{self.name}: {line}", KdzooWarning, stacklevel=2)
        return self._as_rows(plain.select_columns(kept), made)

    def _about_room(self, rows: int, branches: int, left_out: int, without: int, max_length: int) -> str:
        """What is to be said where facts are missing."""
        if left_out:
            return (
                f"{left_out} of {branches + left_out} facts have no room in rows of --max-length {max_length}, and "
                f"{without} of {rows} rows lose all of theirs"
            )
        if branches or not rows:
            return ""
        if not self.max_entities:
            return "max_entities is 0, so that no fact goes in"
        return (
            f"none of {rows} rows names a subject of the triples, so that no fact goes in; the subjects are the first "
            "column of the triple file"
        )

    def _columns(self, tree: Tree) -> dict[str, list[int]]:
        """What of a tree the arm leaves."""
        found = {} if self.arm == "flat" else {"position_ids": tree.positions}
        return found if self.arm == "blind" else {**found, BRANCHES: tree.branches, UNITS: tree.units}

    def _as_rows(self, kept: Dataset, made: Mapping[str, list[Any]]) -> Dataset:
        from datasets import Dataset, Features, Sequence, Value

        columns = {**{name: kept[name][:] for name in kept.column_names}, **made}
        features = {**kept.features, **{name: Sequence(Value("int32")) for name in made}, "length": Value("int64")}
        return Dataset.from_dict(columns, features=Features({name: features[name] for name in columns}))

    def _planter(self, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Callable[[Sequence[str]], Tree]:
        cut, known = tokenizer_pieces(tokenizer), self._look_up

        @lru_cache(maxsize=1 << 16)
        def ids(word: str) -> tuple[int, ...]:
            found: Any = tokenizer.convert_tokens_to_ids(cut(word))
            return tuple(found)

        def pieces(word: str) -> Sequence[int]:
            return word.ids if isinstance(word, Word) else ids(word)

        return lambda words: grown(words, known, pieces, self.max_entities, max_length)

    @cached_property
    def _look_up(self) -> Facts:
        """By subjects as the rows' words would have them: cut at punctuation, and Chinese by character in tagged rows.

        Words that are given (tagged rows) may be cut or not, so that there a subject is known by both.
        """
        subjects = [*self.facts]
        texts = {subject: self.facts[subject] for subject in subjects}
        if self.arm == "random":
            order = np.random.default_rng(self.seed).permutation(len(subjects))
            # In a ring, so that none keeps its own.
            texts = {subjects[at]: self.facts[subjects[of]] for at, of in zip(order, np.roll(order, 1), strict=True)}
        found: dict[str, list[str]] = {}
        for subject, own in texts.items():
            forms = {subject, " ".join(WORD.findall(subject))}
            if self.kind == "tokens" and UNSPACED.search(subject):
                forms.add(" ".join("".join(subject.split())))
            for form in sorted(form for form in forms if form.split()):
                found.setdefault(form, []).extend(own)
        return Facts(found)

    def _words(
        self, rows: Dataset, plain: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Iterator[list[Word]]:
        """The words of each plain row with its special tokens, each with the tokens that it is there."""
        if self.kind == "tokens":
            yield from _of_tagged(rows["words"], plain, tokenizer)
            return
        if not getattr(tokenizer, "is_fast", False):
            raise KdzooError(
                f"{self.name}: facts need a fast tokenizer (tokenizer.json), which says where tokens stand"
            )
        texts = [rows[column] for column in self.columns]
        for of in zip(*texts, strict=True):
            encoded = tokenizer(*of, truncation=True, max_length=max_length, return_offsets_mapping=True)
            yield _of_text(of, encoded, self.facts)


class TreeCollator:
    """Makes a batch of rows with facts, padded on the right: a visible matrix is made of the columns of its trees.

    The attention mask is (B, 1, S, S), 0 where a token sees another and the least float32 elsewhere, the same for all
    heads, as transformers' implementations of attention add it; without the trees it is (B, S).

    Args:
        padding: the token that fills.
        tagged: whether labels stand by token.
        index_side: where the students' rows are padded, which `INDEX` is with them, with -1.
    """

    columns = (BRANCHES, UNITS, INDEX)

    def __init__(self, padding: int, *, tagged: bool = False, index_side: str = "right") -> None:
        self.padding, self.tagged, self.index_side = padding, tagged, index_side

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The model's inputs, ``labels`` and ``sample_ids``, and `INDEX`, where the rows have them."""
        import torch

        there = rows[0]
        batch = {"input_ids": _filled(rows, "input_ids", self.padding)}
        for name in (name for name in ("token_type_ids", "position_ids") if name in there):
            batch[name] = _filled(rows, name, 0)
        real = _filled([{"real": [1] * len(row["input_ids"])} for row in rows], "real", 0)
        if BRANCHES in there:
            seen = seen_by(_filled(rows, BRANCHES, 0), _filled(rows, UNITS, 0))
            seen &= (real[:, :, None] & real[:, None, :]).bool()
            hidden = torch.zeros(seen.shape).masked_fill_(~seen, torch.finfo(torch.float32).min)
            batch["attention_mask"] = hidden.unsqueeze(1)
        else:
            batch["attention_mask"] = real
        if INDEX in there:
            batch[INDEX] = _filled(rows, INDEX, -1, left=self.index_side == "left")
        if self.tagged and "labels" in there:
            batch["labels"] = _filled(rows, "labels", IGNORED)
        for column in ("sample_ids",) if self.tagged else ("labels", "sample_ids"):
            if column in there:
                batch[column] = torch.tensor([row[column] for row in rows])
        return batch


def _filled(rows: Sequence[Mapping[str, Any]], name: str, fill: int, *, left: bool = False) -> Tensor:
    """A column of lists as (B, S)."""
    import torch

    width = max(len(row[name]) for row in rows)
    values = ([fill] * (width - len(row[name])) for row in rows)
    both = ([*more, *row[name]] if left else [*row[name], *more] for more, row in zip(values, rows, strict=True))
    return torch.tensor(list(both))


def _of_text(texts: Sequence[str], encoded: Any, facts: Facts) -> list[Word]:
    """The words of one or two texts with the tokens that begin in each, special tokens by themselves."""
    spans = [[*_spans(text, facts)] for text in texts]
    starts = [[first for first, _ in found] for found in spans]
    parts: list[tuple[tuple[int, int] | None, list[int]]] = []
    for token, (first, end), of in zip(
        encoded["input_ids"], encoded["offset_mapping"], encoded.sequence_ids(), strict=True
    ):
        while of is not None and first < end and texts[of][first].isspace():
            first += 1  # some tokenizers count the blank before a word
        place = (
            None if of is None or not spans[of] or end <= first else (of, max(bisect_right(starts[of], first), 1) - 1)
        )
        if place is not None and parts and parts[-1][0] == place:
            parts[-1][1].append(token)
        else:
            parts.append((place, [token]))
    words = []
    for place, ids in parts:
        # What is no word of a text is never looked up: it stands as a special token does.
        first, end = (0, 0) if place is None else spans[place[0]][place[1]]
        words.append(Word.of(SEP if place is None else texts[place[0]][first:end], ids))
    return words


def _spans(text: str, facts: Facts) -> Iterator[tuple[int, int]]:
    """Where the words of a text begin and end; without spaces (Chinese) the longest subjects, else characters."""
    for found in WORD.finditer(text):
        if not UNSPACED.search(found[0]):
            yield found.span()
            continue
        at = found.start()
        for word in cut_words(found[0], facts):
            yield at, at + len(word)
            at += len(word)


def _of_tagged(
    sentences: Sequence[Sequence[str]], plain: Dataset, tokenizer: PreTrainedTokenizerBase
) -> Iterator[list[Word]]:
    """The words of each row of tagged sentences: a word's tokens begin where a label stands."""
    pieces = tokenizer_pieces(tokenizer)
    left: dict[int, Iterator[str]] = {}
    for row in plain.select_columns(["input_ids", "labels", "unit_ids"]):
        number = row["unit_ids"]
        if number not in left:
            left[number] = (word for word in sentences[number] if pieces(word))
        parts: list[list[int]] = []
        for token, label in zip(row["input_ids"][1:-1], row["labels"][1:-1], strict=True):
            if label != IGNORED:
                parts.append([])
            parts[-1].append(token)
        words = [Word.of(next(left[number]), ids) for ids in parts]
        yield [Word.of(CLS, row["input_ids"][:1]), *words, Word.of(SEP, row["input_ids"][-1:])]


def with_facts(inner: Task, path: str | os.PathLike[str], **told: Any) -> WithKnowledge:
    """A task with the facts of a triple file: predicate and object for classes, the object alone for tags.

    Args:
        inner: the task.
        path: see `kdzoo.tasks.knowledge.read_facts`.
        told: fields of `WithKnowledge`.

    Raises:
        KdzooError: names file and row, or what of the task cannot be.
    """
    found = read_facts(path, with_predicate=inner.kind != "tokens")
    return WithKnowledge(inner=inner, facts=found, **{"name": f"{inner.name}-kbert", **told})
