"""Rows from the Hugging Face Hub."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.sources.files import suffix_of
from kdzoo.tasks.sources.rows import of_arrow

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = "nyu-mll/glue"
_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<configuration>[\w.+-]+))?")


def from_hub(task: Task) -> dict[str, Dataset]:
    """GLUE's rows of a task.

    Raises:
        KdzooError: the hub cannot be reached, or the task is none of GLUE's.
    """
    from kdzoo.tasks.glue import TASKS

    if task.name not in TASKS:
        raise KdzooError(f"{task.name} is none of GLUE's tasks, which --data hub is for; name its own data")
    loaded = downloaded(HUB_ID, task.name)
    return {split: of_arrow(task, f"{HUB_ID} {task.name} {split}", loaded[split]) for split in task.splits}


def named_on_hub(source: str | os.PathLike[str]) -> Any:
    """The data set of the hub, by split, that ``NAME`` or ``NAME:CONFIGURATION`` names; None for what is no such name.

    Args:
        source: what is no file and no folder.

    Raises:
        KdzooError: the hub cannot be reached, or has none of that name.
    """
    asked = _NAME.fullmatch(str(source))
    if asked is None or suffix_of(Path(asked["name"])) is not None:
        return None
    try:
        return downloaded(asked["name"], asked["configuration"])
    except KdzooError as error:
        raise KdzooError(f"there is no file or folder {source}; {error}") from None


def downloaded(name: str, configuration: str | None = None) -> Any:
    """A data set of the hub, by split; no code of its own is run.

    Raises:
        KdzooError: the hub cannot be reached, or has none of that name.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, configuration)
    except Exception as error:  # the hub client has no common base class for being offline
        reason = " ".join(str(error).partition("\nExample")[0].split())
        what = name if configuration is None else f"{configuration} of {name}"
        instead = "'synthetic' or a folder" if name == HUB_ID else "files of your own"
        advice = f"without a network take {instead}"
        if isinstance(error, ValueError) and "config" in reason.casefold():
            advice = f"name one of them: {name}:CONFIGURATION"
        raise KdzooError(f"could not load {what} from the hub ({type(error).__name__}: {reason}); {advice}") from error
