"""Task: all that kdzoo knows of a task, in one place.

A caller goes through the methods of `Task` only, so that a task of another kind (labels by token, candidates to rank)
is a subclass that overrides them, and no caller changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import numpy as np

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase


class Head(NamedTuple):
    """What a model has on top for a task.

    Attributes:
        auto_class: the class of transformers that loads such a model, ``"AutoModelForSequenceClassification"``.
        config: the fields of its configuration that the task decides.
    """

    auto_class: str
    config: dict[str, Any]


class Columns(NamedTuple):
    """What reads a split: from which file, and how to get its columns."""

    origin: str
    read: Callable[[], Mapping[str, Sequence[Any]]]


@dataclass(frozen=True)
class Fold:
    """Which fold a task is scored on, of data that is divided into several: its training rows are all the others.

    Attributes:
        name: as the data calls it.
        count: how many folds the data has.
    """

    name: str
    count: int

    def task(self, whole: str) -> str:
        """What the task of this fold is called, where all folds together are called `whole`."""
        return f"{whole}-fold{self.name}"

    def whole(self, task: str) -> str:
        """What all folds together are called, from the name of the task of this one, whose arm may follow it."""
        before, _, arm = task.rpartition(self.task(""))
        return before + arm


class Task(ABC):
    """A task: its columns, the check of its rows, their encoding, its head, and how it is scored.

    Attributes:
        name: in tables, in records and on the command line.
        kind: of the metrics there are and of the losses that work, such as ``"classification"``.
        columns: the text columns of a row.
        metrics: what it is measured by, names of `kdzoo.tasks.metrics`.
        headline: those of them whose mean is the task's one number; each greater for better.
        validation_splits: the splits that it is scored on.
        test_split: the split that is scored once, in the end; None where there is none.
        label_names: the batch's label tensors, as the model's forward pass calls them.
        unit: what is resampled for intervals, in the singular.
        generates: its models write text: `outputs` runs them, not one forward pass, and a tokenizer that is made for
            them gives back what it has read.
        quickstart: of a comparison on synthetic rows of such tasks alone, the settings that are others than the common
            ones (`kdzoo.bench.grid.settings.QUICKSTART`).
        fixed_words: why the words of its rows cannot be exchanged for others, in words; empty where they can.
        parts: whether rows say where a second part begins, which a bi-encoder reads by itself.
        fold: which fold it is scored on; None where its data has none. Tables show the mean over all folds of a whole.
    """

    name: str
    kind: str
    columns: tuple[str, ...]
    metrics: tuple[str, ...]
    headline: tuple[str, ...]
    validation_splits: tuple[str, ...] = ("validation",)
    test_split: str | None = None
    fold: Fold | None = None
    label_names: ClassVar[tuple[str, ...]] = ("labels",)
    unit: ClassVar[str] = "row"
    generates: ClassVar[bool] = False
    quickstart: ClassVar[Mapping[str, Any]] = {}
    fixed_words: ClassVar[str] = ""
    parts: ClassVar[bool] = False

    @property
    def splits(self) -> tuple[str, ...]:
        """All splits it may have: ``train``, those for validation, and the test split."""
        return ("train", *self.validation_splits, *([self.test_split] if self.test_split else []))

    # --- rows ---

    @property
    @abstractmethod
    def fields(self) -> tuple[str, ...]:
        """The columns that a row must have."""

    @abstractmethod
    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """A row's `fields`, checked and typed.

        Raises:
            KdzooError: in one line, without the row's place, which the reader adds.
        """

    @abstractmethod
    def features(self) -> Any:
        """The `datasets.Features` of parsed rows."""

    @property
    def brings_rows(self) -> bool:
        """Whether `rows` gives its rows, so that no source has to."""
        return type(self).rows is not Task.rows

    @property
    def text_columns(self) -> tuple[str, ...]:
        """How the data that brought the rows calls `columns`; empty where nothing is known of it."""
        return ()

    def identity(self) -> dict[str, Any]:
        """What results of the task depend on, beside its rows, as JSON has it."""
        names = ("kind", "columns", "metrics", "headline")
        return {name: list(value) if isinstance(value := getattr(self, name), tuple) else value for name in names}

    def adapted(self, source: str) -> Task:
        """The task for rows from a source: itself, unless what it asks for (its labels) is the data's own.

        Args:
            source: ``"synthetic"``, ``"hub"`` or a folder.
        """
        return self

    def files(self, folder: Path, split: str) -> Columns | None:
        """How to read a split from files of the kind's own form (CoNLL, SQuAD's JSON); None where there is none.

        Args:
            folder: the task's.
            split: one of `splits`.
        """
        return None

    def texts(self, rows: Dataset) -> Iterator[str]:
        """All texts of rows, from which a vocabulary is learned."""
        for column in self.columns:
            yield from rows[column][:]

    @property
    def vocabulary_key(self) -> str:
        """A hash of what `texts` gives beside the rows' own; empty where there is nothing."""
        return ""

    def rows(self) -> Mapping[str, Dataset] | None:
        """The rows by split of a task that brings its own; None for one that is read from ``--data``."""
        return None

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        """Made rows of a split, as columns.

        Args:
            split: one of `splits`.
            rows: how many; the task's own number when None.
            seed: of the rows.

        Raises:
            KdzooError: the task has none.
        """
        raise KdzooError(f"there are no synthetic rows for {self.name}; name its data with --data")

    def for_epochs(self, epochs: float) -> Task:
        """The task for so many passes over the training rows: itself, unless some are drawn anew for each.

        Args:
            epochs: of the longest training; `encode` then makes the rows of all of them (`kdzoo.tasks.epochs`).
        """
        return self

    def rows_an_epoch(self, rows: int) -> int:
        """How many training rows a pass has, of so many as were loaded."""
        return rows

    # --- models ---

    @abstractmethod
    def head(self) -> Head:
        """What a model has on top for this task."""

    @property
    def longest_target(self) -> int | None:
        """The most tokens that a model writes for a row; None where it writes none."""
        return None

    @property
    def rows_together(self) -> int:
        """How many training rows stand together in a batch, whose size is a multiple of it."""
        return 1

    def about_length(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
        """How many training rows lose something at ``max_length``, in words; empty where none does.

        Args:
            rows: of training, with the task's `fields`.
            tokenizer: the model's.
            max_length: the most tokens a row keeps.
        """
        return ""

    def check_rows(self, split: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        """Refuse rows that cannot be encoded for a model, before anything is trained.

        Args:
            split: one of `splits`.
            rows: of it, with the task's `fields`.
            tokenizer: the model's.

        Raises:
            KdzooError: names the row.
        """
        return

    @abstractmethod
    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The rows as the model takes them, unpadded.

        Args:
            rows: with the task's `fields`.
            tokenizer: the model's.
            max_length: the most tokens a row keeps, special tokens counted.

        Returns:
            The model inputs, the labels under `label_names`, ``sample_ids`` (the row's number) and ``length`` (in
            tokens, for grouping); where a row may become several, ``unit_ids`` (the number of its unit), and what
            `predictions` and `references` look at, which the `collator` leaves out.
        """

    @abstractmethod
    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes a batch of `encode`'s rows: padded to the batch's own longest row, without ``length``."""

    def outputs(self, model: Any, batch: Mapping[str, Any]) -> Any:
        """What a model makes of a batch when it is scored: here the outputs of one forward pass.

        Args:
            model: of transformers, without wrappers, in evaluation mode.
            batch: as the `collator` gave it, on the model's device; labels may be missing.
        """
        return model(**batch)

    @property
    def apart(self) -> bool:
        """Whether the teacher is given other inputs than the students, of the same rows."""
        return False

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """The columns that the teacher is given, or its batches made of, beside those of its tokenizer."""
        return ()

    @property
    def fusion(self) -> dict[str, Any] | None:
        """Of a teacher that joins words with roles, fields of its `SemBertConfig`; None of a plain one."""
        return None

    def abilities(self, *, teacher: bool) -> tuple[str, ...]:
        """What a model must be able to take beside tokens, names of `kdzoo.models.inputs.ABILITIES`.

        Args:
            teacher: of the teacher; else of a student.
        """
        return ()

    def encode_for_teacher(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The rows as the teacher takes them, as many as `encode` makes; see there."""
        return self.encode(rows, tokenizer, max_length)

    def teacher_collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes a batch of `encode_for_teacher`'s rows; its ``columns`` are those that no model takes itself."""
        return self.collator(tokenizer)

    def logits(self, outputs: Any) -> Tensor:
        """What teacher and student compare, of a model's outputs."""
        found: Tensor = outputs.logits
        return found

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        """Which positions of the logits count, as booleans (B, S); None where each row has one."""
        return None

    # --- scores ---

    def glimpse(self, rows: Dataset) -> Dataset:
        """The encoded rows that scores are taken on while a model trains: all, or a part where all take long."""
        return rows

    def decoded(self, outputs: Any, tokenizer: PreTrainedTokenizerBase) -> Any:
        """A model's outputs on all rows as `predictions` takes them: of a task that `generates` the texts.

        Args:
            outputs: arrays in the rows' order.
            tokenizer: the model's.
        """
        return outputs

    @abstractmethod
    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> Any:
        """What is predicted, by unit.

        Args:
            outputs: the model's logits in the rows' order.
            rows: as `encode` gave them.
        """

    @abstractmethod
    def references(self, rows: Dataset) -> Any:
        """What is right, by unit, in the form of `predictions`."""

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        """The task's metrics by name, of predictions and references by unit."""
        from kdzoo.tasks.metrics import value

        return {name: value(name, self.kind, predictions, references) for name in self.metrics}

    def scored_by(self, references: Mapping[str, Any]) -> dict[str, str]:
        """What scores depend on beside predictions and references, in words by name; it stands in the record.

        Args:
            references: by validation split.
        """
        return {}

    def examples(self, rows: Dataset) -> list[str]:
        """What was given, by unit, for a reader of predictions that are texts; empty where they are none.

        Args:
            rows: of a split, as `encode` gave them.
        """
        return []

    def constant(self, train: Dataset, references: Any) -> Any | None:
        """What a model predicts that knows nothing but the training labels, by unit; None where that is unknown.

        Args:
            train: the training rows as `encode` gave them.
            references: of the split that is predicted.
        """
        return None

    def one_class(self, predictions: Any) -> bool:
        """Whether everything predicted is the same."""
        if isinstance(predictions, list):  # of texts, or of as many answers as each question has
            return len(predictions) > 1 and all(value == predictions[0] for value in predictions)
        values = np.asarray(predictions)
        return len(values) > 1 and bool((values == values[0]).all())

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        """A tenth of the rows apart, drawn with a seed: what is kept, and what is taken.

        Args:
            rows: with the task's `fields`.
            seed: of the drawing.

        Raises:
            KdzooError: there are too few rows.
        """
        from kdzoo.tasks.splitting import HELD_OUT

        taken = max(2, round(HELD_OUT * len(rows)))
        if len(rows) - taken < 2:
            raise KdzooError(f"{self.name}: {len(rows)} rows are too few to hold some out")
        order = np.random.default_rng(seed).permutation(len(rows))
        return rows.select(sorted(order[taken:])), rows.select(sorted(order[:taken]))

    def flatten(self, metrics: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
        """The metrics of every validation split as one mapping, which `score` takes.

        With one validation split the metrics keep their names; with several, as MNLI has,
        ``validation_matched``'s accuracy is ``matched_accuracy``.
        """
        if len(self.validation_splits) == 1:
            return dict(metrics[self.validation_splits[0]])
        return {
            f"{split.removeprefix('validation_')}_{name}": value
            for split, values in metrics.items()
            for name, value in values.items()
        }

    def score(self, metrics: Mapping[str, float]) -> float:
        """The task's one number, times 100: the mean of the headline metrics (over all validation splits).

        Args:
            metrics: what `evaluate` returned, or `flatten` for several splits. A split that is not there is left out.

        Raises:
            KdzooError: a headline metric is missing.
        """
        parts = []
        for name in self.headline:
            keys = [name, *(f"{split.removeprefix('validation_')}_{name}" for split in self.validation_splits)]
            found = [metrics[key] for key in keys if key in metrics]
            if not found:
                raise KdzooError(f"{self.name} is scored by {name}, got {', '.join(sorted(metrics)) or 'no metric'}")
            parts.append(float(np.mean(found)))
        return 100.0 * float(np.mean(parts))

    def describe(self) -> str:
        """What it is, in a line that is printed before anything runs."""
        return f"{self.name}: {self.kind}; measured by {', '.join(self.metrics)}"
