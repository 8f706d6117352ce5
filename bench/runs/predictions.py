"""Predictions of students that tag words, find answers or write texts: rows and outputs as their tasks have them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import compress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset

from kdzoo.bench.escape import csv as safe
from kdzoo.bench.runs.budget import MOST_LENGTH
from kdzoo.bench.runs.train import quiet
from kdzoo.errors import KdzooError
from kdzoo.models.decoders import check_decoder
from kdzoo.models.loading import MissingHead, class_suffixes, load_model
from kdzoo.models.spec import ModelSpec
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.generation import SequenceToSequence
from kdzoo.tasks.pieces import tokenizer_pieces
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.token_classification import TokenClassification
from kdzoo.training.agreement import accepted_inputs, positions

COLUMNS = {"tokens": ("words",), "spans": ("question", "context"), "seq2seq": ("source",)}  # of a table, by kind
_SETTINGS = ("stride", "max_question", "null_threshold")  # of a task of questions

ReadTask = TokenClassification | QuestionAnswering | SequenceToSequence


class Said(NamedTuple):
    """What a student says of rows.

    Attributes:
        header, rows: the columns beside the texts, and what is in them.
        cut: how many sources were cut.
        max_length: the tokens that it reads at a time.
    """

    header: list[str]
    rows: list[list[str]]
    cut: int
    max_length: int


def task_of(folder: Path, head: str, config: Any, own: Mapping[str, Any]) -> ReadTask | None:
    """The task whose rows a model of such a head reads; None where there is no such head.

    Args:
        folder: the model's, by which it is called in messages.
        head: the class's name, as its configuration has it.
        config: its configuration.
        own: the settings of the task that it was trained on, the defaults where they are missing.

    Raises:
        KdzooError: its labels are no tags, or a setting is none that a task can have.
    """

    if head.endswith(class_suffixes("AutoModelForTokenClassification")):
        names = [config.id2label.get(at) for at in range(config.num_labels)]
        if not all(isinstance(name, str) for name in names):
            raise KdzooError(
                f"the configuration of {folder} names its {config.num_labels} labels {names[:10]}; each needs a name, "
                "as id2label"
            )
        return TokenClassification(folder.name, tuple(names))
    if head.endswith(class_suffixes("AutoModelForQuestionAnswering")):
        return QuestionAnswering(folder.name, **{name: own[name] for name in _SETTINGS if name in own})
    if head.endswith(class_suffixes("AutoModelForSeq2SeqLM")):
        return SequenceToSequence(folder.name, decoding=Decoding.parse(own.get("decoding")))
    return None


def load(folder: Path, task: ReadTask) -> tuple[Any, Any]:
    """A student that was trained on such a task, in evaluation mode, and its tokenizer.

    Raises:
        KdzooError: it cannot be loaded, has no head, or cannot write what the task asks for.
    """
    tokenizer = ModelSpec(str(folder), path=str(folder)).tokenizer  # not parsed: a folder may be called like a size
    try:
        model = load_model(folder, head=task.head().auto_class, new_head=False).eval()
    except MissingHead as error:
        raise KdzooError(f"{error}; distil it on a task first") from None
    check_decoder(model, str(folder), task.longest_target)
    return model, tokenizer


def room(model: Any, tokenizer: Any, length: int | None) -> int:
    """The most tokens of a row: as many as asked for, or as the model and its tokenizer take."""
    return int(min(bound for bound in (length, positions(model), tokenizer.model_max_length, MOST_LENGTH) if bound))


@torch.inference_mode()
def say(
    folder: Path, task: ReadTask, table: dict[str, list[Any]], *, batch_size: int, length: int | None, nullable: bool
) -> Said:
    """What a student says of the rows of a table, which has the columns of its kind.

    Args:
        folder: the student's.
        task: see `task_of`.
        table: words, each row's a list; or texts.
        batch_size: rows at a time.
        length: most tokens of a row; by default what it can read.
        nullable: whether a question may have no answer.

    Raises:
        KdzooError: the student cannot be loaded, or gives no numbers.
    """
    quiet()
    model, tokenizer = load(folder, task)
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    size = room(model, tokenizer, length)
    if isinstance(task, TokenClassification):
        found = _tags(model, tokenizer, task, table["words"], batch_size, size)
        return Said(["tags"], [[" ".join(map(safe, tags))] for tags in found], 0, size)
    if isinstance(task, QuestionAnswering):
        answers = _answers(model, tokenizer, task, table, batch_size, size, nullable)
        return Said(["answer", "probability"], answers, 0, size)
    sources = table["source"]
    cut = sum(len(ids) > size for ids in tokenizer(sources, truncation=False, verbose=False)["input_ids"])
    return Said(["written"], [[text] for text in _texts(model, tokenizer, task, sources, batch_size, size)], cut, size)


def _tags(
    model: Any,
    tokenizer: Any,
    task: TokenClassification,
    sentences: Sequence[Sequence[str]],
    batch_size: int,
    size: int,
) -> list[list[str]]:
    """A tag for each word; O, or the first, for one of which the tokenizer leaves nothing."""
    pieces = tokenizer_pieces(tokenizer)
    read = [[bool(pieces(word)) for word in words] for words in sentences]
    other = "O" if "O" in task.labels else task.labels[0]
    kept = [[*compress(words, marks)] for words, marks in zip(sentences, read, strict=True)]
    given = [words for words in kept if words]
    said: list[list[str]] = []
    if given:
        columns = {"words": given, "tags": [[other] * len(words) for words in given]}
        rows = task.encode(Dataset.from_dict(columns, features=task.features()), tokenizer, size)
        (logits,) = _outputs(model, tokenizer, task, rows, batch_size, ("logits",))
        said = task.predictions(logits, rows)
    tagged = iter(said)
    found = []
    for marks in read:
        own = iter(next(tagged) if any(marks) else ())
        found.append([next(own) if reads else other for reads in marks])
    return found


def _answers(
    model: Any, tokenizer: Any, task: QuestionAnswering, table: dict[str, list[Any]], batch_size: int, size: int,
    nullable: bool,
) -> list[list[str]]:  # fmt: skip
    """The answer to each question and its share among the n best."""
    count = len(table["question"])
    columns = {name: table[name] for name in ("question", "context")}
    columns |= {"id": [str(number) for number in range(count)], "answers": [[]] * count, "starts": [[]] * count}
    rows = task.encode(Dataset.from_dict(columns, features=task.features()), tokenizer, size)
    starts, ends = _outputs(model, tokenizer, task, rows, batch_size, ("start_logits", "end_logits"))
    found = []
    for answer in task.answers(starts, ends, rows, nullable=nullable):
        share = next(candidate.probability for candidate in answer.candidates if candidate.text == answer.text)
        found.append([answer.text, f"{share:.4f}"])
    return found


def _texts(
    model: Any, tokenizer: Any, task: SequenceToSequence, sources: Sequence[str], batch_size: int, size: int
) -> list[str]:
    """The text that is written for each source."""
    columns = {"source": [*sources], "target": [[""]] * len(sources)}
    rows = task.encode(Dataset.from_dict(columns, features=task.features()), tokenizer, size)
    found: list[str] = []
    for batch in _batches(model, tokenizer, task, rows, batch_size):
        try:
            written = task.outputs(model, batch)
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # of a generation_config of any form
            raise KdzooError(f"{task.name} does not write: {type(error).__name__}: {error}") from error
        found += task.decoded(written.cpu().numpy(), tokenizer)
    return found


def _outputs(
    model: Any, tokenizer: Any, task: ReadTask, rows: Dataset, batch_size: int, names: Sequence[str]
) -> list[np.ndarray]:
    """A model's outputs of all rows by name, (N, S, ...), 0 behind a row's end."""
    longest = max(rows["length"][:])
    found: list[list[np.ndarray]] = [[] for _ in names]
    for batch in _batches(model, tokenizer, task, rows, batch_size):
        made = task.outputs(model, batch)
        for parts, name in zip(found, names, strict=True):
            values = made[name].float().cpu().numpy()
            if (np.isnan(values) | np.isposinf(values)).any():  # a head may mask places with -inf
                raise KdzooError(
                    "the student gives no numbers for some of the rows (NaN or infinite): its weights are broken"
                )
            room = [(0, 0), (0, longest - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
            parts.append(np.pad(values, room))
    return [np.concatenate(parts) for parts in found]


def _batches(model: Any, tokenizer: Any, task: ReadTask, rows: Dataset, batch_size: int) -> Any:
    """The model's inputs, batch by batch, without labels."""
    names, collator = accepted_inputs(model), task.collator(tokenizer)
    for start in range(0, len(rows), batch_size):
        made = collator(rows.select(range(start, min(start + batch_size, len(rows)))).to_list())
        yield {name: value.to(model.device) for name, value in made.items() if name in names}
