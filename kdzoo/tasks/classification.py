"""Tasks on one sentence or a pair of sentences: classes, several labels a row, or one or more numbers."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.base import Fold, Head
from kdzoo.tasks.cutting import cut_rows
from kdzoo.tasks.given import GivenRows
from kdzoo.tasks.padding import padding_side
from kdzoo.tasks.relation_scores import metric_of_labels

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

KINDS = {
    "classification": "single_label_classification",  # as transformers' configurations call them
    "multilabel": "multi_label_classification",
    "regression": "regression",
}
READ = "read:"  # before the names of a row's columns while it is encoded
DEFAULT_METRICS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {  # all of them, and the headline
    "classification": (("accuracy", "macro_f1", "matthews_correlation"), ("accuracy",)),
    "multilabel": (("micro_f1", "macro_f1", "accuracy"), ("micro_f1",)),
    "regression": (("pearson", "spearmanr", "mse", "mae", "r2"), ("pearson", "spearmanr")),
}


@dataclass(frozen=True)
class Classification(GivenRows):
    """A task on one sentence or a pair of sentences.

    Attributes:
        name: see `Task`.
        columns: the text columns, one or two.
        labels: the names of the classes, or of the labels a row may have, in the order of their ids; empty for numbers.
        metrics, headline: see `Task`; by default those of the kind.
        label_range: the lowest and highest number of a regression task, where it has any.
        validation_splits, test_split: see `Task`.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``; by default regression where there are no
            `labels`, and classification where there are.
        label_columns: the column of the label; of several numbers, theirs.
        separator: what parts a row's several labels where they are one text.
        fold: see `Task`.
        read: gives the rows by split, for a task that brings its own.
        parted: by split, the numbers of its rows in the training data as read, where that was parted into splits;
            what stands beside the data row by row, as roles do, is joined by them.

    Raises:
        KdzooError: for fields that do not go together.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()
    headline: tuple[str, ...] = ()
    label_range: tuple[float, float] | None = None
    validation_splits: tuple[str, ...] = ("validation",)
    kind: str = ""
    label_columns: tuple[str, ...] = ("label",)
    test_split: str | None = None
    separator: str = "|"
    fold: Fold | None = None
    read: Callable[[], Mapping[str, Dataset]] | None = field(default=None, repr=False, compare=False)
    parted: Mapping[str, Sequence[int]] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        from kdzoo.tasks.metrics import BINARY, get_metric

        kind = self.kind or ("classification" if self.labels else "regression")
        if kind not in KINDS:
            raise unknown("kind of task", kind, KINDS)
        if not 1 <= len(self.columns) <= 2:
            raise KdzooError(f"{self.name} has {len(self.columns)} text columns; a task has one or two")
        if (kind == "regression") == bool(self.labels):
            raise KdzooError(
                f"{self.name} is {kind}: " + ("numbers have no labels" if self.labels else "name its labels")
            )
        if kind == "classification" and len(self.labels) < 2:
            raise KdzooError(f"{self.name} has one class, {self.labels[0]!r}; it needs two or more")
        if len(set(self.labels)) < len(self.labels):
            raise KdzooError(f"{self.name} names a label twice: {', '.join(self.labels)}")
        if kind != "regression" and len(self.label_columns) != 1:
            raise KdzooError(f"{self.name} is {kind} and has {len(self.label_columns)} label columns; it has one")
        twice = [c for c in self.fields if self.fields.count(c) > 1]
        if twice:
            raise KdzooError(f"{self.name} names the column {twice[0]!r} twice, as text or label; name each once")
        metrics, headline = DEFAULT_METRICS[kind]
        if kind == "classification":
            for name in ("metrics", "headline"):
                told = tuple(metric_of_labels(metric, self.labels) for metric in getattr(self, name))
                object.__setattr__(self, name, told)
        if self.metrics or self.headline:
            metrics = tuple(dict.fromkeys((*self.metrics, *self.headline)))
            headline = self.headline or tuple(m for m in metrics if get_metric(m, kind).greater_is_better)
        for name in metrics:
            get_metric(name, kind)
        worse = [name for name in headline if not get_metric(name, kind).greater_is_better]
        if worse or not headline:
            errors = ", ".join(worse or metrics)
            raise KdzooError(
                f"{self.name}: {errors} is an error, and less is better; name a metric for the score too, such as r2"
            )
        of_two = [name for name in metrics if name in BINARY]
        if kind == "classification" and of_two and len(self.labels) != 2:
            raise KdzooError(
                f"{of_two[0]} is of two classes, and {self.name} has {len(self.labels)}; take macro_f1 or weighted_f1, "
                f"or relation_f1:{self.labels[0]} of chosen classes"
            )
        for name, value in (("kind", kind), ("metrics", metrics), ("headline", headline)):
            object.__setattr__(self, name, value)

    @property
    def regression(self) -> bool:
        """Whether numbers are predicted, not classes."""
        return self.kind == "regression"

    @property
    def num_labels(self) -> int:
        """The width C of the model's logits: the number of classes or labels, or of the numbers to predict."""
        return len(self.label_columns) if self.regression else len(self.labels)

    @property
    def fields(self) -> tuple[str, ...]:
        return (*self.columns, *self.label_columns)

    def identity(self) -> dict[str, Any]:
        more = {"labels": list(self.labels), "label_columns": list(self.label_columns)}
        return {**super().identity(), **more}

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Any]:
        from kdzoo.tasks.synthetic import grammar

        if self.name not in grammar.GRAMMARS:
            return super().synthetic(split, rows, seed)
        return grammar.generate(self.name, split, rows, seed)

    def head(self) -> Head:
        config: dict[str, Any] = {"num_labels": self.num_labels, "problem_type": KINDS[self.kind]}
        if self.labels:
            config["id2label"] = dict(enumerate(self.labels))
            config["label2id"] = {label: index for index, label in enumerate(self.labels)}
        return Head("AutoModelForSequenceClassification", config)

    # --- rows ---

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        parsed: dict[str, Any] = {}
        for column in self.columns:
            if not isinstance(row[column], str):
                raise KdzooError(f"column {column!r}: expected text, got {row[column]!r}")
            parsed[column] = row[column]
        for column in self.label_columns:
            try:
                parsed[column] = self.parse_label(row[column])
            except KdzooError as error:
                raise KdzooError(f"column {column!r}: {error}") from None
        return parsed

    def parse_label(self, value: object) -> Any:
        """The label: a class's id, a list of 0 and 1 by label, or a number.

        Args:
            value: an id, a number, either of them as text, or a label's name; of several labels a list of names or
                ids, or one text with the names parted by the `separator`.

        Raises:
            KdzooError: the value is none of the task's labels; the message names the valid ones.
        """
        if is_missing(value):
            if self.kind == "multilabel" and isinstance(value, str):
                return [0] * len(self.labels)
            raise KdzooError(f"the row has no label, which {self.name} needs")
        if self.kind == "multilabel":
            return self._several(value)
        if self.regression:
            return self._number(value)
        return self.class_of(value)

    def _number(self, value: object) -> float:
        number = as_number(value)
        low, high = self.label_range or (-math.inf, math.inf)
        if math.isfinite(number) and low <= number <= high:
            return number
        form = "a number" if self.label_range is None else f"a number from {low:g} to {high:g}"
        raise KdzooError(f"label {value!r} is not {form}, as {self.name} needs")

    def class_of(self, value: object) -> int:
        """The id of one class or label, from its name or, where the names are no numbers, from its id.

        Raises:
            KdzooError: there is none; the message names the valid ones.
        """
        # A name counts for more than an id: labels may be called "2" and "1".
        name, number = as_name(value), as_number(value)
        if name in self.labels:
            return self.labels.index(name)
        if self.ids_count and number in range(len(self.labels)):
            return int(number)
        equal = [index for index, label in enumerate(self.labels) if as_number(label) == number]  # "1.0" is 1
        if equal:
            return equal[0]
        raise KdzooError(f"label {value!r} is none of {self.name}'s: {self._valid()}")

    @property
    def ids_count(self) -> bool:
        """Whether a number may stand for a class: not where the names themselves are numbers."""
        return not any(math.isfinite(as_number(label)) for label in self.labels)

    def _valid(self) -> str:
        shown = [f"{i} ({label})" if self.ids_count else label for i, label in enumerate(self.labels[:20])]
        return ", ".join(shown) + (f" and {len(self.labels) - 20} more" if len(self.labels) > 20 else "")

    def _several(self, value: object) -> list[int]:
        if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
            with suppress(ValueError, RecursionError):  # a list, as a table of text has it
                value = json.loads(value)
        names = [part.strip() for part in value.split(self.separator)] if isinstance(value, str) else value
        if not isinstance(names, (list, tuple, np.ndarray)):
            raise KdzooError(f"labels {value!r} are neither a list nor a text separated by {self.separator!r}")
        marked = [0] * len(self.labels)
        for name in names:
            marked[self.class_of(name)] = 1
        return marked

    def features(self) -> Any:
        from datasets import ClassLabel, Features, Sequence, Value

        features: dict[str, Any] = {column: Value("string") for column in self.columns}
        for column in self.label_columns:
            if self.kind == "classification":
                features[column] = ClassLabel(names=list(self.labels))
            else:
                features[column] = Value("float32") if self.regression else Sequence(Value("int8"), len(self.labels))
        return Features(features)

    def value_feature(self) -> Any:
        """The feature of one prediction."""
        from datasets import Sequence, Value

        one = Value("float64" if self.regression or self._takes_scores else "int64")
        return Sequence(one) if self.kind == "multilabel" or (self.regression and self.num_labels > 1) else one

    # --- models ---

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """See `Task.encode`; pairs are cut from their longer side."""

        def encoded(batch: dict[str, list[Any]], numbers: list[int]) -> dict[str, Any]:
            batch = {column.removeprefix(READ): values for column, values in batch.items()}
            inputs = tokenizer(*(batch[column] for column in self.columns), truncation=True, max_length=max_length)
            length = [len(ids) for ids in inputs["input_ids"]]
            return {**inputs, "labels": self.labels_of(batch), "sample_ids": numbers, "length": length}

        # Whatever a user's columns are called, none is taken for one that is made here, whose type it then would have.
        rows = rows.rename_columns({column: READ + column for column in rows.column_names})
        return rows.map(
            encoded, batched=True, with_indices=True, remove_columns=rows.column_names, desc=f"tokenize {self.name}"
        )

    def about_length(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
        return cut_rows(rows, self.columns, tokenizer, max_length)

    def labels_of(self, batch: Mapping[str, list[Any]]) -> list[Any]:
        """The labels of rows as a model takes them, from their columns."""
        if self.kind == "multilabel":
            return [[float(mark) for mark in marks] for marks in batch[self.label_columns[0]]]
        if len(self.label_columns) == 1:
            return batch[self.label_columns[0]]
        return [list(values) for values in zip(*(batch[column] for column in self.label_columns), strict=True)]

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """See `Task.collator`; ``labels`` are (B,), or (B, C) of several labels or numbers."""
        return partial(_collate, tokenizer)

    # --- scores ---

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> np.ndarray:
        """Class ids (N,), several labels (N, C) as 0 and 1, or numbers (N,) or (N, K), from logits (N, C).

        Where a metric takes scores, the probabilities (N, C) instead.
        """
        logits = np.asarray(outputs)
        if logits.ndim != 2 or logits.shape[1] != self.num_labels:
            raise KdzooError(f"{self.name} needs logits of shape (N, {self.num_labels}), got {logits.shape}")
        if self.regression:
            return logits[:, 0] if self.num_labels == 1 else logits
        if self.kind == "multilabel":
            return 1 / (1 + np.exp(-logits.astype(float))) if self._takes_scores else (logits >= 0).astype(int)
        if not self._takes_scores:
            return np.asarray(logits.argmax(axis=1))
        grown = np.exp(logits.astype(float) - logits.max(1, keepdims=True))
        return np.asarray(grown / grown.sum(1, keepdims=True))

    @property
    def _takes_scores(self) -> bool:
        """Whether probabilities are predicted, which a metric needs."""
        from kdzoo.tasks.metrics import get_metric

        return any(get_metric(name, self.kind).takes_scores for name in self.metrics)

    def references(self, rows: Dataset) -> np.ndarray:
        return np.asarray(rows["labels"][:])

    def constant(self, train: Dataset, references: Any) -> np.ndarray:
        """The larger class of the training rows, the labels that most of them have, or their mean, for every row."""
        labels = np.asarray(train["labels"][:])
        if self.kind == "classification":
            guess: Any = np.bincount(labels.astype(int), minlength=self.num_labels).argmax()
            if self._takes_scores:
                return np.tile(np.eye(self.num_labels)[guess], (len(references), 1))
        else:
            guess = labels.mean(0) if self.regression else (labels.mean(0) >= 0.5).astype(int)
        return np.broadcast_to(guess, np.shape(references)).copy()

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """See `Task.held_out`; stratified by class, by set of labels, or by tenths of the number."""
        from kdzoo.tasks.splitting import held_out

        return held_out(rows, self, seed)

    def one_class(self, predictions: Any) -> bool:
        from kdzoo.tasks.metrics import decided

        return not self.regression and super().one_class(decided(self.kind, predictions))

    def describe(self) -> str:
        from kdzoo.tasks.metric_words import shown

        what = {
            "classification": f"{len(self.labels)} classes",
            "multilabel": f"{len(self.labels)} labels, several a row",
            "regression": "a number" if self.num_labels == 1 else f"{self.num_labels} numbers a row",
        }[self.kind]
        names = ", ".join(self.labels[:8]) + (", ..." if len(self.labels) > 8 else "")
        columns = f"{' and '.join(self.columns)} to {' and '.join(self.label_columns)}"
        others = [shown(name, self.metrics) for name in self.metrics if name not in self.headline]
        measured = f"scored by {' and '.join(shown(name, self.metrics) for name in self.headline)}"
        measured += f"; also {', '.join(others)}" if others else ""
        return f"{self.name}: {columns}, {what}" + (f" ({names})" if names else "") + f"; {measured}"


def as_number(value: object) -> float:
    """A value as a number, NaN where it is none."""
    if isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and "_" in value:
        return math.nan  # which Python would take for a number's digits in groups
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        return math.nan


def as_name(value: object) -> str:
    """How a label is called: 2, 2.0 and "2" are one, and blanks around it do not count."""
    number = as_number(value)
    if not isinstance(value, (str, bool)) and math.isfinite(number) and number.is_integer():
        return str(int(number))
    return str(value).strip()


def is_missing(value: object) -> bool:
    """Whether a row has no label there: nothing, blanks or NaN."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and math.isnan(value))


def _collate(tokenizer: PreTrainedTokenizerBase, rows: list[dict[str, Any]]) -> dict[str, Any]:
    # The length served the sampler; no model takes it.
    kept = [{key: value for key, value in row.items() if key != "length"} for row in rows]
    return dict(tokenizer.pad(kept, padding_side=padding_side(tokenizer), return_tensors="pt"))
