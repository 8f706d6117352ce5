"""The tokenizers of a teacher and a student: their own, the synthetic sentences', or one learned from the rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedTokenizerBase

from kdzoo import hashing
from kdzoo.errors import KdzooError
from kdzoo.models.loading import load_tokenizer
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import SIZE, learned_tokenizer, reversible_tokenizer
from kdzoo.tasks import Task
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.source_target import SourceTargetTokenizer, same_words, source_part, target_part
from kdzoo.tasks.synthetic.grammar import GRAMMARS

LOOKED_AT = 100  # rows whose texts two tokenizers of one vocabulary have to read alike
FOLDER = "tokenizer"  # of a learned one, within an output folder


def encoder_for(
    teacher: ModelSpec,
    student: ModelSpec | None,
    tasks: Sequence[Task],
    data: Mapping[str, DatasetDict],
    source: str,
    max_length: int,
    folder: Path,
    epochs: float,
) -> Encoder:
    """What encodes the rows of tasks for a teacher and a student.

    Args:
        teacher: whose tokens are read; of a size, those of the synthetic sentences or of a vocabulary learned from the
            training rows, which is kept in ``folder``. Where its encoder alone reads a pretrained model, that model's
            are read and the learned ones written.
        student: whose tokens its own inputs are made of, where it is loaded and has a tokenizer, or reads a pretrained
            model; None for none. One that has no words to write of its own writes the teacher's.
        tasks: whose rows.
        data: by task, the splits.
        source: where the rows are from, see `kdzoo.tasks.load`.
        max_length: the most tokens a row keeps.
        folder: of the results.
        epochs: of the longest training.

    Raises:
        KdzooError: a model has no tokenizer, or one without a token that pads; or two tokenizers of one vocabulary read
            the rows otherwise.
    """
    learns = teacher.is_size and (teacher.separate_targets or not teacher.reads)
    own = _fresh(tasks, data, source, folder) if learns else teacher.tokenizer
    if learns and teacher.reads:
        own = SourceTargetTokenizer(teacher.tokenizer, own)
    theirs = own if student is None else _of_student(student, own)
    # Of the same words both take one, but each has as many parts as its model is saved with.
    if same_words(theirs, own) and isinstance(theirs, SourceTargetTokenizer) == isinstance(own, SourceTargetTokenizer):
        if theirs is not own:
            _check_read_alike(theirs, own, tasks, data)
        theirs = own
    for whose, tokenizer in (("teacher", own), ("student", theirs)):
        if source_part(tokenizer).pad_token_id is None:
            raise KdzooError(
                f"the {whose}'s tokenizer has no token that pads, which batches need; set its pad_token, and save it"
            )
    return Encoder(theirs, own, max_length, epochs)


def _check_read_alike(theirs: Any, own: Any, tasks: Sequence[Task], data: Mapping[str, DatasetDict]) -> None:
    """Refuse a student's tokenizer of the teacher's vocabulary that makes other tokens of a text."""
    for task in tasks:
        rows = data[task.name]["train"]
        for text in task.texts(rows.select(range(min(len(rows), LOOKED_AT)))):
            one, other = (source_part(side)(text)["input_ids"] for side in (theirs, own))
            if one != other:
                raise KdzooError(
                    f"the student's tokenizer has the teacher's vocabulary and reads {text[:60]!r} otherwise, as "
                    f"{source_part(theirs).convert_ids_to_tokens(one)[:8]} and not "
                    f"{source_part(own).convert_ids_to_tokens(other)[:8]}; save one tokenizer with both"
                )


def _of_student(student: ModelSpec, own: Any) -> Any:
    """A student's tokenizer; of what it has none for, its teacher's."""
    if student.separate_targets:
        return SourceTargetTokenizer(student.tokenizer, target_part(own))
    if student.has_tokenizer:
        return student.tokenizer
    if student.is_size or (student.path is not None and not getattr(student.config, "separate_targets", False)):
        return target_part(own)  # it has one vocabulary
    return own


def _fresh(
    tasks: Sequence[Task], data: Mapping[str, DatasetDict], source: str, folder: Path
) -> PreTrainedTokenizerBase:
    """The tokenizer of a model that is trained from scratch."""
    if source == "synthetic" and all(task.name in GRAMMARS for task in tasks):
        from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer

        return synthetic_tokenizer()
    writes = any(task.generates for task in tasks)
    learned = reversible_tokenizer if writes else learned_tokenizer
    more = [key for task in tasks if (key := task.vocabulary_key)]
    about = hashing.of_values(
        SIZE,
        *["reversible"] * writes,
        [hashing.of_rows(data[task.name]["train"], _read(task)) for task in tasks],
        *([more] if more else []),
    )
    kept = hashing.built_once(
        folder / FOLDER / about[:16], lambda scratch: learned(_texts(tasks, data)).save_pretrained(scratch)
    )
    try:
        tokenizer: PreTrainedTokenizerBase = load_tokenizer(kept)
    except KdzooError as error:
        raise KdzooError(f"the learned vocabulary in {kept} cannot be read ({error}); remove it") from None
    return tokenizer


def _read(task: Task) -> tuple[str, ...]:
    """The columns that its texts are of."""
    return task.fields if task.generates else task.columns


def _texts(tasks: Sequence[Task], data: Mapping[str, DatasetDict]) -> Iterator[str]:
    """The training texts of all tasks."""
    for task in tasks:
        yield from task.texts(data[task.name]["train"])
