"""Tasks with a tag for every word (NER): a tag stands at a word's first piece, and entities are scored by sentence."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.tasks import tokens
from kdzoo.tasks.base import Columns, Head
from kdzoo.tasks.bio import check_tags
from kdzoo.tasks.given import GivenRows
from kdzoo.tasks.padding import RightPadded
from kdzoo.tasks.pieces import IGNORED, token_ids, tokenizer_pieces
from kdzoo.tasks.reading import find_file, numbered_lines

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase

METRICS = ("entity_f1", "precision", "recall", "macro_f1")
FILES = {  # what a split's file may be called
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "devel", "eval"),
    "test": ("test",),
}
SUFFIXES = (".tsv", ".txt", ".conll", ".iob", ".iob2", ".bio")


@dataclass(frozen=True)
class TokenClassification(GivenRows):
    """A task with a BIO tag for every word of a sentence.

    A word's tag stands at its first piece; its other pieces and the special tokens have none. A sentence that is too
    long is cut between words into several rows, which are joined again before they are scored. A word of which the
    tokenizer leaves nothing is left out of both sides.

    Attributes:
        name: see `Task`.
        labels: the tags, in the order of their ids.
        metrics, headline: see `Task`; by default precision, recall and F1 of entities, `kdzoo.tasks.metrics.entity_f1`.
        validation_splits, test_split: see `Task`.
        entity: the type of tags that name none, where a file has such: with ``"Disease"``, B is read as B-Disease.
        read: gives the rows by split, for a task that brings its own.

    Raises:
        KdzooError: for labels that are no BIO tags, or fewer than two.
    """

    name: str
    labels: tuple[str, ...]
    metrics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    validation_splits: tuple[str, ...] = ("validation",)
    test_split: str | None = None
    entity: str | None = None
    columns: tuple[str, ...] = ("words",)
    kind: str = "tokens"
    read: Callable[[], Mapping[str, Dataset]] | None = field(default=None, repr=False, compare=False)
    unit: ClassVar[str] = "sentence"
    fixed_words: ClassVar[str] = "labels at its words, and exchanged words shift them"

    def __post_init__(self) -> None:
        check_tags(self.labels, f"the labels of {self.name}")
        if len(self.labels) < 2 or len(set(self.labels)) < len(self.labels):
            raise KdzooError(f"{self.name} has the tags {', '.join(self.labels) or 'none'}; two or more, each once")
        self._choose_metrics(METRICS)

    @property
    def fields(self) -> tuple[str, ...]:
        return ("words", "tags")

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "labels": list(self.labels), "entity": self.entity}

    def texts(self, rows: Dataset) -> Iterator[str]:
        return (" ".join(words) for words in rows["words"][:])

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        from kdzoo.tasks.synthetic import entities

        if self.name != entities.NAME:
            return super().synthetic(split, rows, seed)
        return entities.generate(split, rows, seed)

    # --- rows ---

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        words, tags = row["words"], row["tags"]
        for name, values in (("words", words), ("tags", tags)):
            if not isinstance(values, (list, tuple, np.ndarray)) or not len(values):
                raise KdzooError(f"column {name!r}: expected a list of texts, got {values!r}")
        if len(words) != len(tags):
            raise KdzooError(f"{len(tags)} tags and {len(words)} words; every word needs one")
        odd = [word for word in words if not isinstance(word, str)]
        if odd:
            raise KdzooError(f"column 'words': expected text, got {odd[0]!r}")
        check_tags(tags, "column 'tags'")
        if self.entity:
            tags = [f"{tag}-{self.entity}" if tag in ("B", "I") else tag for tag in tags]
        for position, tag in enumerate(tags, 1):
            if tag not in self.labels:
                known = f"{self.name}'s tags: {self._valid()}"
                raise KdzooError(f"column 'tags', word {position}: {tag!r} is none of {known}")
        return {"words": list(words), "tags": list(tags)}

    def _valid(self) -> str:
        return ", ".join(self.labels[:20]) + (f" and {len(self.labels) - 20} more" if len(self.labels) > 20 else "")

    def features(self) -> Any:
        from datasets import Features, Sequence, Value

        return Features({"words": Sequence(Value("string")), "tags": Sequence(Value("string"))})

    def files(self, folder: Path, split: str) -> Columns | None:
        """A split's sentences from a CoNLL file, or one with a sentence a line (`kdzoo.tasks.tokens`)."""
        path = find_file(folder, *FILES.get(split, (split,)), suffixes=SUFFIXES)
        return None if path is None else Columns(str(path), partial(sentences, path, self.entity))

    def adapted(self, source: str) -> TokenClassification:
        """With the tags of the data's training rows, and its test split; registered tasks are made for any data.

        Raises:
            KdzooError: a file cannot be read.
        """
        from kdzoo.tasks.synthetic import entities

        if self.read is not None:
            return self
        if source == "synthetic":
            return replace(self, labels=entities.TAGS, test_split=None) if self.name == entities.NAME else self
        folder = Path(source) / self.name
        train = self.files(folder, "train") if folder.is_dir() else None
        if train is None:
            return self
        test = "test" if self.files(folder, "test") else None
        return replace(self, labels=tags_of(train.read()["tags"], train.origin), test_split=test)

    def check_rows(self, split: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        """See `Task.check_rows`; sentences are counted whose entities the strict score does not see."""
        if split == "train" or "strict_f1" not in self.metrics:
            return
        tags = rows["tags"][:]
        if opened := sum(map(tokens.opens_with_i, tags)):
            warnings.warn(
                f"{self.name}: in {opened} of {len(tags)} {split} sentences an I opens an entity, as in IOB1, which "
                "strict_f1 takes for none; write B there, or take entity_f1",
                KdzooWarning,
                stacklevel=2,
            )

    # --- models ---

    def head(self) -> Head:
        names = dict(enumerate(self.labels))
        by_name = {label: index for index, label in names.items()}
        config = {"num_labels": len(self.labels), "id2label": names, "label2id": by_name}
        return Head("AutoModelForTokenClassification", config)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; a sentence is one row or several, whose ``unit_ids`` are its number."""
        from datasets import Features, Sequence, Value

        pieces = tokenizer_pieces(tokenizer)
        ids = {label: index for index, label in enumerate(self.labels)}
        names = [name for name in ("attention_mask", "token_type_ids") if name in tokenizer.model_input_names]

        def encoded(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            made: dict[str, list[Any]] = {name: [] for name in ("input_ids", *names, "labels", "unit_ids", "length")}
            for words, tags, number in zip(batch["words"], batch["tags"], numbers, strict=True):
                for row in tokens.rows(words, [ids[tag] for tag in tags], pieces, max_length):
                    size = len(row.tokens)
                    made["input_ids"].append(token_ids(row.tokens, tokenizer))
                    made["labels"].append(row.labels)
                    for name in names:
                        made[name].append([int(name == "attention_mask")] * size)
                    made["unit_ids"].append(number)
                    made["length"].append(size)
            return made

        by_token = ("input_ids", *names, "labels")
        features = {name: Sequence(Value("int32")) for name in by_token}
        features |= {name: Value("int64") for name in ("unit_ids", "length")}
        made = rows.map(
            encoded,
            batched=True,
            with_indices=True,
            remove_columns=rows.column_names,
            features=Features(features),
            desc=f"tokenize {self.name}",
        )
        if not len(made):
            raise KdzooError(f"{self.name}: the tokenizer leaves nothing of any sentence")
        return made.add_column("sample_ids", np.arange(len(made)))

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``labels`` are (B, S), -100 where none counts."""
        return RightPadded(tokenizer, {"labels": IGNORED}, ("sample_ids",))

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        found: Tensor = batch["labels"] != IGNORED
        return found

    # --- scores ---

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> list[list[str]]:
        """The tags of each sentence, from logits (N, S, C)."""
        logits = np.asarray(outputs)
        if rows is None or logits.ndim != 3 or logits.shape[::2] != (len(rows), len(self.labels)):
            raise KdzooError(f"{self.name} needs its rows and logits (N, S, {len(self.labels)}), got {logits.shape}")
        return self._joined(rows, logits.argmax(-1).tolist())

    def references(self, rows: Dataset) -> list[list[str]]:
        return self._joined(rows, rows["labels"][:])

    def _joined(self, rows: Dataset, ids: Sequence[Sequence[int]]) -> list[list[str]]:
        """The names of tags by sentence, from their ids by token."""
        marks = rows["labels"][:]
        found = [tokens.labelled(labels, values) for labels, values in zip(marks, ids, strict=True)]
        return [[self.labels[tag] for tag in tags] for tags in tokens.join(rows["unit_ids"][:], found)]

    def constant(self, train: Dataset, references: Any) -> list[list[str]]:
        """The tag that most training words have, for every word."""
        times = Counter(label for labels in train["labels"][:] for label in labels if label != IGNORED)
        usual = self.labels[times.most_common(1)[0][0]]
        return [[usual] * len(tags) for tags in references]

    def one_class(self, predictions: Any) -> bool:
        return len(predictions) > 1 and len(set(chain.from_iterable(predictions))) == 1

    def describe(self) -> str:
        types = list(dict.fromkeys(tag[2:] or "one type without a name" for tag in self.labels if tag != "O"))
        shown = ", ".join(types[:8]) + (", ..." if len(types) > 8 else "")
        others = [name for name in self.metrics if name not in self.headline]
        measured = f"scored by {' and '.join(self.headline)}" + (f"; also {', '.join(others)}" if others else "")
        return f"{self.name}: a tag for every word, {len(self.labels)} tags ({shown}); {measured}"


def sentences(path: Path, entity: str | None = None) -> dict[str, list[Any]]:
    """A file's ``words`` and ``tags``: CoNLL's form, or a sentence a line under the header ``text_a`` and ``label``.

    Raises:
        KdzooError: names file and row.
    """
    header = next(numbered_lines(path), (1, ""))[1].split("\t")
    by_line = {"text_a", "label"} <= set(header)
    found = tokens.read_tagged_lines(path) if by_line else tokens.read_conll(path, entity)
    return {"words": [sentence.words for sentence in found], "tags": [sentence.tags for sentence in found]}


def tags_of(found: Iterable[Sequence[str]], where: str) -> tuple[str, ...]:
    """O, and B and I of every type that the tags name, by the alphabet.

    Args:
        found: the tags of each sentence.
        where: they are from, which a message begins with.

    Raises:
        KdzooError: all are O, as where a line's last column is not its tag.
    """
    types = sorted({tag[1:] for tags in found for tag in tags if tag != "O"})
    if not types:
        raise KdzooError(f"{where}: every tag is O, so that there is no entity to learn")
    return ("O", *(f"{mark}{of}" for of in types for mark in "BI"))
