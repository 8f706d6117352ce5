"""A task whose teacher joins words with semantic roles (SemBERT), and whose students read the words alone.

Source: Zhang et al. (2020), SemBERT. That a plain student learns from such a teacher is not in the paper.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.base import Task
from kdzoo.tasks.classification import Classification
from kdzoo.tasks.pieces import SEP, token_ids, tokenizer_pieces
from kdzoo.tasks.reading import find_file
from kdzoo.tasks.roles import TAGS, TaggedRow, align, check_words, read_roles, tag_ids
from kdzoo.tasks.synthetic import agents
from kdzoo.tasks.wrapped import Wrapped

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

ARMS = {  # how the task's name goes on, and what it is
    "": "the teacher reads the roles",
    "none": "the teacher reads no roles: all tags are O",
    "shuffled": "the teacher reads the roles of other rows",
}
ROLES = "roles"  # the column: for each text, its words and the tags of its predicates, as JSON
SPANS, TAG_ROWS = "word_spans", "role_tags"  # what the teacher is given, by its own names
SUFFIXES = (".jsonl", ".json")


@dataclass(frozen=True)
class WithRoles(Wrapped):
    """A classification whose rows bring semantic roles. Both models read the pieces of the labeller's words.

    Attributes:
        arm: which of `ARMS`.
        max_verbs: how many rows of tags a sentence has.
        variant: of the teacher, see `kdzoo.models.sembert.SemBertConfig`.
        seed: of the rows' new order in the arm ``"shuffled"``.
        source: where the roles are from, in the words of their file.

    Raises:
        KdzooError: for a task of another kind, or an unknown arm.
    """

    made: ClassVar[str] = agents.NAME
    asked: ClassVar[str] = "its files of roles with --roles"
    # At 1e-3 the convolution's ReLU may die in a teacher from scratch, which then answers one class.
    quickstart: ClassVar[Mapping[str, Any]] = {"teacher_budget": {"learning_rate": 5e-4}}

    arm: str = ""
    max_verbs: int = 3
    variant: str = "paper"
    seed: int = 0
    source: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.inner, Classification):
            raise KdzooError(
                f"roles are joined with words of texts that are classified, and {self.name} is {self.kind}"
            )
        if self.arm not in ARMS:
            raise unknown("arm", self.arm, [arm for arm in ARMS if arm])

    def identity(self) -> dict[str, Any]:
        told = {"roles": self.arm or "read", "max_verbs": self.max_verbs, "variant": self.variant}
        return {**self.inner.identity(), **told, **({"roles_seed": self.seed} if self.arm == "shuffled" else {})}

    def in_arm(self, arm: str) -> WithRoles:
        """The same task in an arm, whose name goes on with the arm's."""
        return replace(self, name=f"{self.name}-{arm}", arm=arm) if arm else self

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        if self.inner.name != agents.NAME:
            raise KdzooError(f"there are no synthetic roles for {self.inner.name}; give --data and --roles")
        return agents.generate(split, rows, seed)

    def describe(self) -> str:
        source = f" ({self.source})" if self.source and self.arm != "none" else ""
        return f"{self.inner.describe().replace(self.inner.name, self.name, 1)}; {ARMS[self.arm]}{source}"

    # --- rows ---

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.inner.fields, ROLES)

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """See `Task.parse`; the roles must be for the words of the row's own texts."""
        parsed = self.inner.parse(row)
        try:
            sentences = json.loads(row[ROLES])
            words = [one["words"] for one in sentences]
        except (TypeError, ValueError, KeyError):
            raise KdzooError(
                f"column {ROLES!r}: expected JSON of words and verbs a text, got {row[ROLES]!r:.60}"
            ) from None
        if len(words) != len(self.columns):
            raise KdzooError(f"column {ROLES!r}: roles of {len(words)} texts, and the row has {len(self.columns)}")
        for column, own in zip(self.columns, words, strict=True):
            check_words(own, parsed[column], f"column {column!r}")
        return {**parsed, ROLES: row[ROLES]}

    def features(self) -> Any:
        from datasets import Value

        found = self.inner.features()
        found[ROLES] = Value("string")
        return found

    # --- models ---

    @property
    def fusion(self) -> dict[str, Any]:
        return {"roles": len(TAGS), "role_rows": self.max_verbs, "variant": self.variant}

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        return (SPANS, TAG_ROWS)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; ``word_spans`` and ``role_tags``, the teacher's, stand beside the tokens of both."""
        from datasets import Dataset

        pieces = tokenizer_pieces(tokenizer)
        given = [json.loads(roles) for roles in rows[ROLES][:]]
        typed = "token_type_ids" in tokenizer.model_input_names
        made: dict[str, list[Any]] = {name: [] for name in ("input_ids", "attention_mask", SPANS, TAG_ROWS)}
        for number, sentences in enumerate(given):
            own = [(one["words"], self._verbs(given, number, at)) for at, one in enumerate(sentences)]
            first, *second = own
            row = align(*first, pieces, max_length, self.max_verbs, pair=second[0] if second else None)
            size = len(row.tokens)
            made["input_ids"].append(token_ids(row.tokens, tokenizer))
            made["attention_mask"].append([1] * size)
            if typed:
                end = row.word_spans[row.tags[0].index(SEP)][0]
                made.setdefault("token_type_ids", []).append([int(at > end) for at in range(size)])
            made[SPANS].append([[*span] for span in row.word_spans])
            made[TAG_ROWS].append(tag_ids(row.tags))
        made["labels"] = self._classification.labels_of(rows[:])
        made["sample_ids"] = [*range(len(rows))]
        made["length"] = [len(ids) for ids in made["input_ids"]]
        return Dataset.from_dict(made)

    @property
    def _classification(self) -> Classification:
        assert isinstance(self.inner, Classification)
        return self.inner

    @cached_property
    def _ring(self) -> dict[int, np.ndarray]:
        return {}

    def _verbs(self, given: Sequence[Sequence[Mapping[str, Any]]], row: int, text: int) -> list[Mapping[str, Any]]:
        """A text's predicates in the arm: its own, none, or those of another row, cut or filled with O."""
        if self.arm == "none":
            return []
        if self.arm != "shuffled":
            own: list[Mapping[str, Any]] = given[row][text]["verbs"]
            return own
        count, size = len(given), len(given[row][text]["words"])
        if count not in self._ring:
            # In a ring, so that no row keeps its own.
            order = np.random.default_rng(self.seed).permutation(count)
            self._ring[count] = np.empty(count, np.int64)
            self._ring[count][order] = np.roll(order, 1)
        others = given[self._ring[count][row]][text]["verbs"]
        return [{"tags": [*verb["tags"][:size], *["O"] * (size - len(verb["tags"]))]} for verb in others]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``word_spans`` are (B, S, 2), -1 after the last word, and ``role_tags`` (B, m, S)."""
        return RoleCollator(self.inner.collator(tokenizer))


@dataclass(frozen=True)
class RoleCollator:
    """Makes a batch of rows with roles, which are padded as far as the tokens, so that a row is the same in any batch.

    Attributes:
        tokens: the collator of all else.
    """

    tokens: Callable[[list[dict[str, Any]]], dict[str, Any]]

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """A batch; padding has to be on the right, by which places are counted."""
        import torch

        plain = [{name: value for name, value in row.items() if name not in (SPANS, TAG_ROWS)} for row in rows]
        batch = self.tokens(plain)
        if SPANS not in rows[0]:
            return batch
        width = batch["input_ids"].shape[1]
        if "attention_mask" in batch and not bool(batch["attention_mask"][:, 0].all()):
            raise KdzooError("roles need a tokenizer that pads on the right: where a word's pieces stand is counted")
        spans = torch.full((len(rows), width, 2), -1)
        tags = torch.zeros(len(rows), len(rows[0][TAG_ROWS]), width, dtype=torch.long)
        for number, row in enumerate(rows):
            spans[number, : len(row[SPANS])] = torch.tensor(row[SPANS])
            tags[number, :, : len(row[SPANS])] = torch.tensor(row[TAG_ROWS])
        return {**batch, SPANS: spans, TAG_ROWS: tags}


def with_roles(inner: Task, path: str | os.PathLike[str], rows: Callable[[], Mapping[str, Dataset]]) -> WithRoles:
    """A task with the roles of a folder's files, ``NAME.SPLIT.jsonl`` or ``SPLIT.jsonl``, plain or gzipped.

    Args:
        inner: the task.
        path: the folder; each of its files has one line a row, in the rows' order (`kdzoo.tasks.roles.read_roles`).
        rows: gives the task's rows by split.
    """
    told = partial(_joined, inner, Path(path), rows)
    return WithRoles(f"{inner.name}-sembert", inner, read=told, source=_source(inner, Path(path)))


def _source(inner: Task, folder: Path) -> str:
    """Where the roles are from, as the first row of a file says: dependency-derived ones (``kdzoo tag``) say so."""
    file = _file_of(_file_name(inner, _parted(inner, folder)), folder, "train")
    said = read_roles(file)[0].source if file is not None else None
    return said if isinstance(said, str) else ""


def _file_of(name: str, folder: Path, split: str) -> Path | None:
    return find_file(folder, f"{name}.{split}", split, suffixes=SUFFIXES)


def _parted(inner: Task, folder: Path) -> Mapping[str, Sequence[int]]:
    """How the training data was parted into splits, where one file of roles is for all of it; else nothing.

    ``kdzoo tag`` writes a file for each split that a task has in the end, which is read as it is.
    """
    if not isinstance(inner, Classification) or not inner.parted:
        return {}
    each = all(_file_of(inner.name, folder, split) is not None for split in inner.parted)
    return {} if each else inner.parted


def _file_name(inner: Task, parted: Mapping[str, Sequence[int]]) -> str:
    """The task's name in those of its files; one file for all rows is called after all folds together."""
    return inner.fold.whole(inner.name) if parted and inner.fold is not None else inner.name


def _joined(inner: Task, folder: Path, rows: Callable[[], Mapping[str, Dataset]]) -> dict[str, Dataset]:
    """The rows of each split with their roles.

    Raises:
        KdzooError: names file and row: a file or rows are missing, or roles are for other words.
    """
    splits, parted = dict(rows()), _parted(inner, folder)
    name = _file_name(inner, parted)
    # Roles are for the rows as they were read, before any were held out of training or divided into folds.
    read = {"train": _put_together(splits, parted)} if parted else {}
    read |= {split: own for split, own in splits.items() if split not in parted}
    found = {split: _with_file(inner, name, folder, split, own) for split, own in read.items()}
    return {split: found["train"].select(parted[split]) if split in parted else found[split] for split in splits}


def _put_together(splits: Mapping[str, Dataset], parted: Mapping[str, Sequence[int]]) -> Dataset:
    """The rows that were parted, in their order before."""
    from datasets import concatenate_datasets

    numbers = np.concatenate([np.asarray(of, dtype=int) for of in parted.values()])
    return concatenate_datasets([splits[split] for split in parted]).select(np.argsort(numbers))


def _with_file(inner: Task, name: str, folder: Path, split: str, own: Dataset) -> Dataset:
    """A split's rows with the roles of its file, in whose name the task is called `name`.

    Raises:
        KdzooError: see `_joined`.
    """
    from kdzoo.tasks.sources.rows import checked, columns_of

    file = _file_of(name, folder, split)
    if file is None:
        raise KdzooError(f"{folder} has no roles for {split}; it needs {name}.{split}.jsonl or {split}.jsonl")
    tagged = read_roles(file)
    if len(tagged) != len(own):
        raise KdzooError(f"{file}: {len(tagged)} rows of roles, and {name} has {len(own)} in {split}")
    columns = {**columns_of(own, own.column_names), ROLES: [_as_json(row) for row in tagged]}
    return checked(WithRoles(inner.name, inner), str(file), columns)


def _as_json(row: TaggedRow) -> str:
    kept = [{"words": one.words, "verbs": [{"tags": verb["tags"]} for verb in one.verbs]} for one in row.sentences]
    return json.dumps(kept, ensure_ascii=False)
