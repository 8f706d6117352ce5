"""The rows of a comparison: as they were loaded, tokenised for teacher and students, and the training's in two."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from datasets import Dataset, DatasetDict

from kdzoo.bench.grid.tuning import SEED
from kdzoo.errors import KdzooError
from kdzoo.tasks import Task
from kdzoo.tasks.encoding import Encoder


class Rows:
    """Each task's splits, made of what was loaded when they are first asked for.

    It can be pickled, with what was loaded alone: the rest is made again.

    Args:
        encoder: of the rows, for both models.

    Attributes:
        loaded: by task, the splits as they were loaded; ``augmented`` among them are the students' training rows.
    """

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder
        self.loaded: dict[str, DatasetDict] = {}
        self._made: dict[tuple[str, str], DatasetDict] = {}

    def tokenized(self, task: Task) -> DatasetDict:
        """The splits as the teacher has them."""

        def make() -> dict[str, Dataset]:
            splits = self.loaded[task.name].items()
            return {split: self.encoder.for_teacher(task, rows) for split, rows in splits if split != "augmented"}

        return self._once("tokenized", task, make)

    def of_students(self, task: Task) -> DatasetDict:
        """The splits as the students have them, with the augmented rows for training where there are some."""

        def make() -> dict[str, Dataset]:
            splits = self.loaded[task.name]
            plain = {} if self.encoder.apart(task) else self.tokenized(task)
            taken = {split: split for split in splits if split != "augmented"}
            taken["train"] = "augmented" if "augmented" in splits else "train"
            return {
                split: plain.get(source) or self.encoder.for_students(task, splits[source])
                for split, source in taken.items()
            }

        return self._once("of_students", task, make)

    def cut(self, task: Task) -> DatasetDict:
        """The training rows in two as the students have them: those that are trained on, and those held out.

        The latter stand under the name of a validation split.

        Raises:
            KdzooError: there are too few.
        """

        def make() -> dict[str, Dataset]:
            return {split: self.encoder.for_students(task, rows) for split, rows in self.in_two(task).items()}

        return self._once("cut", task, make)

    def held_out(self, task: Task) -> DatasetDict:
        """Of `cut`, those held out."""
        return DatasetDict({split: rows for split, rows in self.cut(task).items() if split != "train"})

    def in_two(self, task: Task) -> DatasetDict:
        """The same as they were loaded.

        Raises:
            KdzooError: there are too few.
        """

        def make() -> dict[str, Dataset]:
            try:
                kept, taken = task.held_out(self.loaded[task.name]["train"], SEED)
            except KdzooError as error:
                why = str(error).partition(";")[0]
                raise KdzooError(f"{why}; --tune and --keep best do, so give more training rows") from None
            return {"train": kept, task.validation_splits[0]: taken}

        return self._once("in_two", task, make)

    def _once(self, what: str, task: Task, make: Callable[[], dict[str, Dataset]]) -> DatasetDict:
        if (what, task.name) not in self._made:
            self._made[what, task.name] = DatasetDict(make())
        return self._made[what, task.name]

    def __getstate__(self) -> dict[str, Any]:
        """The rows in full: the files they are mapped from may not be where they are read back."""
        loaded = {
            task: DatasetDict({name: _in_memory(split) for name, split in splits.items()})
            for task, splits in self.loaded.items()
        }
        return self.__dict__ | {"loaded": loaded, "_made": {}}


def _in_memory(rows: Dataset) -> Dataset:
    """The rows alone, in one piece: of rows taken here and there, each would be pickled with all those around it."""
    return Dataset(rows.with_format("arrow")[:].combine_chunks())
