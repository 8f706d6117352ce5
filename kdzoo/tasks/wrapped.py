"""A task around another one, which it is but for what the teacher reads."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Head, Task
from kdzoo.tasks.given import GivenRows

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import Tensor
    from transformers import PreTrainedTokenizerBase
    from typing_extensions import Self

COPIED = (
    *("kind", "columns", "metrics", "headline", "validation_splits", "test_split", "label_names", "unit"),
    *("fixed_words", "fold"),
)


@dataclass(frozen=True)
class Wrapped(GivenRows):
    """A task that is another one in its rows, its head and its scores.

    Attributes:
        name: of the task itself.
        inner: the other one.
        read: gives the rows by split; None where they are made, or the inner task brings its own.
        made: the name of the inner task that is synthetic, and has what the teacher reads on synthetic rows alone.
        asked: what other data needs beside the task, for messages.
    """

    made: ClassVar[str]
    asked: ClassVar[str]

    name: str
    inner: Task
    read: Callable[[], Mapping[str, Dataset]] | None = field(default=None, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        for name in COPIED:
            object.__setattr__(self, name, getattr(self.inner, name))

    @property
    def fields(self) -> tuple[str, ...]:
        return self.inner.fields

    def parse(self, row: Mapping[str, Any]) -> dict[str, Any]:
        return self.inner.parse(row)

    def features(self) -> Any:
        return self.inner.features()

    def adapted(self, source: str) -> Self:
        """The same around the adapted task.

        Raises:
            KdzooError: for the synthetic task with other data, which lacks what the teacher reads.
        """
        if self.inner.name == self.made and self.read is None and source != "synthetic":
            raise KdzooError(f"{self.name} is synthetic; for {source} name a task, and {self.asked}")
        return replace(self, inner=self.inner.adapted(source))

    @property
    def brings_rows(self) -> bool:
        return self.read is not None or self.inner.brings_rows

    def rows(self) -> Mapping[str, Dataset] | None:
        return self.inner.rows() if self.read is None else self.read()

    def identity(self) -> dict[str, Any]:
        return self.inner.identity()

    def texts(self, rows: Dataset) -> Iterator[str]:
        return self.inner.texts(rows)

    def head(self) -> Head:
        return self.inner.head()

    @property
    def longest_target(self) -> int | None:
        return self.inner.longest_target

    def about_length(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> str:
        return self.inner.about_length(rows, tokenizer, max_length)

    def check_rows(self, split: str, rows: Dataset, tokenizer: PreTrainedTokenizerBase) -> None:
        self.inner.check_rows(split, rows, tokenizer)

    def outputs(self, model: Any, batch: Mapping[str, Any]) -> Any:
        return self.inner.outputs(model, batch)

    def scored_by(self, references: Mapping[str, Any]) -> dict[str, str]:
        return self.inner.scored_by(references)

    def examples(self, rows: Dataset) -> list[str]:
        return self.inner.examples(rows)

    def encode(self, rows: Dataset, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Dataset:
        return self.inner.encode(rows, tokenizer, max_length)

    def collator(self, tokenizer: PreTrainedTokenizerBase) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        return self.inner.collator(tokenizer)

    def logits(self, outputs: Any) -> Tensor:
        return self.inner.logits(outputs)

    def counted(self, batch: Mapping[str, Any]) -> Tensor | None:
        return self.inner.counted(batch)

    def predictions(self, outputs: np.ndarray, rows: Dataset | None = None) -> Any:
        return self.inner.predictions(outputs, rows)

    def references(self, rows: Dataset) -> Any:
        return self.inner.references(rows)

    def evaluate(self, predictions: Any, references: Any) -> dict[str, float]:
        return self.inner.evaluate(predictions, references)

    def constant(self, train: Dataset, references: Any) -> Any | None:
        return self.inner.constant(train, references)

    def one_class(self, predictions: Any) -> bool:
        return self.inner.one_class(predictions)

    def held_out(self, rows: Dataset, seed: int) -> tuple[Dataset, Dataset]:
        return self.inner.held_out(rows, seed)

    def synthetic(self, split: str, rows: int | None, seed: int) -> Mapping[str, Sequence[Any]]:
        return self.inner.synthetic(split, rows, seed)
