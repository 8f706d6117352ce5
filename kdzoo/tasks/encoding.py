"""Rows encoded for two models at once, each with its own tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.source_target import same_words, target_part

if TYPE_CHECKING:
    from datasets import Dataset

TEACHER_PREFIX = "teacher_"  # before the names of the columns that the teacher alone takes
INDEX = "index"  # with the prefix: of each token of the student its place among the teacher's, -1 where it has none


@dataclass(frozen=True)
class Encoder:
    """Encodes a task's rows for the students, and for the teacher where its tokenizer is another.

    Attributes:
        student: the students' tokenizer, of transformers or a `kdzoo.tasks.source_target.SourceTargetTokenizer`.
        teacher: the teacher's.
        max_length: the most tokens a row keeps, special tokens counted.
        epochs: of the longest training, for tasks that draw rows anew for each.
    """

    student: Any
    teacher: Any
    max_length: int
    epochs: float = 1

    @property
    def separate(self) -> bool:
        """Whether the two read or write other tokens: their vocabularies differ."""
        return not same_words(self.student, self.teacher)

    @property
    def same_targets(self) -> bool:
        """Whether the two write the same tokens."""
        return bool(target_part(self.student).get_vocab() == target_part(self.teacher).get_vocab())

    def for_teacher(self, task: Task, rows: Dataset) -> Dataset:
        """The rows as the teacher takes them, for its own training; see `Task.encode_for_teacher`."""
        own = task.for_epochs(self.epochs).encode_for_teacher(rows, self.teacher, self.max_length)
        return own.remove_columns(INDEX) if INDEX in own.column_names else own

    def teacher_collator(self, task: Task) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes a batch of `for_teacher`'s rows."""
        return task.teacher_collator(self.teacher)

    def apart(self, task: Task) -> bool:
        """Whether the students' rows hold inputs of the teacher's own."""
        return self.separate or task.apart

    def for_students(self, task: Task, rows: Dataset) -> Dataset:
        """The rows as the students take them, with the teacher's inputs as ``teacher_...`` where they are others.

        Where only the teacher's rows hold more than the student's tokens, `INDEX` says where each of these stands.

        Raises:
            KdzooError: the two tokenizers cut the rows into another number of parts.
        """
        task = task.for_epochs(self.epochs)
        own = task.encode(rows, self.student, self.max_length)
        if not self.apart(task):
            return own
        theirs = task.encode_for_teacher(rows, self.teacher, self.max_length)
        if len(theirs) != len(own):
            raise KdzooError(
                f"{task.name}: the teacher's tokenizer makes {len(theirs)} rows, the student's {len(own)}: long ones "
                "are cut; give a larger --max-length, or a student with the teacher's tokenizer"
            )
        cut = self.separate and "unit_ids" in own.column_names
        if cut and not own["unit_ids"][:] == theirs["unit_ids"][:] == [*range(len(own))]:
            raise KdzooError(
                f"{task.name}: some {task.unit}s are cut into several rows, which the teacher's tokenizer does at "
                "other places than the student's; give a larger --max-length, or a student with the teacher's tokenizer"
            )
        more = tuple(name for name in task.extra_inputs if name != INDEX or not self.separate)
        inputs = [name for name in theirs.column_names if name in (*self.teacher.model_input_names, *more)]
        for name in inputs:
            own = own.add_column(f"{TEACHER_PREFIX}{name}", theirs[name])
        return own

    def collator(self, task: Task) -> Callable[[list[dict[str, Any]]], dict[str, Any]]:
        """What makes a batch of `for_students`' rows."""
        own = task.collator(self.student)
        if not self.apart(task):
            return own
        return Both(own, self.teacher_collator(task), task.label_names, self.same_targets)


@dataclass(frozen=True)
class Both:
    """A batch of rows that hold the inputs of two models: each side is collated, and padded, by its own.

    Attributes:
        student, teacher: each side's.
        label_names: the labels' columns.
        same_targets: whether a target's tokens are the same for both, so that the teacher is given the student's.
    """

    student: Callable[[list[dict[str, Any]]], dict[str, Any]]
    teacher: Callable[[list[dict[str, Any]]], dict[str, Any]]
    label_names: tuple[str, ...]
    same_targets: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """Those that batches are made of and no model takes."""
        return tuple(f"{TEACHER_PREFIX}{name}" for name in getattr(self.teacher, "columns", ()))

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, Any]:
        """The students' batch, with the teacher's inputs as ``teacher_...``, where the rows still have them."""
        own = [{name: value for name, value in row.items() if not name.startswith(TEACHER_PREFIX)} for row in rows]
        above = [{name: value for name, value in row.items() if name.startswith(TEACHER_PREFIX)} for row in rows]
        theirs = [{name.removeprefix(TEACHER_PREFIX): value for name, value in row.items()} for row in above]
        if not any(theirs):  # without a teacher, its columns are left out before
            return self.student(own)
        batch = {f"{TEACHER_PREFIX}{name}": value for name, value in self.teacher(theirs).items()}
        return {**self.student(own), **batch}
