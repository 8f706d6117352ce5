"""Where a task's rows come from: the hub, a folder in any form people have GLUE in, or the synthetic grammar."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.sources.files import SUFFIXES, _read_file, _read_parquet, _Reader
from kdzoo.tasks.sources.official_glue import _OFFICIAL, _official_split
from kdzoo.tasks.sources.rows import _dataset, _from_arrow, _splits

if TYPE_CHECKING:
    from datasets import Dataset


def _from_folder(task: Task, root: Path) -> dict[str, Dataset]:
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
