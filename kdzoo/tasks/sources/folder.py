"""Rows from a folder, in any form people have GLUE in."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Columns, Task
from kdzoo.tasks.reading import find_file
from kdzoo.tasks.sources.files import SUFFIXES, Reader, read_parquet, read_table, shards_of
from kdzoo.tasks.sources.official_glue import OFFICIAL, official_split
from kdzoo.tasks.sources.rows import checked, of_arrow

if TYPE_CHECKING:
    from datasets import Dataset


def from_folder(task: Task, root: Path) -> dict[str, Dataset]:
    """The splits of a task, from the folder of its name within ``root``; see `kdzoo.tasks.load`.

    Raises:
        KdzooError: there is no such folder, or a split is missing or malformed.
    """
    names = [task.name, *([OFFICIAL[task.name].folder] if task.name in OFFICIAL else [])]
    folders = [folder for name in names if (folder := root / name).is_dir()]
    if not folders:
        looked = " and ".join(str(root / name) for name in names)
        raise KdzooError(f"no data for {task.name}: looked for {looked}{_own_data(root)}")
    folder = folders[0]
    if (folder / "dataset_dict.json").is_file():
        saved = load_saved(folder)
        present = [split for split in task.splits if split in saved]
        read: dict[str, Reader] = {
            split: partial(of_arrow, task, str(folder / split), saved[split]) for split in present
        }
    elif found := {split: columns for split in task.splits if (columns := task.files(folder, split))}:
        read = {s: partial(_of_columns, task, columns) for s, columns in found.items()}
    elif (folder / "msr_paraphrase_train.txt").is_file() or any(folder.glob("dev*.tsv")):
        read = {split: reader for split in task.splits if (reader := official_split(task, folder, split))}
    else:
        read = {split: reader for split in task.splits if (reader := _split(task, folder, split))}
    for split in ("train", task.validation_splits[0]):
        if split not in read:
            dev = split.replace("validation", "dev")
            raise KdzooError(
                f"no {split} split for {task.name} in {folder}: expected {split} with one of {', '.join(SUFFIXES)}, "
                f"a folder {split} saved by datasets, or the official download's {dev}.tsv"
            )
    return {split: read[split]() for split in task.splits if split in read}


def _own_data(root: Path) -> str:
    """How data of one's own is named, if the folder seems to be that; else nothing."""
    if find_file(root, "relation2text") is not None:
        return "; for the triples of a graph of your own say --kind triples, relations or links"
    if any(root.glob("train*.*")):
        return "; for data of your own name its columns, --text TEXT --label LABEL, or its --kind"
    return ""


def _of_columns(task: Task, columns: Columns) -> Dataset:
    return checked(task, columns.origin, columns.read())


def load_saved(folder: Path) -> Any:
    """What `datasets` saved to a folder.

    Raises:
        KdzooError: it cannot be read.
    """
    from datasets import load_from_disk

    try:
        return load_from_disk(str(folder))
    except Exception as error:  # a damaged folder shows as an error of arrow, json or the file system
        raise KdzooError(f"{folder}: not readable as a folder saved by datasets ({error})") from error


def files_of(folder: Path, split: str) -> list[Path]:
    """The file of a split in a folder, or its shards, or the folder that `datasets` saved it to; nothing without one.

    Raises:
        KdzooError: the split is there more than once, or one of its shards is missing.
    """
    saved = [folder / split] if (folder / split / "state.json").is_file() else []
    shards = shards_of(folder, split)
    files = [path for suffix in SUFFIXES if (path := folder / f"{split}{suffix}").is_file()]
    if len(saved) + len(files) + bool(shards) > 1:
        names = ", ".join(path.name for path in (*saved, *files, *shards))
        raise KdzooError(f"{folder} has {split} more than once ({names}); keep one")
    return saved or files or shards


def _split(task: Task, folder: Path, split: str) -> Reader | None:
    """The reader of one split in the hub's field names, or ``None`` where the split is not there."""
    files = files_of(folder, split)
    if not files:
        return None
    if files[0].is_dir():
        return lambda: of_arrow(task, str(files[0]), load_saved(files[0]))
    if len(files) > 1:
        return lambda: checked(task, str(folder / split), read_parquet(files))
    return lambda: checked(task, str(files[0]), read_table(files[0], task.fields))
