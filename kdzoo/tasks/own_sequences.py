"""A user's tagged sentences or questions as a task: CoNLL files, SQuAD's JSON, or rows of lists."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks import question_answering, token_classification
from kdzoo.tasks.base import Columns
from kdzoo.tasks.bio import check_tags
from kdzoo.tasks.given import Brought
from kdzoo.tasks.own_reading import check_alone, check_splits, columns_of_frame, names_of, renamed
from kdzoo.tasks.question_answering import QuestionAnswering
from kdzoo.tasks.reading import find_file, numbered_lines
from kdzoo.tasks.sources.files import SUFFIXES, open_text, read_table, suffix_of
from kdzoo.tasks.sources.hub import named_on_hub
from kdzoo.tasks.sources.rows import checked, columns_of
from kdzoo.tasks.token_classification import TokenClassification, sentences, tags_of

if TYPE_CHECKING:
    from datasets import Dataset

SEQUENCES = ("tokens", "spans", "seq2seq")
OPTIONS = {"words": "--text", "tags": "--label"}  # which name the columns of a table of tagged sentences
OTHER_SCHEME = re.compile(r"[SELU](-\S+)?")  # tags of IOBES and BILOU that BIO does not have
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
        text, label: the columns of a table's words and tags; ``words`` and ``tags`` by default. A CoNLL file has none.
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
    columns = {own: given[0] for own, given in (("words", text), ("tags", label)) if given}
    if text and text == label:
        raise KdzooError(f"{name}: the column {text[0]!r} is both words (--text) and tags (--label); name two columns")
    sources, unused = _sources(data, kind, columns, splits)
    read = {split: source.read() for split, source in sources.items()}
    test = "test" if "test" in read else None
    task: TokenClassification | QuestionAnswering
    if kind == "spans":
        task = QuestionAnswering(name, headline=tuple(metric), test_split=test, **questions)
    else:
        for split, source in sources.items():
            _check_tags(source.origin, columns.get("tags", "tags"), read[split]["tags"])
        found = tuple(labels) or tags_of(read["train"]["tags"], sources["train"].origin)
        task = TokenClassification(name, found, headline=tuple(metric), test_split=test)
    rows = {split: checked(task, sources[split].origin, table) for split, table in read.items()}
    notes = [task.describe(), *(f"{name}: the split {split} is not used" for split in unused)]
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
    own = (columns["words"],) if "words" in columns else ()
    return replace(task, read=Brought(rows, own)), tuple(notes)


def _sources(
    data: Any, kind: str, columns: Mapping[str, str], splits: Mapping[str, str] | None
) -> tuple[dict[str, Columns], tuple[str, ...]]:
    """How to read each split, under kdzoo's own names, and the names of those that are not used."""
    known = (token_classification if kind == "tokens" else question_answering).FILES
    if isinstance(data, Mapping):
        given = {str(split): value for split, value in data.items()}
        check_splits(given, splits, known)
        return renamed("the data", {s: _source(value, kind, columns) for s, value in given.items()}, splits, known)
    if isinstance(data, (str, os.PathLike)) and Path(data).is_dir() and not (Path(data) / "state.json").is_file():
        found = _of_folder(Path(data), kind, columns, names_of(splits, known))
        return renamed(str(data), found, splits, known)
    if isinstance(data, (str, os.PathLike)) and not Path(data).exists():
        own = (*token_classification.SUFFIXES, ".json")
        named = not str(data).removesuffix(".gz").endswith(own)  # else a file's name, which is not there
        if named and (loaded := named_on_hub(data)) is not None:
            return renamed(str(data), {s: _source(loaded[s], kind, columns) for s in loaded}, splits, known)
    source = _source(data, kind, columns)
    check_alone(source.origin, splits)
    return {"train": source}, ()


def _of_folder(folder: Path, kind: str, columns: Mapping[str, str], names: Iterable[str]) -> dict[str, Columns]:
    own = token_classification.SUFFIXES if kind == "tokens" else (".json",)
    plain = tuple(suffix for suffix in SUFFIXES if not suffix.endswith(".gz") and suffix not in own)
    suffixes = (*own, *plain)
    files = {name: path for name in sorted(names) if (path := find_file(folder, name, suffixes=suffixes))}
    if not files:
        raise KdzooError(f"{folder} holds no train split; it needs train with one of {', '.join(suffixes)}")
    return {name: _source(path, kind, columns) for name, path in files.items()}


def _source(value: Any, kind: str, columns: Mapping[str, str]) -> Columns:
    """One split from a file, a DataFrame or a Dataset."""

    def table(origin: str, read: Callable[[], Mapping[str, Sequence[Any]]]) -> Columns:
        taken = partial(_words_and_tags, columns) if kind == "tokens" else _squad_columns
        return Columns(origin, lambda: taken(origin, read()))

    if hasattr(value, "column_names"):
        return table("the Dataset", lambda: columns_of(value, value.column_names))
    if hasattr(value, "iloc"):
        return table("the DataFrame", lambda: columns_of_frame(value))
    if not isinstance(value, (str, os.PathLike)):
        raise KdzooError(f"a split is {type(value).__name__}; give a file, a DataFrame or a datasets.Dataset")
    path = Path(value)
    if not path.is_file():
        raise KdzooError(f"there is no file {path}")
    suffix = suffix_of(path) or ""
    if kind == "spans" and path.name.endswith((".json", ".json.gz")):
        return Columns(str(path), partial(question_answering.questions, path))
    if suffix.startswith((".jsonl", ".parquet")):
        return table(str(path), lambda: read_table(path))
    if kind == "spans":
        raise KdzooError(f"{path}: questions are read from SQuAD's JSON (.json), JSONL or Parquet")
    if suffix.startswith(".csv"):
        raise KdzooError(
            f"{path}: tagged sentences are read from CoNLL ({', '.join(token_classification.SUFFIXES)}), JSONL or "
            "Parquet, and CSV is none of these; write a word, a tab and its tag a line, with a blank line between "
            "sentences"
        )
    if columns:
        given = " and ".join(OPTIONS[own] for own in columns)
        raise KdzooError(
            f"{path}: a CoNLL file has no named columns: the first of a line is the word and the last its tag, or "
            f"text_a and label where the first line names these; leave {given} out"
        )
    return Columns(str(path), partial(_conll, path))


def _words_and_tags(
    columns: Mapping[str, str], origin: str, found: Mapping[str, Sequence[Any]]
) -> dict[str, Sequence[Any]]:
    """The columns of words and of tags, of those that a table has."""
    taken = {}
    for own in OPTIONS:
        column = columns.get(own, own)
        if column not in found:
            raise KdzooError(f"{origin}: no column {column!r} of {own}; it has {', '.join(found) or 'none'}")
        taken[own] = found[column]
    return taken


def _conll(path: Path) -> dict[str, list[Any]]:
    """A CoNLL file's words and tags; what is refused is said with what may be done."""
    try:
        return sentences(path)
    except KdzooError as error:
        lines = [parts for _, line in numbered_lines(path) if (parts := line.split())]
        said = _mend([parts[-1] for parts in lines])
        if not said and lines and not _is_tag(lines[0][-1]) and all(_is_tag(parts[-1]) for parts in lines[1:]):
            said = "" if "text_a" in lines[0] else "; a CoNLL file has no header: leave the first line out"
        raise KdzooError(f"{error}{said}") from None


def _mend(tags: Iterable[Any]) -> str:
    """What may be done about tags of another scheme."""
    if any(isinstance(tag, str) and OTHER_SCHEME.fullmatch(tag) for tag in tags):
        return "; write tags of IOBES or BILOU as BIO: B- for S- and U-, I- for E- and L-"
    if any(isinstance(tag, (int, np.integer)) for tag in tags):
        return "; tags are names such as B-PER: write those that the numbers stand for"
    return ""


def is_tagged_line(fields: Sequence[str]) -> bool:
    """Whether the fields of a file's first line are a word and its tag, as in a CoNLL file, and name no columns."""
    return len(fields) > 1 and _is_tag(fields[-1])


def check_untagged(data: Any) -> None:
    """Refuse a CoNLL file of which neither kind nor columns are told: it is no table, and has none to name.

    Raises:
        KdzooError: names the kind.
    """
    if isinstance(data, (str, os.PathLike)) and Path(data).is_file() and ".tsv" in Path(data).name:
        with open_text(Path(data)) as file:
            first = file.readline()
        if is_tagged_line(first.split()):
            raise KdzooError(f"{data}: its first line is a word and a tag{kind_hint(first.split())}")


def kind_hint(columns: Iterable[str]) -> str:
    """Which kind has such columns and needs none named, in words; empty where none is seen to."""
    names = [*columns]
    if {"words", "tags"} <= {*names} or is_tagged_line(" ".join(names).split()):
        return "; for tagged words say --kind tokens, which needs no columns named"
    if {"question", "context", "answers"} <= {*names}:
        return "; for questions on paragraphs say --kind spans, which needs no columns named"
    return ""


def _is_tag(tag: str) -> bool:
    try:
        check_tags([tag], "")
    except KdzooError:
        return False
    return True


def _squad_columns(origin: str, columns: Mapping[str, Sequence[Any]]) -> dict[str, Sequence[Any]]:
    """A table's columns with the hub's ``answers`` (text and answer_start) taken apart; none where it is impossible.

    Raises:
        KdzooError: names file and row: answers in another form, an id that comes twice, or no answer where the
            question is said to have one.
    """
    found = dict(columns)
    rows: dict[Any, int] = {}
    for row, name in enumerate(found.get("id", ()), 1):
        if isinstance(name, str) and rows.setdefault(name, row) != row:
            raise KdzooError(f"{origin}, row {row}: the id {name!r} stands in row {rows[name]} too; give each its own")
    answers = found.get("answers")
    if not answers:
        return found
    impossible = found.get("is_impossible") or [None] * len(answers)
    for row, none in enumerate(impossible, 1):
        if none is not None and not isinstance(none, bool):
            raise KdzooError(f"{origin}, row {row}, column 'is_impossible': expected true or false, got {none!r}")
    apart = "starts" in found
    listed = not any(isinstance(one, Mapping) for one in answers)
    for own, part in (("starts", "answer_start"), ("answers", "text")):
        taken = []
        for row, (none, one) in enumerate(zip(impossible, found[own] if apart else answers, strict=True), 1):
            values = [] if none else one if apart else _part_of(one, part, listed)
            if not isinstance(values, (list, tuple, np.ndarray)):
                column, form = (own, "a list") if apart else ("answers", "lists text and answer_start")
                raise KdzooError(f"{origin}, row {row}, column {column!r}: expected {form}, got {one!r}")
            if none is False and not len(values):
                raise KdzooError(f"{origin}, row {row}: no answer; a question without one needs is_impossible: true")
            taken.append([*values])
        found[own] = taken
    return found


def _part_of(answers: Any, part: str, listed: bool) -> Any:
    """A part of the hub's answers to a question, ``text`` or ``answer_start``; None where they have another form.

    Args:
        answers: a list a part, or a list of answers.
        part: which.
        listed: whether it is the latter.
    """
    if not listed:
        return answers.get(part) if isinstance(answers, Mapping) else None
    whole = isinstance(answers, (list, tuple)) and all(isinstance(one, Mapping) and part in one for one in answers)
    return [one[part] for one in answers] if whole else None


def _check_tags(origin: str, column: str, tags: Iterable[Any]) -> None:
    """Refuse tags that are no BIO, and those with a type beside those without, before the task is made of them.

    Raises:
        KdzooError: names file, row, column and word.
    """
    plain: bool | None = None
    for row, of in enumerate(tags, 1):
        where = f"{origin}, row {row}, column {column!r}"
        if not isinstance(of, (list, tuple, np.ndarray)):
            raise KdzooError(f"{where}: expected a list of texts, got {of!r}")
        try:
            check_tags(list(of), where)
        except KdzooError as error:
            raise KdzooError(f"{error}{_mend(of)}") from None
        for tag in of:
            if tag != "O" and plain not in (None, len(tag) == 1):
                raise KdzooError(f"{where}: {tag!r} among rows that have tags with a type and tags without")
            plain = plain if tag == "O" else len(tag) == 1


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
