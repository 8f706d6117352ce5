"""Where a task's rows come from: the hub, a folder in any form people have GLUE in, or the synthetic grammar."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

HUB_ID = "nyu-mll/glue"
SUFFIXES = (".tsv", ".tsv.gz", ".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".parquet")


def load(
    task: Task,
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int | None = None,
) -> DatasetDict:
    """The task's ``train`` split and its validation splits.

    Args:
        task: the task.
        source: ``"hub"`` (``nyu-mll/glue``), ``"synthetic"``, or a folder. A folder holds one folder a task, named as
            the task (``rte``) or as in the official download (``RTE``), with either ``train`` and ``validation``
            files of the hub's field names (TSV without quoting, CSV with, JSONL, Parquet, also gzipped or as the hub's
            shards), `datasets.Dataset.save_to_disk` folders, or the files of the official download. MNLI's
            ``validation_mismatched`` may be missing from a folder.
        seed: of the synthetic rows and of the order in which a subset is drawn; not the model's seed, so that every
            run of a comparison has the same rows.
        train_rows: how many training rows to take: the first of a fixed pseudo-random order, so that a smaller subset
            is part of a larger one; all by default. Of synthetic data, how many to make.
        validation_rows: the same for each validation split.

    Returns:
        Splits with the task's text columns and ``label`` (a class id, or a float for regression).

    Raises:
        KdzooError: the data is missing or malformed; the message names file, row and column.
    """
    from datasets import DatasetDict

    for name, rows in (("train_rows", train_rows), ("validation_rows", validation_rows)):
        if rows is not None and rows < 1:
            raise KdzooError(f"{name} must be 1 or more, got {rows}")
    wanted = {split: train_rows if split == "train" else validation_rows for split in _splits(task)}
    if source == "synthetic":
        from kdzoo.tasks.synthetic import grammar as synthetic

        made = {split: synthetic.generate(task.name, split, rows, seed) for split, rows in wanted.items()}
        return DatasetDict({split: _dataset(task, f"synthetic {split}", columns) for split, columns in made.items()})
    splits = _from_hub(task) if source == "hub" else _from_folder(task, Path(source))
    return DatasetDict({split: _subset(dataset, wanted[split], seed) for split, dataset in splits.items()})


def check_source(source: str | os.PathLike[str]) -> None:
    """Refuse a source of rows that is none.

    Raises:
        KdzooError: names the forms there are.
    """
    if source in ("synthetic", "hub") or Path(source).is_dir():
        return
    near = get_close_matches(str(source), ("synthetic", "hub"), n=1)
    hint = f"; did you mean {near[0]!r}?" if near else "; data comes from 'hub', 'synthetic' or a folder"
    raise KdzooError(f"{str(source)!r} is not a folder{hint}")


def _subset(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    if rows is None or rows >= len(dataset):
        return dataset
    return dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:rows])


def _dataset(task: Task, origin: str, columns: Mapping[str, Sequence[Any]]) -> Dataset:
    """The checked rows of one split; ``origin`` is the file that messages name."""
    from datasets import ClassLabel, Dataset, Features, Value

    for column in (*task.columns, "label"):
        if column not in columns:
            raise KdzooError(f"{origin}: no column {column!r}, which {task.name} needs; it has {', '.join(columns)}")
    if not len(columns["label"]):
        raise KdzooError(f"{origin}: the split is empty, {task.name} needs at least one row")
    for column in task.columns:
        for row, text in enumerate(columns[column], 1):
            if not isinstance(text, str):
                raise KdzooError(f"{origin}, row {row}, column {column!r}: expected text, got {text!r}")
    labels = []
    for row, value in enumerate(columns["label"], 1):
        try:
            labels.append(task.parse_label(value))
        except KdzooError as error:
            raise KdzooError(f"{origin}, row {row}, column 'label': {error}") from None
    features = {column: Value("string") for column in task.columns}
    features["label"] = Value("float32") if task.regression else ClassLabel(names=list(task.labels))
    return Dataset.from_dict({**{c: columns[c] for c in task.columns}, "label": labels}, features=Features(features))


def _from_arrow(task: Task, origin: str, dataset: Dataset) -> Dataset:
    """A split that `datasets` read, checked; class names count for more than their ids, should the order differ."""
    kept = [column for column in (*task.columns, "label") if column in dataset.column_names]
    columns = {column: dataset[column][:] for column in kept} or {column: [] for column in dataset.column_names}
    names = getattr(dataset.features.get("label"), "names", None)
    if names and set(names) == set(task.labels):
        columns["label"] = [names[label] if label in range(len(names)) else label for label in columns["label"]]
    return _dataset(task, origin, columns)


# --- the hub ---


def _from_hub(task: Task) -> dict[str, Dataset]:
    from datasets import load_dataset

    try:
        loaded = load_dataset(HUB_ID, task.name)
    except Exception as error:  # the hub client has no common base class for being offline
        reason = str(error).strip().splitlines()[:1] or [""]
        raise KdzooError(
            f"could not load {task.name} of {HUB_ID} from the hub ({type(error).__name__}: {reason[0]}); "
            "without a network take 'synthetic' or a folder"
        ) from error
    return {split: _from_arrow(task, f"{HUB_ID} {task.name} {split}", loaded[split]) for split in _splits(task)}


def _splits(task: Task) -> tuple[str, ...]:
    return ("train", *task.validation_splits)


# --- a folder ---


@dataclass(frozen=True)
class _Official:
    """How the official download has a task: its folder, and the header's name (or position) of each hub field."""

    folder: str
    fields: Mapping[str, str | int]
    skip_short: bool = False


_OFFICIAL = {
    "cola": _Official("CoLA", {"sentence": 3, "label": 1}),
    "sst2": _Official("SST-2", {"sentence": "sentence", "label": "label"}),
    "mrpc": _Official("MRPC", {"sentence1": "#1 String", "sentence2": "#2 String", "label": "Quality"}),
    # Some questions of the official file hold line breaks, which leaves rows cut short; the hub drops them as well.
    "qqp": _Official(
        "QQP", {"question1": "question1", "question2": "question2", "label": "is_duplicate"}, skip_short=True
    ),
    "stsb": _Official("STS-B", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "score"}),
    "mnli": _Official("MNLI", {"premise": "sentence1", "hypothesis": "sentence2", "label": "gold_label"}),
    "qnli": _Official("QNLI", {"question": "question", "sentence": "sentence", "label": "label"}),
    "rte": _Official("RTE", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
    "wnli": _Official("WNLI", {"sentence1": "sentence1", "sentence2": "sentence2", "label": "label"}),
}


def _from_folder(task: Task, root: Path) -> dict[str, Dataset]:
    check_source(root)
    official = _OFFICIAL[task.name].folder
    folders = [folder for name in (task.name, official) if (folder := root / name).is_dir()]
    if not folders:
        raise KdzooError(f"no data for {task.name}: looked for {root / task.name} and {root / official}")
    folder = folders[0]
    if (folder / "dataset_dict.json").is_file():
        read = _saved_splits(task, folder)
    elif (folder / "msr_paraphrase_train.txt").is_file() or any(folder.glob("dev*.tsv")):
        read = {split: reader for split in _splits(task) if (reader := _official_split(task, folder, split))}
    else:
        read = {split: reader for split in _splits(task) if (reader := _hub_form_split(task, folder, split))}
    needed = ("train", task.validation_splits[0])
    for split in needed:
        if split not in read:
            dev = split.replace("validation", "dev")
            raise KdzooError(
                f"no {split} split for {task.name} in {folder}: expected {split} with one of {', '.join(SUFFIXES)}, "
                f"a folder {split} saved by datasets, or the official download's {dev}.tsv"
            )
    return {split: read[split]() for split in _splits(task) if split in read}


_Reader = Callable[[], "Dataset"]


def _saved_splits(task: Task, folder: Path) -> dict[str, _Reader]:
    saved = _load_from_disk(folder)
    present = [split for split in _splits(task) if split in saved]
    return {split: partial(_from_arrow, task, str(folder / split), saved[split]) for split in present}


def _load_from_disk(folder: Path) -> Any:
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except Exception as error:  # a damaged folder shows as an error of arrow, json or the file system
        raise KdzooError(f"{folder}: not readable as a folder saved by datasets ({error})") from error


def _hub_form_split(task: Task, folder: Path, split: str) -> _Reader | None:
    """The reader of one split in the hub's field names, or ``None`` where the split is not there."""
    if (folder / split / "state.json").is_file():
        return lambda: _from_arrow(task, str(folder / split), _load_from_disk(folder / split))
    shards = sorted(folder.glob(f"{split}-[0-9]*-of-[0-9]*.parquet"))
    files = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(files) + bool(shards) > 1:
        names = ", ".join(path.name for path in (*files, *shards))
        raise KdzooError(f"{folder} has {split} more than once ({names}); keep one")
    if shards:
        return lambda: _dataset(task, str(folder / split), _read_parquet(shards))
    if files:
        return lambda: _dataset(task, str(files[0]), _read_file(task, files[0]))
    return None


def _official_split(task: Task, folder: Path, split: str) -> _Reader | None:
    """The reader of one split of the official download, or ``None`` where the split is not there."""
    path = folder / f"{split.replace('validation', 'dev')}.tsv"
    original = folder / "msr_paraphrase_train.txt"
    if path.is_file():
        return lambda: _dataset(task, str(path), _read_official(task, path))
    if task.name == "mrpc" and original.is_file():
        return lambda: _dataset(task, str(original), _read_mrpc_original(task, folder, split))
    return None


def _read_file(task: Task, path: Path) -> Mapping[str, Sequence[Any]]:
    kind = path.name.removesuffix(".gz").rsplit(".", 1)[1]
    if kind == "parquet":
        return _read_parquet([path])
    with _open(path) as file:
        if kind == "jsonl":
            return _read_jsonl(task, path, file)
        rows = _tsv(file) if kind == "tsv" else _csv(path, file)
        header = next(rows, [])
        return _columns(path, header, rows, {name: name for name in (*task.columns, "label")})


def _read_official(task: Task, path: Path) -> Mapping[str, list[str]]:
    official = _OFFICIAL[task.name]
    with _open(path) as file:
        rows = _tsv(file)
        # CoLA alone has no header: source, label, the author's star, sentence.
        header = ["source", "label", "star", "sentence"] if task.name == "cola" else next(rows, [])
        fields = {name: header[key] if isinstance(key, int) else key for name, key in official.fields.items()}
        return _columns(path, header, rows, fields, skip_short=official.skip_short)


def _read_mrpc_original(task: Task, folder: Path, split: str) -> Mapping[str, list[str]]:
    """MRPC as Microsoft has it: both splits in one file, the validation pairs listed in ``dev_ids.tsv``."""
    ids_path = next((p for name in ("dev_ids.tsv", "mrpc_dev_ids.tsv") if (p := folder / name).is_file()), None)
    if ids_path is None:
        raise KdzooError(
            f"{folder / 'dev_ids.tsv'} is missing: it names the validation rows of msr_paraphrase_train.txt"
        )
    with _open(ids_path) as file:
        held_out = {tuple(row[:2]) for row in _tsv(file)}
    path = folder / "msr_paraphrase_train.txt"
    with _open(path) as file:
        rows = _tsv(file)
        header = next(rows, [])
        fields = {
            "sentence1": "#1 String",
            "sentence2": "#2 String",
            "label": "Quality",
            "id1": "#1 ID",
            "id2": "#2 ID",
        }
        columns = _columns(path, header, rows, fields)
    pairs = zip(columns["id1"], columns["id2"], strict=True)
    keep = [row for row, pair in enumerate(pairs) if (pair in held_out) == (split != "train")]
    return {name: [columns[name][row] for row in keep] for name in (*task.columns, "label")}


# --- files ---


def _open(path: Path) -> io.StringIO:
    """The text of a file. Read whole, so that damage shows here and not in the middle of a reader."""
    try:
        data = path.read_bytes()
        text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise KdzooError(f"{path}: not readable as UTF-8{' gzip' * (path.suffix == '.gz')} text ({error})") from error
    return io.StringIO(text, newline="")


def _tsv(file: Iterable[str]) -> Iterator[list[str]]:
    # Not the csv module: it takes a stray carriage return inside a sentence for the end of a row.
    text = "".join(file)
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return (line.removesuffix("\r").split("\t") for line in lines)


def _csv(path: Path, file: Iterable[str]) -> Iterator[list[str]]:
    reader = csv.reader(file, strict=True)
    try:
        yield from reader
    except csv.Error as error:
        raise KdzooError(f"{path}, line {reader.line_num}: malformed CSV ({error})") from None


def _columns(
    path: Path,
    header: list[str],
    rows: Iterator[list[str]],
    fields: Mapping[str, str],
    *,
    skip_short: bool = False,
) -> dict[str, list[str]]:
    """The wanted columns of rows under a header; rows are numbered from 1, the header not counted."""
    missing = [name for name in fields.values() if name not in header]
    if missing:
        raise KdzooError(f"{path}: no column {missing[0]!r}; it has {', '.join(header) or 'no header'}")
    places = {name: header.index(column) for name, column in fields.items()}
    columns: dict[str, list[str]] = {name: [] for name in fields}
    width = len(header)
    for number, row in enumerate(rows, 1):
        if len(row) < width and skip_short:
            continue
        if len(row) != width:
            where = f"column {header[len(row)]!r} is missing" if len(row) < width else f"more follows {header[-1]!r}"
            raise KdzooError(f"{path}, row {number}: {len(row)} fields where the header has {width}; {where}")
        for name, place in places.items():
            columns[name].append(row[place])
    return columns


def _read_jsonl(task: Task, path: Path, file: Iterable[str]) -> dict[str, list[Any]]:
    names = (*task.columns, "label")
    columns: dict[str, list[Any]] = {name: [] for name in names}
    for number, line in enumerate("".join(file).rstrip("\n").split("\n"), 1):
        if not line and number == 1:
            break
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise KdzooError(f"{path}, row {number}: malformed JSON ({error})") from None
        if not isinstance(row, dict):
            raise KdzooError(f"{path}, row {number}: expected an object with {', '.join(names)}, got {line[:40]}")
        for name in names:
            if name not in row:
                raise KdzooError(f"{path}, row {number}: no column {name!r}; it has {', '.join(row) or 'none'}")
            columns[name].append(row[name])
    return columns


def _read_parquet(paths: Sequence[Path]) -> dict[str, list[Any]]:
    import pyarrow
    from pyarrow import parquet

    columns: dict[str, list[Any]] = {}
    for path in paths:
        try:
            table = parquet.ParquetFile(path).read()
        except (OSError, pyarrow.ArrowException) as error:
            raise KdzooError(f"{path}: not readable as Parquet ({error})") from error
        for name in table.column_names:
            columns.setdefault(name, []).extend(table.column(name).to_pylist())
    return columns
