"""A trained student's predictions on a table of text: by the labels' names, tags, answers or texts."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch

from kdzoo.bench.escape import csv as safe
from kdzoo.bench.files import read_json, write_atomically
from kdzoo.bench.record import TEACHER
from kdzoo.bench.runs.predicting_by_task import COLUMNS, room, say, task_of
from kdzoo.errors import KdzooError, unknown
from kdzoo.models.loading import MissingHead, load_model, load_tokenizer, read_config, why_not
from kdzoo.models.sembert import SemBertConfig
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS
from kdzoo.tasks import WithKnowledge, WithRoles, get_task
from kdzoo.tasks.question_answering import ANSWERS, NULLABLE
from kdzoo.tasks.reading import half_letters
from kdzoo.tasks.sources.files import SUFFIXES, read_table, suffix_of
from kdzoo.training.agreement import accepted_inputs

THRESHOLD = 0.5  # of a label's probability, where a row may have several
SEPARATOR = "|"
TRIPLE = ("head", "relation", "tail")


class Written(NamedTuple):
    """What was predicted.

    Attributes:
        rows: how many.
        columns: of the text.
        cut: the rows that are longer than the student reads.
        max_length: the tokens that it reads.
    """

    rows: int
    columns: tuple[str, ...]
    cut: int
    max_length: int


def load_student(folder: Path) -> tuple[Any, Any]:
    """A student that classifies rows, in evaluation mode, and its tokenizer.

    Raises:
        KdzooError: there is none, it has another head, or no tokenizer beside it.
    """
    config, head = saved(folder)
    if head and "ForSequenceClassification" not in head:
        raise KdzooError(f"{folder} holds a {head}; taken are models that classify rows, tag, answer or write")
    if config.model_type == SemBertConfig.model_type:
        raise KdzooError(
            f"{folder} reads semantic roles beside the words; take a student of it, which reads words alone"
        )
    try:
        model = load_model(folder, new_head=False)
    except MissingHead as error:
        raise KdzooError(f"{error}; distil it on a task first") from None
    _check_labels(folder, model.config)
    return model, load_tokenizer(folder)


def saved(folder: Path) -> tuple[Any, str]:
    """A folder's configuration, and the name of the class that was saved there; empty where it has none.

    Raises:
        KdzooError: there is none.
    """
    if not (folder / "config.json").is_file():
        raise KdzooError(f"{folder} holds no model; name the folder that distill, finetune or compare wrote one into")
    try:
        config = read_config(folder)
        heads = config.architectures or []
    except Exception as error:  # a file of another form shows as an error of any kind
        raise KdzooError(f"the configuration of {folder} cannot be read: {why_not(str(folder), error)}") from None
    heads = [*map(str, heads if isinstance(heads, list) else [heads])]
    return config, next((head for head in heads if "ForSequenceClassification" not in head), "".join(heads[:1]))


def _check_labels(folder: Path, config: Any) -> None:
    """Refuse a head for another kind of labels than there are, or whose labels have no names, or two the same."""
    kinds, said = (CLASSES, LABELS, NUMBERS), config.problem_type
    if said is not None and said not in kinds:
        raise KdzooError(f"the configuration of {folder} has problem_type={said!r}; it is one of {', '.join(kinds)}")
    names = [config.id2label.get(index) for index in range(config.num_labels)]
    if not all(isinstance(name, str) and name.strip() for name in names) or len({*names}) < len(names):
        raise KdzooError(
            f"the configuration of {folder} names its {config.num_labels} labels {names[:10]}; each needs a name of "
            "its own, as id2label"
        )


def predict_file(
    student: Path,
    file: Path,
    out: Path,
    *,
    columns: Sequence[str] = (),
    batch_size: int = 32,
    max_length: int | None = None,
) -> Written:
    """Write a CSV file with the text columns of a table and what a student says of each row.

    One class: its name as ``label`` and its ``probability``. Several labels a row: the names of those that are more
    likely than not, joined by ``|``, and the probability of each as ``probability_NAME``. Numbers: ``value``, or
    ``value_NAME`` each where there are several. Of words: ``tags``, as many as words, joined by spaces. Of a question
    and a paragraph: ``answer`` and its ``probability`` among the n best. Of a source: what is ``written``.

    Args:
        student: its folder.
        file: the table.
        out: the CSV file.
        columns: one text column, or two; by default those that the student was trained on,
            where its record says so and the table has them, or the only one of text. Words are lists, or texts that
            are cut at white space.
        batch_size: rows at a time.
        max_length: most tokens a row keeps; by default as the student was trained, or what it can read.

    Raises:
        KdzooError: for a student or a table that cannot be read, or a row without text; in one line.
    """
    if not file.is_file():
        raise KdzooError(f"there is no file {file}")
    if suffix_of(file) is None:
        raise KdzooError(f"{file}: a table is in {', '.join(SUFFIXES)}; rename the file after what it is")
    table = read_table(file)
    trained = _trained_with(student)
    if trained.columns == TRIPLE:
        raise KdzooError(f"{student} reads the triples of a graph, by its names; distill and finetune score it on them")
    if trained.facts:
        raise KdzooError(f"{student} reads facts beside the words; take a student of it, which reads words alone")
    config, head = saved(student)
    if not head and trained.kind in COLUMNS:
        raise KdzooError(f"the configuration of {student} names no architectures, by which its head would be known")
    task = task_of(student, head, config, trained.own)
    usual = trained.columns if task is None else COLUMNS[task.kind]
    wanted = None if task is None else len(usual)
    tags = task is not None and task.kind == "tokens"
    names = _text_columns(table, columns or (usual if {*usual} <= {*table} else ()), file, wanted, words=tags)
    texts = [_texts(table[name], name, file, words=tags) for name in names]
    if task is not None:
        given = dict(zip(usual, [[*map(_words, texts[0])]] if tags else texts, strict=True))
        most = max_length or trained.max_length
        made = say(student, task, given, batch_size=batch_size, length=most, nullable=trained.nullable)
        header, rows, cut, length = made
    else:
        model, tokenizer = load_student(student)
        length = room(model, tokenizer, max_length or trained.max_length)
        logits, cut = _logits(model, tokenizer, texts, batch_size, length)
        if not np.isfinite(logits).all():
            raise KdzooError(
                f"{student} gives no numbers for some of the rows (NaN or infinite): its weights are broken"
            )
        header, rows = _named(model.config, logits)
    for name in header:
        if name in names:
            raise KdzooError(f"the column {name!r} of {file} has the name of what is written; rename it")
    # A list of words is written as such, so that there are as many as tags whatever is in them.
    shown = ([json.dumps(t, ensure_ascii=False) if isinstance(t, list) else t for t in column] for column in texts)
    written = io.StringIO()
    writers = [csv.writer(written, lineterminator="\n", quoting=form) for form in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL)]
    for line in (
        [*names, *header],
        *([*given, *says] for given, says in zip(zip(*shown, strict=True), rows, strict=True)),
    ):
        writers["\r" in "".join(line)].writerow(line)  # which readers take for the end of a line
    write_atomically(out, written.getvalue())
    return Written(len(rows), tuple(names), cut, length)


def _text_columns(
    table: dict[str, list[Any]], asked: Sequence[str], file: Path, wanted: int | None, *, words: bool
) -> list[str]:
    """The columns to read: those asked for, or the only one that can be.

    Args:
        table: by column.
        asked: for which columns.
        file: the table's.
        wanted: how many the student reads, where it is known.
        words: whether a row may be a list of words.
    """
    if not table or not next(iter(table.values())):
        raise KdzooError(f"{file} has no rows")
    for name in asked:
        if name not in table:
            raise unknown(f"column of {file}", name, table)
    if len(asked) > 2:
        raise KdzooError(f"--text names {len(asked)} columns; a student reads one or two")
    if len({*asked}) < len(asked) or (wanted is not None and asked and len(asked) != wanted):
        raise KdzooError(f"--text names {', '.join(asked)}; this student reads {wanted or 'one column, or two others'}")
    if asked:
        return [*asked]
    found = [name for name, values in table.items() if all(isinstance(value, str) for value in values)]
    if words:
        listed = [name for name, values in table.items() if all(isinstance(value, list) for value in values)]
        found = listed if len(listed) == 1 else [*listed, *found]
    if wanted == 2:
        raise KdzooError(
            f"the student reads a question and its paragraph; say which columns of {file}: --text QUESTION,CONTEXT"
        )
    if len(found) != 1:
        raise KdzooError(
            f"{file} has {len(found)} columns of text ({', '.join(found) or 'none'}); say which the student reads, "
            "--text COLUMN, or --text FIRST,SECOND in the order that it was trained with"
        )
    return found


def _texts(values: Sequence[Any], name: str, file: Path, *, words: bool) -> list[Any]:
    """A column's texts, or where there may be ``words`` each row's text or list of them; checked."""
    for number, value in enumerate(values, 1):
        listed = words and isinstance(value, list) and value and all(isinstance(word, str) for word in value)
        if not listed and (not isinstance(value, str) or not value.strip()):
            raise KdzooError(f"{file}, row {number}: {name} is {value!r}; a row needs text there")
        if half_letters(value):
            raise KdzooError(f"{file}, row {number}: {name} holds half of a letter (a surrogate by itself)")
    return [*values]


def _words(row: str | list[str]) -> list[str]:
    return row.split() if isinstance(row, str) else row


class _Trained(NamedTuple):
    """What of a student's training decides how it reads a table.

    Attributes:
        columns: of text.
        max_length: of a row.
        own: the task's settings, as its `Task.identity` has them.
        kind: of the task.
        nullable: whether some question that it was scored on had no answer.
        facts: whether the model read facts beside the words.
    """

    columns: tuple[str, ...] = ()
    max_length: int | None = None
    own: Mapping[str, Any] = MappingProxyType({})
    kind: str = ""
    nullable: bool = False
    facts: bool = False


def _trained_with(student: Path) -> _Trained:
    """What the student was trained with, where its record is beside it; what a record cannot say is left out."""
    file = student / "record.json"
    record: Any = read_json(file) if file.is_file() else {}

    def of(*names: str) -> Any:
        inner = record
        for name in names:
            inner = inner.get(name) if isinstance(inner, dict) else None
        return inner

    # Beside a comparison's student what its cells share is in a part of its own.
    task, shared = str(of("configuration", "task")), ("configuration", "shared")
    own = of("configuration", "own_task") or of(*shared, "own_tasks", task)
    if own is None:
        own = _identity(task)
    own = own if isinstance(own, dict) else {}
    columns: Any = own.get("columns")
    length = of("configuration", "budget", "max_length") or of(*shared, "budget", "max_length")
    named = isinstance(columns, (list, tuple)) and all(isinstance(name, str) for name in columns)
    counted = isinstance(length, int) and not isinstance(length, bool) and length > 1
    golds = of("references")
    golds = [*golds.values()] if isinstance(golds, dict) else []  # which a comparison's students have not
    nullable = of("scored_by", ANSWERS) == NULLABLE or any([] in rows for rows in golds if isinstance(rows, list))
    # In the other arms the teacher alone reads them.
    method = of("configuration", "method")
    above = method == TEACHER if method is not None else of("configuration", "student") is None
    facts = own.get("facts") is not None and (own.get("arm") == "both" or (above and own.get("arm") != "none"))
    kind = str(of("kind"))
    return _Trained(tuple(columns) if named else (), length if counted else None, own, kind, nullable, facts)


def _identity(task: str) -> Any:
    """The settings of a registered task, or of one in an arm; none of another."""
    with suppress(KdzooError):
        return get_task(task).identity()
    inner, _, arm = task.rpartition("-")
    with suppress(KdzooError):
        found = get_task(inner)
        if isinstance(found, (WithKnowledge, WithRoles)):
            return found.in_arm(arm).identity()
    return {}


@torch.inference_mode()
def _logits(
    model: Any, tokenizer: Any, texts: Sequence[Sequence[str]], batch_size: int, length: int
) -> tuple[np.ndarray, int]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model.to(device)
    inputs, found, cut = accepted_inputs(model), [], 0
    for start in range(0, len(texts[0]), batch_size):
        part = [list(column[start : start + batch_size]) for column in texts]
        encoded = tokenizer(*part, truncation=True, max_length=length, padding=True, return_tensors="pt")
        whole = tokenizer(*part, truncation=False, verbose=False)["input_ids"]
        cut += sum(len(row) > length for row in whole)
        given = {name: value.to(device) for name, value in encoded.items() if name in inputs}
        found.append(model(**given).logits.float().cpu().numpy())
    return np.concatenate(found), cut


def _named(config: Any, logits: np.ndarray) -> tuple[list[str], list[list[Any]]]:
    """The header of the predictions and their rows."""
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
