"""A user's tagged sentences or questions as a task: CoNLL files, SQuAD's JSON, or rows of lists."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks import question_answering, token_classification
from kdzoo.tasks.base import Columns
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.sources.files import SUFFIXES, read_table, suffix_of
from kdzoo.tasks.sources.rows import checked, columns_of
from kdzoo.tasks.token_classification import TokenClassification, sentences, tags_of

if TYPE_CHECKING:
    from datasets import Dataset

SEQUENCES = ("tokens", "spans", "seq2seq")
Made = tuple[TokenClassification | QuestionAnswering, tuple[str, ...]]


def from_sequences(
    data: Any,
    kind: str,
    *,
    text: Sequence[str] = (),
    label: Sequence[str] = (),
    labels: Sequence[str] = (),
    metric: Sequence[str] = (),
    name: str,
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
    questions: Mapping[str, Any] = MappingProxyType({}),
) -> Made:
    """A task of tagged sentences or of questions, and what there is to say of it.

    Args:
        data: of tokens a CoNLL file or a table with lists of words and of tags, of spans a file in SQuAD's form; a
            folder with one a split, a `datasets.Dataset`, or a mapping of splits to any of these.
        kind: ``"tokens"`` or ``"spans"``.
        text, label: the columns of a table's words and tags; ``words`` and ``tags`` by default.
        labels: the tags in order; those of the training sentences by default.
        metric: see `kdzoo.tasks.metrics`.
        name: the task's.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        seed: of the validation rows that are taken from training where there are none.
        questions: settings of `QuestionAnswering`.

    Raises:
        KdzooError: in one line, with file and row, for anything that makes no task.
    """
    for setting in questions:
        if setting not in QuestionAnswering.settings:
            raise unknown("setting of questions", setting, QuestionAnswering.settings)
    if kind == "spans" and (text or label or labels):
        raise KdzooError(f"{name}: questions have no --text, --label or --labels: SQuAD's form names its own columns")
    if len(text) > 1 or len(label) > 1:
        raise KdzooError(f"{name}: tagged sentences have one column of words (--text) and one of tags (--label)")
    columns = ((text or ("words",))[0], (label or ("tags",))[0])
    sources = _sources(data, kind, columns, splits)
    read = {split: source.read() for split, source in sources.items()}
    if "train" not in read:
        raise KdzooError(f"{_origin(data)} has no train split; it has {', '.join(read) or 'none'}")
    test = "test" if "test" in read else None
    task: TokenClassification | QuestionAnswering
    if kind == "spans":
        task = QuestionAnswering(name, headline=tuple(metric), test_split=test, **questions)
    else:
        if "tags" not in read["train"]:
            there = ", ".join(read["train"]) or "none"
            raise KdzooError(f"{sources['train'].origin}: no column {columns[1]!r} of tags; it has {there}")
        _check_tags(sources["train"].origin, read["train"]["tags"])
        found = tuple(labels) or tags_of(read["train"]["tags"])
        task = TokenClassification(name, found, headline=tuple(metric), test_split=test)
    rows = {split: checked(task, sources[split].origin, columns) for split, columns in read.items()}
    notes = [task.describe()]
    together = ""
    if isinstance(task, QuestionAnswering):
        together = ", by question" if task.pooled else ", by paragraph"
    if "validation" not in rows:
        rows["train"], rows["validation"] = task.held_out(rows["train"], seed)
        notes.append(
            f"{name}: no validation rows: {len(rows['validation'])} of {len(read['train'][task.fields[0]])} training "
            f"{task.unit}s are taken{together}, with seed {seed}"
        )
    if isinstance(task, QuestionAnswering) and task.pooled:
        for split in rows.keys() - {"train"}:
            task.check_answered(rows[split], sources[split if split in sources else "train"].origin)
    notes += _leaks(name, kind, task.unit, rows)
    return replace(task, read=partial(dict, rows)), tuple(notes)


def _sources(data: Any, kind: str, columns: tuple[str, str], splits: Mapping[str, str] | None) -> dict[str, Columns]:
    """How to read each split, under kdzoo's own names."""
    if isinstance(data, Mapping) and not hasattr(data, "num_rows"):
        names = {theirs: own for own, theirs in (splits or {}).items()}
        found = {names.get(str(split), str(split)): _source(value, kind, columns) for split, value in data.items()}
        known = {alias: own for own, aliases in token_classification.FILES.items() for alias in aliases}
        return {known.get(split, split): source for split, source in found.items()}
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir() and not (Path(data) / "state.json").is_file():
        return _of_folder(Path(data), kind, columns, splits)
    return {"train": _source(data, kind, columns)}


def _of_folder(
    folder: Path, kind: str, columns: tuple[str, str], splits: Mapping[str, str] | None
) -> dict[str, Columns]:
    from kdzoo.tasks.reading import find_file

    forms = (token_classification if kind == "tokens" else question_answering).FILES
    own = token_classification.SUFFIXES if kind == "tokens" else (".json",)
    plain = tuple(suffix for suffix in SUFFIXES if not suffix.endswith(".gz") and suffix not in own)
    found = {}
    for split, names in forms.items():
        wanted = ((splits or {}).get(split),) if split in (splits or {}) else names
        path = find_file(folder, *(name for name in wanted if name), suffixes=(*own, *plain))
        if path is not None:
            found[split] = _source(path, kind, columns)
    if not found:
        raise KdzooError(f"{folder} holds no train split; it needs train with one of {', '.join((*own, *plain))}")
    return found


def _source(value: Any, kind: str, columns: tuple[str, str]) -> Columns:
    """One split from a file, a DataFrame or a Dataset."""
    renamed = dict(zip(columns, ("words", "tags"), strict=True)) if kind == "tokens" else {}

    def named(found: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
        return {renamed.get(column, column): values for column, values in found.items()}

    if hasattr(value, "column_names"):
        return Columns("the Dataset", lambda: named(_squad_columns(columns_of(value, value.column_names))))
    if hasattr(value, "iloc"):
        return Columns("the DataFrame", lambda: named({str(c): value[c].tolist() for c in value.columns}))
    if not isinstance(value, (str, os.PathLike)):
        raise KdzooError(f"a split is {type(value).__name__}; give a file, a DataFrame or a datasets.Dataset")
    path = Path(value)
    if not path.is_file():
        raise KdzooError(f"there is no file {path}")
    suffix = suffix_of(path)
    if kind == "spans" and path.name.endswith((".json", ".json.gz")):
        return Columns(str(path), partial(question_answering.questions, path))
    if suffix is not None and suffix.startswith((".jsonl", ".parquet")):
        return Columns(str(path), lambda: named(_squad_columns(read_table(path))))
    if kind == "spans":
        raise KdzooError(f"{path}: questions are read from SQuAD's JSON (.json), JSONL or Parquet")
    return Columns(str(path), partial(sentences, path))


def _squad_columns(columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """Columns with the hub's ``answers`` (text and answer_start) taken apart."""
    found = dict(columns)
    answers = found.get("answers")
    if answers and isinstance(answers[0], Mapping) and "starts" not in found:
        found["starts"] = [_answers(row, one, "answer_start") for row, one in enumerate(answers, 1)]
        found["answers"] = [_answers(row, one, "text") for row, one in enumerate(answers, 1)]
    return found


def _answers(row: int, answers: Any, part: str) -> list[Any]:
    """A part of the hub's answers to a question."""
    values = answers.get(part) if isinstance(answers, Mapping) else None
    if not isinstance(values, (list, tuple, np.ndarray)):
        raise KdzooError(f"row {row}, column 'answers': expected lists text and answer_start, got {answers!r}")
    return [*values]


def _check_tags(origin: str, tags: Iterable[Any]) -> None:
    from kdzoo.tasks.bio import check_tags

    for row, of in enumerate(tags, 1):
        if not isinstance(of, (list, tuple, np.ndarray)):
            raise KdzooError(f"{origin}, row {row}, column 'tags': expected a list of texts, got {of!r}")
        check_tags(list(of), f"{origin}, row {row}")


def _leaks(name: str, kind: str, unit: str, rows: Mapping[str, Dataset]) -> list[str]:
    """A line for each split with rows whose texts are in training too."""

    def texts(split: str) -> list[Any]:
        if kind == "spans":
            return rows[split]["context"][:]
        return [tuple(words) for words in rows[split]["words"][:]]

    known, notes = set(texts("train")), []
    where = "on a paragraph that training has" if kind == "spans" else "are in training too"
    for split in rows:
        twice = sum(text in known for text in texts(split)) if split != "train" else 0
        if twice:
            notes.append(f"{name}: {twice} of {len(rows[split])} {split} {unit}s {where}")
    return notes


def _origin(data: Any) -> str:
    return str(data) if isinstance(data, (str, os.PathLike)) else "the data"


def check_kind(kind: str | None, kinds: Iterable[str]) -> None:
    """Refuse a kind that is none.

    Raises:
        KdzooError: offers the nearest.
    """
    if kind is not None and kind not in (*kinds, *SEQUENCES):
        raise unknown("kind", kind, [*kinds, *SEQUENCES])


def title_of(data: Any) -> str:
    """The task's name: the file's stem or the folder's name, of letters, digits, dots, hyphens and underscores."""
    if not isinstance(data, (str, os.PathLike)):
        return "data"
    path = Path(data)
    bare = path.name.removesuffix(".gz")
    suffix = suffix_of(path) or path.name[len(bare) :]
    name = path.name if path.is_dir() else path.name.removesuffix(suffix)
    name = name.removesuffix(".json") or path.resolve().name
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("._-")[:64] or "data"
