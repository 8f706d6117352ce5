"""A user's own data as a task: its kind, its labels and its splits are found from the data, and can be set."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.classification import KINDS, Classification, as_name, as_number, is_missing
from kdzoo.tasks.metric_words import shown
from kdzoo.tasks.metrics import BINARY, get_metric
from kdzoo.tasks.own_folds import Folds, in_folds
from kdzoo.tasks.own_graphs import GRAPHS, from_graph
from kdzoo.tasks.own_pairs import from_pairs
from kdzoo.tasks.own_reading import Table, tables_of
from kdzoo.tasks.own_sequences import SEQUENCES, check_kind, check_untagged, from_sequences, kind_hint, title_of
from kdzoo.tasks.reading import half_letters
from kdzoo.tasks.sources.rows import checked
from kdzoo.tasks.splitting import held_out_numbers, leaks

if TYPE_CHECKING:
    from datasets import Dataset

MOST_CLASSES = 20  # distinct integers that are still classes, and not numbers
SEPARATOR = "|"  # of several labels in one text, unless another is given
FAR, NEAR = 10.0, 0.01  # a mean or a deviation of numbers beyond which a model is slow to get to them
MERGED = "labels"  # the column of several labels that stood in columns of their own


@dataclass(frozen=True)
class Own:
    """A task of somebody's own data, with what there is to say of it before anything runs.

    Attributes:
        tasks: the task, which brings its rows; of data in folds one a fold.
        notes: a line each: what was found, what was taken.
    """

    tasks: tuple[Task, ...]
    notes: tuple[str, ...]

    @property
    def task(self) -> Task:
        """The task of data that has no folds."""
        [task] = self.tasks
        return task


def from_data(
    data: Any,
    *,
    text: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    kind: str | None = None,
    labels: Sequence[str] | None = None,
    metric: str | Sequence[str] | None = None,
    separator: str | None = None,
    decoding: str | Mapping[str, Any] | None = None,
    name: str | None = None,
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    graph: Mapping[str, Any] | None = None,
    questions: Mapping[str, Any] | None = None,
    headline: str | Sequence[str] | None = None,
    folds: str | int | Mapping[str, Any] | None = None,
) -> Own:
    """A task from data of one's own.

    Args:
        data: a CSV, TSV, JSONL or Parquet file (also gzipped), a folder with one a split, a folder that `datasets`
            saved, a hub data set's name, a pandas DataFrame, a `datasets.Dataset` or ``DatasetDict``, or a mapping of
            splits to any of these.
        text: the text column, or two of them.
        label: the label's column; several of numbers, or of 0 and 1 with ``kind="multilabel"``.
        kind: ``"classification"``, ``"multilabel"`` or ``"regression"``, found from the labels when None; or
            ``"tokens"`` or ``"spans"`` (`kdzoo.tasks.own_sequences.from_sequences`), ``"seq2seq"``
            (`kdzoo.tasks.own_pairs.from_pairs`), or of a knowledge graph ``"triples"``, ``"relations"`` or ``"links"``
            (`kdzoo.tasks.own_graphs.from_graph`).
        labels: their names in order; found from the training rows when None.
        metric: what it is measured by; names of `kdzoo.tasks.metrics`, or ``package.module:function``.
        separator: what parts several labels in one text; ``"|"`` when None.
        decoding: of ``"seq2seq"``, how texts are written: ``"beam=5,no_repeat_ngram=3"``, or a mapping.
        name: the task's; the file's stem or the folder's name when None.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        seed: of the validation rows that are taken from training where there are none; of a knowledge graph's task,
            of what it draws.
        graph: settings of a knowledge graph's task.
        questions: settings of `kdzoo.tasks.QuestionAnswering`, ``stride``, ``max_question`` and ``null_threshold``.
        headline: of texts with labels, the metrics whose mean is the score; all that are named by `metric` when None.
        folds: of texts with labels, how the rows are divided for a cross-validation (`kdzoo.tasks.own_folds.Folds`).

    Raises:
        KdzooError: in one line, with file and row, for anything that makes no task.
    """
    check_kind(kind, (*KINDS, *GRAPHS))
    texts, columns = _listed(text), _listed(label)
    if decoding is not None and kind != "seq2seq":
        raise KdzooError("decoding is for tasks that write texts, --kind seq2seq; leave it out")
    if kind in ("seq2seq", *SEQUENCES, *GRAPHS):
        for setting, told in (("headline", headline), ("folds", folds)):
            if told is not None:
                raise KdzooError(f"{setting} is for texts with labels or numbers, and the kind is {kind}; leave it out")
    if kind in (*SEQUENCES, *GRAPHS) and separator is not None:
        raise KdzooError(f"--label-separator is for several labels a row, which {kind} does not have; leave it out")
    if graph and kind not in GRAPHS:
        raise KdzooError(f"the settings {', '.join(graph)} are for graphs; set kind to one of {', '.join(GRAPHS)}")
    if questions and kind != "spans":
        raise KdzooError(f"the settings {', '.join(questions)} are for questions; set kind to spans")
    if kind in GRAPHS:
        none = {"--text": texts, "--label": columns, "--labels": _listed(labels), "splits": splits}
        of_graph = name or f"{title_of(data)}-{kind}"
        return _alone(*from_graph(data, kind, metric=_listed(metric), name=of_graph, graph=graph, seed=seed, **none))
    if kind == "seq2seq":
        if labels:
            raise KdzooError("a task that writes texts has no --labels; leave them out")
        own: dict[str, Any] = {"metric": _listed(metric), "decoding": decoding, "splits": splits, "seed": seed}
        return _alone(*from_pairs(data, text=texts, label=columns, name=name or title_of(data), **own))
    if kind in SEQUENCES:
        own = {"labels": _listed(labels), "metric": _listed(metric), "splits": splits, "seed": seed}
        own |= {"questions": questions or {}}
        return _alone(*from_sequences(data, kind, text=texts, label=columns, name=name or title_of(data), **own))
    title = name or title_of(data)
    divided = None if folds is None else Folds.parse(folds)
    more = divided.columns if divided is not None and texts and columns else ()
    if not (texts or columns):
        check_untagged(data)
    tables, unused = tables_of(data, texts, (*columns, *more), splits)
    _check_columns(tables, texts, columns, more)
    if divided is not None:
        divided.check(title, tables)
    if len(columns) > 1:
        tables, columns, labels = _several_columns(tables, columns, kind, labels)
    parting = separator or SEPARATOR
    found = kind or _kind(tables["train"], columns, parting)
    if separator is not None and found != "multilabel":
        raise KdzooError(
            f"{title}: --label-separator is for several labels a row, and the kind is {found}; leave it out, or set "
            "the kind to multilabel"
        )
    if found == "regression" and labels:
        raise KdzooError(f"{title}: numbers have no labels; leave --labels out, or set --kind classification")
    if found == "multilabel":
        for table in tables.values():
            _check_lists(table, columns[0])
    names: tuple[str, ...] = ()
    if found != "regression":
        names = _listed(labels) or _names(tables["train"], columns[0], found, parting)
    if half_letters(names):
        raise KdzooError(f"{tables['train'].origin}: a label holds half of a letter (a surrogate by itself); rename it")
    task = Classification(
        name=title,
        columns=texts,
        labels=names,
        kind=found,
        label_columns=columns,
        separator=parting,
        headline=_listed(headline),
        metrics=_listed(metric),
        test_split="test" if "test" in tables else None,
    )
    if task.labels:
        _check_trained(task, tables, told=bool(_listed(labels)))
    rows = {split: checked(task, table.origin, table.columns) for split, table in tables.items()}
    notes = [task.describe(), *(f"{title}: the split {split} is not used" for split in unused)]
    notes += [*_about_numbers(task, rows["train"]), *_about_classes(task)]
    if divided is not None:
        tasks, said = in_folds(task, rows["train"], divided, tables["train"], seed)
        _try_metrics(task, rows["train"])
        return Own(tasks, (*notes, *said))
    if "validation" not in rows:
        parts = dict(zip(("train", "validation"), held_out_numbers(rows["train"], task, seed), strict=True))
        rows |= {split: rows["train"].select(numbers) for split, numbers in parts.items()}
        task = replace(task, parted=parts)
        notes.append(
            f"{title}: no validation rows: {len(rows['validation'])} of {len(tables['train'])} training rows are "
            f"taken, stratified, with seed {seed}"
        )
    notes += leaks(task, rows)
    _try_metrics(task, rows["validation"])
    return _alone(replace(task, read=partial(dict, rows)), notes)


def _alone(task: Task, notes: Sequence[str]) -> Own:
    return Own((task,), tuple(notes))


def _check_columns(
    tables: Mapping[str, Table], texts: Sequence[str], columns: Sequence[str], more: Sequence[str] = ()
) -> None:
    """Refuse columns that are not named, named twice or not there, and splits of no row or one.

    Raises:
        KdzooError: names the file and the columns there are.
    """
    train = tables["train"]
    missing = [option for option, given in (("--text", texts), ("--label", columns)) if not given]
    if missing:
        raise KdzooError(
            f"{train.origin}: say which columns to take with {' and '.join(missing)}; it has {_named(train)}"
            f"{kind_hint(train.columns)}"
        )
    named = [*texts, *columns, *more]
    for column in named:
        if named.count(column) > 1:
            what = "text, label or fold" if more else "text or label"
            raise KdzooError(f"the column {column!r} is named twice, as {what}; name each once")
    for table in tables.values():
        for column in named:
            if column not in table.columns:
                raise KdzooError(f"{table.origin}: no column {column!r}; it has {_named(table)}")
        if len(table) < 2:
            has = "one row" if len(table) else "no row"
            raise KdzooError(f"{table.origin}: the split has {has}; it needs two or more")


def _try_metrics(task: Classification, rows: Dataset) -> None:
    """Call a user's functions once, on labels of other rows as predictions, before anything is trained.

    Raises:
        KdzooError: one fails, or gives no finite number.
    """
    own = [name for name in task.metrics if ":" in name]
    if own:
        labels = np.asarray(task.labels_of(rows[:]))
        for name in own:
            get_metric(name, task.kind).compute(np.roll(labels, 1, axis=0), labels)


def _about_numbers(task: Classification, rows: Dataset) -> list[str]:
    """A line for each label column whose numbers are far from what a model gives before it is trained."""
    notes = []
    for column in task.label_columns if task.regression else ():
        values = np.asarray(rows[column][:], dtype=float)
        mean, deviation = values.mean(), values.std()
        if abs(mean) > FAR or not NEAR <= deviation <= FAR:
            notes.append(
                f"{task.name}: {column} has numbers of mean {mean:.4g} and standard deviation {deviation:.4g}, and an "
                "untrained model gives numbers near 0; scale the column to mean 0 and standard deviation 1, or the "
                "model may not get there"
            )
    return notes


def _about_classes(task: Classification) -> list[str]:
    """A line on the class that metrics of two classes are of, which of 0 and 1 is 1."""
    named = [shown(metric, task.metrics) for metric in task.metrics if metric in BINARY]
    if task.kind != "classification" or not named or task.labels == ("0", "1"):
        return []
    verb = "is" if len(named) == 1 else "are"
    return [f"{task.name}: {', '.join(named)} {verb} of the label {task.labels[1]!r}, the second; --labels orders them"]


# --- labels ---


def _several_columns(
    tables: dict[str, Table], columns: tuple[str, ...], kind: str | None, labels: Sequence[str] | None
) -> tuple[dict[str, Table], tuple[str, ...], Sequence[str] | None]:
    """Several label columns: targets of a regression, or one label each, which become one column of lists."""
    if kind is None or kind == "classification":
        raise KdzooError(
            f"the label columns {', '.join(columns)} may be several numbers or several labels; say --kind regression, "
            "or --kind multilabel where each holds 0 or 1"
        )
    if kind == "regression":
        return tables, columns, labels
    names = _listed(labels) or columns
    if len(names) != len(columns):
        raise KdzooError(f"{len(columns)} label columns and {len(names)} labels; name one a column")
    merged = {}
    for split, table in tables.items():
        rows: list[list[str]] = []
        for row in range(len(table)):
            marks = [table.columns[column][row] for column in columns]
            for column, mark in zip(columns, marks, strict=True):
                if as_number(mark) not in (0, 1):
                    raise KdzooError(f"{table.origin}, row {row + 1}, column {column!r}: expected 0 or 1, got {mark!r}")
            rows.append([name for name, mark in zip(names, marks, strict=True) if as_number(mark) == 1])
        merged[split] = Table(table.origin, {**table.columns, MERGED: rows})
    return merged, (MERGED,), names


def _kind(table: Table, columns: tuple[str, ...], separator: str) -> str:
    """What the training labels are.

    Raises:
        KdzooError: some are numbers and some are not.
    """
    values = table.columns[columns[0]]
    _check_given(table, columns[0], separator)
    _check_lists(table, columns[0], ", or say --kind classification to take each for a name")
    if any(isinstance(_as_list(value), (list, tuple, np.ndarray)) for value in values):
        return "multilabel"
    numbers = [as_number(value) for value in values]
    if any(isinstance(value, bool) for value in values):
        return "classification"
    numeric = [math.isfinite(number) for number in numbers]
    if all(numeric):
        whole = all(number.is_integer() for number in numbers)
        return "classification" if whole and len(set(numbers)) <= MOST_CLASSES else "regression"
    if any(numeric) and sum(numeric) * 10 >= len(numeric):
        row = numeric.index(not numeric[0])
        raise KdzooError(
            f"{table.origin}, row {row + 1}, column {columns[0]!r}: {values[row]!r} stands among "
            f"{'numbers' if numeric[0] else 'texts'} ({sum(numeric)} of {len(numeric)} labels are numbers); mend the "
            "column, or say --kind classification to take each for a name"
        )
    return "multilabel" if any(separator in str(value) for value in values) else "classification"


def _check_given(table: Table, column: str, separator: str) -> None:
    """Refuse a row without a label."""
    values = table.columns[column]
    several = any(isinstance(_as_list(value), (list, tuple)) or separator in str(value) for value in values)
    for row, value in enumerate(values, 1):
        if is_missing(value):
            none = "; where a row may have none of several labels, say --kind multilabel"
            raise KdzooError(
                f"{table.origin}, row {row}, column {column!r}: the row has no label{none if several else ''}"
            )


def _as_list(value: Any) -> Any:
    """A label as it is, or the list that a table of text has as JSON, as `Classification` reads it."""
    if isinstance(value, str) and value.startswith("[") and value.endswith("]"):
        with suppress(ValueError, RecursionError):
            return json.loads(value)
    return value


def _check_lists(table: Table, column: str, otherwise: str = "") -> None:
    """Refuse lists that were written as Python shows them, which no reader takes for lists.

    Args:
        table: of a split.
        column: of the labels.
        otherwise: what else may be done.
    """
    for row, value in enumerate(table.columns[column], 1):
        read = _as_list(value)
        if isinstance(read, str) and read.strip().startswith("[") and read.strip().endswith("]"):
            raise KdzooError(
                f"{table.origin}, row {row}, column {column!r}: {value!r} looks like a list as Python shows it, which "
                f'pandas\' to_csv writes; write JSON (["a", "b"], json.dumps) or a|b{otherwise}'
            )


def _names(table: Table, column: str, kind: str, separator: str) -> tuple[str, ...]:
    """The labels that the training rows have: whole numbers in their order, others by the alphabet."""
    found: set[str] = set()
    if kind == "classification":
        _check_given(table, column, separator)
    for value in table.columns[column]:
        found.update(_marks(value, kind, separator))
    names = sorted(found)
    if all(math.isfinite(as_number(name)) for name in names):
        names = sorted({str(int(as_number(n))) if as_number(n).is_integer() else n for n in names}, key=as_number)
    rows = len(table)
    if kind == "classification" and len(names) == rows:
        raise KdzooError(
            f"{table.origin}: every row of the column {column!r} has a label of its own ({names[0]!r} ...); "
            "name the label's column, or set --kind"
        )
    return tuple(names)


def _marks(value: Any, kind: str, separator: str) -> list[str]:
    """The names of the labels of one row; none where there is no label."""
    if kind == "classification":
        return [] if is_missing(value) else [as_name(value)]
    value = _as_list(value)
    if isinstance(value, str):
        return [part.strip() for part in value.split(separator) if part.strip()]
    # What is no list of labels is refused with its row, where the rows are read.
    return [as_name(part) for part in value] if isinstance(value, (list, tuple, np.ndarray)) else []


def _check_trained(task: Classification, tables: Mapping[str, Table], *, told: bool) -> None:
    """Refuse labels in other splits that no training row has.

    Args:
        task: what for.
        tables: by split.
        told: whether the labels' names and order were given, by which an id has a meaning; the order of names that
            were found in training says nothing of the ids of another split.

    Raises:
        KdzooError: names the row and the labels that training has.
    """
    [column] = task.label_columns
    trained = {mark for _, marks in _marked(task, tables["train"], column) for mark in marks}
    for split, table in tables.items():
        if split == "train":
            continue
        for row, marks in _marked(task, table, column):
            for mark, name in marks.items():
                if mark not in trained or not (told or as_name(name) in task.labels or not task.ids_count):
                    known = ", ".join(task.labels[index] for index in sorted(i for i in trained if i is not None)[:20])
                    raise KdzooError(
                        f"{table.origin}, row {row}, column {column!r}: no training row has the label {name!r}; "
                        f"training has {known}{', ...' if len(trained) > 20 else ''}"
                    )


def _marked(task: Classification, table: Table, column: str) -> Iterator[tuple[int, dict[int | None, str]]]:
    """Each row's number and its labels by id, None for one that is none of the task's; what is no label is left out."""
    for row, value in enumerate(table.columns[column], 1):
        marks: dict[int | None, str] = {}
        for name in _marks(value, task.kind, task.separator):
            try:
                marks[task.class_of(name)] = name
            except KdzooError:
                marks[None] = name
        yield row, marks


# --- names ---


def _listed(value: str | Sequence[str] | None) -> tuple[str, ...]:
    """One name, several parted by commas, or a sequence of them."""
    if value is None:
        return ()
    parts = value.split(",") if isinstance(value, str) else [str(part) for part in value]
    return tuple(part.strip() for part in parts if part.strip())


def _named(table: Table) -> str:
    return ", ".join(table.columns) or "none"
