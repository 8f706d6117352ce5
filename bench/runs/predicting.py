"""A trained student's predictions on a table of text, by the labels' names."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from kdzoo.bench.escape import csv as safe
from kdzoo.bench.files import read_json, write_atomically
from kdzoo.errors import KdzooError, unknown
from kdzoo.models.loading import MissingHead, load_model, load_tokenizer, why_not
from kdzoo.models.shape import CLASSES, LABELS, NUMBERS
from kdzoo.tasks.sources.files import SUFFIXES, read_table, suffix_of
from kdzoo.training.agreement import accepted_inputs, positions

THRESHOLD = 0.5  # of a label's probability, where a row may have several
SEPARATOR = "|"


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
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise KdzooError(f"{folder} holds no model; name the folder that distill, finetune or compare wrote one into")
    try:
        heads = AutoConfig.from_pretrained(str(folder), trust_remote_code=False).architectures or []
    except Exception as error:  # a file of another form shows as an error of any kind
        raise KdzooError(f"the configuration of {folder} cannot be read: {why_not(str(folder), error)}") from None
    heads = heads if isinstance(heads, list) else [heads]
    other = [name for name in map(str, heads) if "ForSequenceClassification" not in name]
    if other:
        raise KdzooError(f"{folder} holds a {other[0]}; only models that classify whole rows are taken here")
    try:
        model = load_model(folder, new_head=False)
    except MissingHead as error:
        raise KdzooError(f"{error}; distil it on a task first") from None
    _check_labels(folder, model.config)
    return model, load_tokenizer(folder)


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
    ``value_NAME`` each where there are several.

    Args:
        student: its folder.
        file: the table.
        out: the CSV file.
        columns: one text column, or two; by default those that the student was trained on,
            where its record says so and the table has them, or the only one of text.
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
    own = trained.columns
    names = _text_columns(table, columns or (own if {*own} <= {*table} else ()), file)
    texts = [_texts(table[name], name, file) for name in names]
    model, tokenizer = load_student(student)
    bounds = (max_length or trained.max_length, positions(model), tokenizer.model_max_length)
    length = min(bound for bound in bounds if bound)
    logits, cut = _logits(model, tokenizer, texts, batch_size, length)
    if not np.isfinite(logits).all():
        raise KdzooError(f"{student} gives no numbers for some of the rows (NaN or infinite): its weights are broken")
    header, rows = _named(model.config, logits)
    written = io.StringIO()
    writer = csv.writer(written, lineterminator="\n")
    writer.writerow([*names, *header])
    writer.writerows([*given, *says] for given, says in zip(zip(*texts, strict=True), rows, strict=True))
    write_atomically(out, written.getvalue())
    return Written(len(logits), tuple(names), cut, length)


def _text_columns(table: dict[str, list[Any]], asked: Sequence[str], file: Path) -> list[str]:
    if not table or not next(iter(table.values())):
        raise KdzooError(f"{file} has no rows")
    for name in asked:
        if name not in table:
            raise unknown(f"column of {file}", name, table)
    if len(asked) > 2:
        raise KdzooError(f"--text names {len(asked)} columns; a student reads one or two")
    if asked:
        return [*asked]
    found = [name for name, values in table.items() if all(isinstance(value, str) for value in values)]
    if len(found) != 1:
        raise KdzooError(
            f"{file} has {len(found)} columns of text ({', '.join(found) or 'none'}); say which the student reads, "
            "--text COLUMN, or --text FIRST,SECOND in the order that it was trained with"
        )
    return found


def _texts(values: Sequence[Any], name: str, file: Path) -> list[str]:
    for number, value in enumerate(values, 1):
        if not isinstance(value, str) or not value.strip():
            raise KdzooError(f"{file}, row {number}: {name} is {value!r}; a row needs text there")
    return [*values]


class _Trained(NamedTuple):
    """What of a student's training decides how it reads a table."""

    columns: tuple[str, ...]
    max_length: int | None


def _trained_with(student: Path) -> _Trained:
    """What the student was trained with, where its record is beside it; what a record cannot say is left out."""
    record = student / "record.json"
    found: Any = read_json(record).get("configuration") if record.is_file() else None

    def of(*names: str) -> Any:
        inner = found
        for name in names:
            inner = inner.get(name) if isinstance(inner, dict) else None
        return inner

    # Beside a comparison's student what its cells share is in a part of its own.
    columns = of("own_task", "columns") or of("shared", "own_tasks", str(of("task")), "columns")
    length = of("budget", "max_length") or of("shared", "budget", "max_length")
    named = isinstance(columns, list) and all(isinstance(name, str) for name in columns)
    counted = isinstance(length, int) and not isinstance(length, bool) and length > 1
    return _Trained(tuple(columns) if named else (), length if counted else None)


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
