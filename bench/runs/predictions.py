"""What a student says of texts: labels or numbers of rows, tags of words, answers to questions, texts of its own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from datasets import Dataset
from datasets.utils.logging import disable_progress_bar

from kdzoo.bench.escape import csv as safe
from kdzoo.bench.runs.budget import MOST_LENGTH
from kdzoo.bench.runs.student_folder import ReadTask, Student
from kdzoo.errors import KdzooError
from kdzoo.models.heads import positions
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS
from kdzoo.tasks import QuestionAnswering, TokenClassification
from kdzoo.tasks.padding import padding_side
from kdzoo.tasks.pieces import tokenizer_pieces
from kdzoo.training.agreement import accepted_inputs

THRESHOLD = 0.5  # of a label's probability, where a row may have several
SEPARATOR = "|"
CHUNK = 1000  # rows whose outputs are held at a time


class Predictions(NamedTuple):
    """What a student says of rows.

    Attributes:
        header, rows: the names of columns, and by row what is in them.
        cut: how many rows are longer than it reads.
        max_length: the most tokens that it reads of a row.
    """

    header: list[str]
    rows: list[list[str]]
    cut: int
    max_length: int


@dataclass
class _Reader:
    """A student with how much it reads at a time."""

    model: Any
    tokenizer: Any
    task: ReadTask | None
    batch_size: int
    size: int
    nullable: bool
    cut: int = 0


@torch.inference_mode()
def predictions_of(
    student: Student, texts: Sequence[Sequence[Any]], *, batch_size: int, max_length: int | None, nullable: bool = False
) -> Predictions:
    """What a student says of each row.

    Args:
        student: the model.
        texts: columns: of texts, or of lists of words where it tags them; question and paragraph where it answers.
        batch_size: rows at a time.
        max_length: most tokens of a row; as many as it can read where None.
        nullable: whether a question may have no answer.

    Raises:
        KdzooError: it gives no numbers, or its settings do not let it write.
    """
    disable_progress_bar()
    model, tokenizer, task = student
    model.to("cuda" if torch.cuda.is_available() else "cpu")
    bounds = (max_length, positions(model), tokenizer.model_max_length, MOST_LENGTH)
    reader = _Reader(model, tokenizer, task, batch_size, int(min(bound for bound in bounds if bound)), nullable)
    say = _SAY["classification" if task is None else task.kind]
    header: list[str] = []
    rows: list[list[str]] = []
    for start in range(0, len(texts[0]), CHUNK):
        header, said = say(reader, [column[start : start + CHUNK] for column in texts])
        rows += said
    return Predictions(header, rows, reader.cut, reader.size)


def _labels(reader: _Reader, texts: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    inputs, found = accepted_inputs(reader.model), []
    for start in range(0, len(texts[0]), reader.batch_size):
        part = [list(column[start : start + reader.batch_size]) for column in texts]
        side = padding_side(reader.tokenizer)
        told = {"truncation": True, "max_length": reader.size, "padding": True, "padding_side": side}
        encoded = reader.tokenizer(*part, **told, return_tensors="pt")
        reader.cut += _longer(reader, *part)
        given = {name: value.to(reader.model.device) for name, value in encoded.items() if name in inputs}
        found.append(reader.model(**given).logits.float().cpu().numpy())
        _check_numbers(np.isfinite(found[-1]))
    return named(reader.model.config, np.concatenate(found))


def named(config: Any, logits: np.ndarray) -> tuple[list[str], list[list[str]]]:
    """The header of a classifier's predictions and their rows.

    Args:
        config: the model's.
        logits: (N, C).
    """
    names = [safe(str(config.id2label[index])) for index in range(logits.shape[1])]
    kind = getattr(config, "problem_type", None) or (NUMBERS if logits.shape[1] == 1 else CLASSES)
    if kind == NUMBERS:
        header = ["value"] if len(names) == 1 else [f"value_{name}" for name in names]
        return header, [[f"{value:.6g}" for value in row] for row in logits]
    if kind == LABELS:
        likely = 1 / (1 + np.exp(-logits.astype(np.float64)))
        chosen = [SEPARATOR.join(name for name, p in zip(names, row, strict=True) if p > THRESHOLD) for row in likely]
        header = ["labels", *(f"probability_{name}" for name in names)]
        return header, [[said, *(f"{p:.4f}" for p in row)] for said, row in zip(chosen, likely, strict=True)]
    shifted = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    likely = shifted / shifted.sum(1, keepdims=True)
    best = likely.argmax(1)
    return ["label", "probability"], [[names[at], f"{row[at]:.4f}"] for at, row in zip(best, likely, strict=True)]


def _tags(reader: _Reader, texts: Sequence[Sequence[Sequence[str]]]) -> tuple[list[str], list[list[str]]]:
    """A tag for each word; O, or the first, for one of which the tokenizer leaves nothing."""
    task, pieces = cast("TokenClassification", reader.task), tokenizer_pieces(reader.tokenizer)
    read = [[bool(pieces(word)) for word in words] for words in texts[0]]
    other = "O" if "O" in task.labels else task.labels[0]
    kept = [[*compress(words, marks)] for words, marks in zip(texts[0], read, strict=True)]
    given = [words for words in kept if words]
    said: list[list[str]] = []
    if given:
        rows = _encoded(reader, words=given, tags=[[other] * len(words) for words in given])
        (logits,) = _outputs(reader, rows, "logits")
        said = task.predictions(logits, rows)
    tagged = iter(said)
    found = []
    for marks in read:
        own = iter(next(tagged) if any(marks) else ())
        found.append([" ".join(safe(next(own) if reads else other) for reads in marks)])
    return ["tags"], found


def _answers(reader: _Reader, texts: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The answer to each question and its share among the n best."""
    task, (questions, contexts) = cast("QuestionAnswering", reader.task), texts
    ids, none = [str(number) for number in range(len(questions))], ((),) * len(questions)
    rows = _encoded(reader, id=ids, question=questions, context=contexts, answers=none, starts=none)
    starts, ends = _outputs(reader, rows, "start_logits", "end_logits")
    found = []
    for answer in task.answers(starts, ends, rows, nullable=reader.nullable):
        share = next(candidate.probability for candidate in answer.candidates if candidate.text == answer.text)
        found.append([answer.text, f"{share:.4f}"])
    return ["answer", "probability"], found


def _written(reader: _Reader, texts: Sequence[Sequence[str]]) -> tuple[list[str], list[list[str]]]:
    """The text that is written for each source."""
    (sources,) = texts
    reader.cut += _longer(reader, list(sources))
    task = cast("ReadTask", reader.task)
    found: list[str] = []
    for batch in _batches(reader, _encoded(reader, source=sources, target=[[""]] * len(sources))):
        try:
            ids = task.outputs(reader.model, batch)
        except (AttributeError, IndexError, TypeError, ValueError) as error:  # of a generation_config of any form
            raise KdzooError(f"{task.name} does not write: {type(error).__name__}: {error}") from error
        found += task.decoded(ids.cpu().numpy(), reader.tokenizer)
    return ["written"], [[text] for text in found]


_SAY = {"classification": _labels, "tokens": _tags, "spans": _answers, "seq2seq": _written}


def _longer(reader: _Reader, *texts: list[str]) -> int:
    """How many rows have more tokens than are read."""
    return sum(len(ids) > reader.size for ids in reader.tokenizer(*texts, truncation=False, verbose=False)["input_ids"])


def _encoded(reader: _Reader, **columns: Sequence[Any]) -> Dataset:
    """Rows of the student's task as its model takes them."""
    task = cast("ReadTask", reader.task)
    made = Dataset.from_dict({name: list(values) for name, values in columns.items()}, features=task.features())
    return task.encode(made, reader.tokenizer, reader.size)


def _batches(reader: _Reader, rows: Dataset) -> Iterator[dict[str, torch.Tensor]]:
    """The model's inputs, batch by batch, without labels."""
    names, collator = accepted_inputs(reader.model), cast("ReadTask", reader.task).collator(reader.tokenizer)
    for start in range(0, len(rows), reader.batch_size):
        made = collator(rows.select(range(start, min(start + reader.batch_size, len(rows)))).to_list())
        yield {name: value.to(reader.model.device) for name, value in made.items() if name in names}


def _outputs(reader: _Reader, rows: Dataset, *names: str) -> list[np.ndarray]:
    """A model's outputs of all rows by name, (N, S, ...), 0 behind a row's end."""
    longest = max(rows["length"][:])
    found: list[list[np.ndarray]] = [[] for _ in names]
    for batch in _batches(reader, rows):
        made = reader.model(**batch)
        for parts, name in zip(found, names, strict=True):
            values = made[name].float().cpu().numpy()
            _check_numbers(np.isfinite(values) | np.isneginf(values))  # a head may mask places with -inf
            room = [(0, 0), (0, longest - values.shape[1]), *[(0, 0)] * (values.ndim - 2)]
            parts.append(np.pad(values, room))
    return [np.concatenate(parts) for parts in found]


def _check_numbers(are: np.ndarray) -> None:
    if not are.all():
        raise KdzooError("the student gives no numbers for some of the rows (NaN or infinite): its weights are broken")
