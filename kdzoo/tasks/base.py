"""The GLUE tasks: each owns its columns, label check, tokenisation, collation, head and metric in one place.

A caller goes through the methods of `Task` only, so that a task of another kind (labels per token, candidates to
rank) is a subclass that overrides them, and no caller changes.

Source: Wang et al. (2019), "GLUE: A Multi-Task Benchmark and Analysis Platform for Natural Language Understanding",
Table 1 (tasks and metrics); field names and label ids are those of ``nyu-mll/glue`` on the Hugging Face Hub.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.classification import _collate

if TYPE_CHECKING:
    import evaluate
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Task:
    """A task on one sentence or a pair of sentences, with one label a row.

    Attributes:
        name: GLUE's name, as the hub's configuration is called.
        columns: the text columns, one or two.
        labels: the label names in the order of their ids; empty for a regression task.
        metric_names: the keys that `metric` returns, each in -1..1 or 0..1.
        headline: the metrics whose mean is the task's one number.
        label_range: the lowest and highest score of a regression task, else ``None``.
        validation_splits: the splits the task is scored on.
    """

    name: str
    columns: tuple[str, ...]
    labels: tuple[str, ...]
    metric_names: tuple[str, ...]
    headline: tuple[str, ...]
    label_range: tuple[float, float] | None = None
    validation_splits: tuple[str, ...] = ("validation",)

    @property
    def regression(self) -> bool:
        """Whether the label is a number to be predicted, not a class."""
        return self.label_range is not None

    @property
    def num_labels(self) -> int:
        """The width C of the model's logits: the number of classes, or 1 for regression."""
        return 1 if self.regression else len(self.labels)

    def head(self) -> dict[str, Any]:
        """The arguments that a transformers config for sequence classification needs for this task."""
        if self.regression:
            return {"num_labels": 1, "problem_type": "regression"}
        return {
            "num_labels": self.num_labels,
            "problem_type": "single_label_classification",
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
        }

    def parse_label(self, value: object) -> int | float:
        """The label as an id (or a score): from an id, a score, either of them as text, or a label name.

        Raises:
            KdzooError: the value is none of the task's labels; the message names the valid ones.
        """
        if isinstance(value, str) and value in self.labels:
            return self.labels.index(value)
        try:
            number = float(value)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            number = math.nan
        if self.label_range is not None:
            low, high = self.label_range
            if low <= number <= high:
                return number
            raise KdzooError(f"label {value!r} is not a number from {low:g} to {high:g}, as {self.name} needs")
        if number in range(len(self.labels)):
            return int(number)
        valid = ", ".join(f"{index} ({label})" for index, label in enumerate(self.labels))
        raise KdzooError(f"label {value!r} is none of {self.name}'s: {valid}")

    def tokenize(self, dataset: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        """The rows as the model takes them, unpadded, pairs cut from their longer side.

        Args:
            dataset: rows with `columns` and ``label``, as `kdzoo.tasks.load` gives them.
            tokenizer: the tokenizer of teacher and student.
            max_length: the most tokens a row keeps, special tokens counted.

        Returns:
            The tokenizer's model inputs, ``labels``, ``sample_ids`` (the row's number in ``dataset``) and
            ``length`` (in tokens, for grouping), no other column.
        """

        def encode(batch: dict[str, list[Any]], rows: list[int]) -> dict[str, Any]:
            encoded = tokenizer(*(batch[column] for column in self.columns), truncation=True, max_length=max_length)
            length = [len(ids) for ids in encoded["input_ids"]]
            return {**encoded, "labels": batch["label"], "sample_ids": rows, "length": length}

        return dataset.map(
            encode, batched=True, with_indices=True, remove_columns=dataset.column_names, desc=f"tokenize {self.name}"
        )

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes a batch of `tokenize`'s rows: padded to the batch's own longest row.

        The batch holds the model inputs (B, S), ``labels`` (B,) and ``sample_ids`` (B,).
        """
        from transformers import DataCollatorWithPadding

        return partial(_collate, DataCollatorWithPadding(tokenizer))

    def predictions(self, logits: np.ndarray) -> np.ndarray:
        """Class ids, or scores for regression, (N,), from logits (N, C)."""
        logits = np.asarray(logits)
        if logits.ndim != 2 or logits.shape[1] != self.num_labels:
            raise KdzooError(f"{self.name} needs logits of shape (N, {self.num_labels}), got {logits.shape}")
        return logits[:, 0] if self.regression else logits.argmax(axis=1)

    def metric(self) -> evaluate.Metric:
        """GLUE's metric of the task; needs no download."""
        from kdzoo.tasks.metrics import GlueMetric

        return GlueMetric(self.name)

    def evaluate(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The task's metrics, by name, of logits (N, C) against labels (N,)."""
        return self.metric().compute(predictions=self.predictions(logits), references=labels)

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
        """GLUE's number for the task, times 100: the mean of the headline metrics (over both splits for MNLI).

        Args:
            metrics: what `metric` returned, or `flatten` for several splits. A split that is not there is left out.

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
