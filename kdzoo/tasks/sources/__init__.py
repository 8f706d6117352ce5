"""Where a task's rows come from: the task itself, the hub, a folder, or the synthetic grammar."""

from __future__ import annotations

import os
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.sources.folder import from_folder
from kdzoo.tasks.sources.hub import from_hub
from kdzoo.tasks.sources.rows import checked

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict


def load(
    task: Task,
    source: str | os.PathLike[str],
    *,
    seed: int = 0,
    train_rows: int | None = None,
    validation_rows: int | None = None,
    test_rows: int | None = None,
) -> DatasetDict:
    """The task's ``train`` split, its validation splits, and its test split where it has one.

    Args:
        task: the task; one that brings its own rows (`kdzoo.tasks.own`) is not read from the source.
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
        test_rows: the same for the test split; 0 leaves it out.

    Returns:
        Splits with the task's `fields`.

    Raises:
        KdzooError: the data is missing or malformed; the message names file, row and column.
    """
    from datasets import DatasetDict

    for name, rows in (("train_rows", train_rows), ("validation_rows", validation_rows)):
        if rows is not None and rows < 1:
            raise KdzooError(f"{name} must be 1 or more, got {rows}")
    wanted = {split: train_rows if split == "train" else validation_rows for split in task.splits}
    if test_rows is not None and test_rows < 0:
        raise KdzooError(f"test_rows must be 0 or more, got {test_rows}")
    if task.test_split is not None:
        wanted[task.test_split] = test_rows
        if test_rows == 0:
            del wanted[task.test_split]
    own = task.rows()
    if own is None and source == "synthetic":
        made = {split: task.synthetic(split, rows, seed) for split, rows in wanted.items()}
        taken = DatasetDict({split: checked(task, f"synthetic {split}", columns) for split, columns in made.items()})
    else:
        if own is None:
            check_source(source)
            own = from_hub(task) if source == "hub" else from_folder(task, Path(source))
        taken = DatasetDict(
            {split: subset_of(dataset, wanted[split], seed) for split, dataset in own.items() if split in wanted}
        )
    for split, dataset in taken.items():
        if len(dataset) < 2:
            raise KdzooError(f"{task.name}: the {split} split has one row; a comparison needs two or more")
    return taken


def check_source(source: str | os.PathLike[str]) -> None:
    """Refuse a source of rows that is none.

    Raises:
        KdzooError: names the forms there are.
    """
    if source in ("synthetic", "hub") or Path(source).is_dir():
        return
    near = get_close_matches(str(source), ("synthetic", "hub"), n=1)
    if Path(source).is_file():
        hint = "; for a file of your own name its columns, --text TEXT --label LABEL, or its --kind"
    else:
        hint = f"; did you mean {near[0]!r}?" if near else "; data comes from 'hub', 'synthetic' or a folder"
    raise KdzooError(f"{str(source)!r} is not a folder{hint}")


def subset_of(dataset: Dataset, rows: int | None, seed: int) -> Dataset:
    """The first rows of a fixed pseudo-random order; all of them where there are no more."""
    if rows is None or rows >= len(dataset):
        return dataset
    return dataset.select(np.random.default_rng(seed).permutation(len(dataset))[:rows])
