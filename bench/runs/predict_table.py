"""What a student says of the rows of a table, written as a table: ``kdzoo predict``."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kdzoo.bench.files import write_atomically
from kdzoo.bench.runs.predictions import predictions_of
from kdzoo.bench.runs.student_folder import ReadTask, check_words_alone, load_student, task_of, trained_with
from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.own_sequences import is_tagged_line
from kdzoo.tasks.reading import half_letters
from kdzoo.tasks.sources.files import SUFFIXES, open_text, read_table, suffix_of
from kdzoo.tasks.sources.rows import with_keys

TRIPLE = ("head", "relation", "tail")
ROWS = {  # by kind, what a student does, the form that it is trained from, and a row as it is read here
    "tokens": ("tags words", "CoNLL's form", '{"words": ["Anna", "left"]}'),
    "spans": ("answers questions", "SQuAD's JSON", '{"question": "Who left?", "context": "Anna left."}'),
}


class Written(NamedTuple):
    """What was predicted.

    Attributes:
        rows: how many.
        columns: of the text.
        cut: the rows that are longer than the student reads.
        max_length: the tokens that it reads.
        cut_otherwise: whether the student was trained on the words of a labeller (`WithRoles`), and not on texts that
            its tokenizer cuts by itself.
    """

    rows: int
    columns: tuple[str, ...]
    cut: int
    max_length: int
    cut_otherwise: bool


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
    trained = trained_with(student)
    if trained.columns == TRIPLE:
        raise KdzooError(f"{student} reads the triples of a graph, by its names; distill and finetune score it on them")
    check_words_alone(student, trained)
    task = task_of(student, trained)
    if suffix_of(file) is None:
        _check_form(file, task)
        raise KdzooError(f"{file}: a table is in {', '.join(SUFFIXES)}; rename the file after what it is")
    whole = _read(file, task)
    table = with_keys(whole)
    usual, wanted = (trained.columns, None) if task is None else (task.columns, len(task.columns))
    if len(trained.called) == wanted and {*trained.called} <= {*table}:
        usual = trained.called
    words = task is not None and task.kind == "tokens"
    asked = columns or (usual if {*usual} <= {*table} else ())
    # Keys of a column are read where they are named: of the columns one alone may be text.
    names = _text_columns(table if asked else whole, asked, file, wanted, words=words)
    texts = [_texts(table[name], name, file, words=words) for name in names]
    made = predictions_of(
        load_student(student, trained),
        [[row.split() if isinstance(row, str) else row for row in column] for column in texts] if words else texts,
        batch_size=batch_size,
        max_length=max_length or trained.max_length,
        nullable=trained.nullable,
    )
    for name in made.header:
        if name in names:
            raise KdzooError(f"the column {name!r} of {file} has the name of what is written; rename it")
    # A list of words is written as such, so that there are as many as tags whatever is in them.
    shown = ([json.dumps(t, ensure_ascii=False) if isinstance(t, list) else t for t in column] for column in texts)
    body = ([*given, *says] for given, says in zip(zip(*shown, strict=True), made.rows, strict=True))
    write_atomically(out, _csv([*names, *made.header], *body))
    return Written(len(made.rows), tuple(names), made.cut, made.max_length, "roles" in trained.own)


def _read(file: Path, task: ReadTask | None) -> dict[str, list[Any]]:
    """The columns of a table; a CoNLL file is none, whose lines are words.

    Raises:
        KdzooError: says what the student reads instead.
    """
    try:
        table = read_table(file)
    except KdzooError:
        # Lines of one field between blank ones, say, are no table.
        if ".tsv" in file.name and is_tagged_line(open_text(file).readline().split()):
            _check_form(file, task)
        raise
    if ".tsv" in file.name and is_tagged_line(" ".join(table).split()):
        _check_form(file, task)
    return table


def _check_form(file: Path, task: ReadTask | None) -> None:
    """Refuse the form that tagged words or questions are trained from, for a student that reads these as rows.

    Raises:
        KdzooError: says which rows.
    """
    if task is not None and task.kind in ROWS:
        what, form, row = ROWS[task.kind]
        raise KdzooError(
            f"{file}: a student that {what} reads a table here, and {form} is none; write JSONL, in each line {row}"
        )


def _csv(*lines: Sequence[str]) -> str:
    """Lines of cells, ended by line feeds; quoted where a cell holds what readers take for the end of a line."""
    written = io.StringIO()
    plain, quoted = (csv.writer(written, lineterminator="\n", quoting=f) for f in (csv.QUOTE_MINIMAL, csv.QUOTE_ALL))
    for line in lines:
        (quoted if any("\r" in cell for cell in line) else plain).writerow(line)
    return written.getvalue()


def _text_columns(
    table: Mapping[str, Sequence[Any]], asked: Sequence[str], file: Path, wanted: int | None, *, words: bool
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
