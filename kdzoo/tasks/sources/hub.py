"""Rows from the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task
from kdzoo.tasks.sources.rows import of_arrow

if TYPE_CHECKING:
    from datasets import Dataset

HUB_ID = "nyu-mll/glue"


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


def downloaded(name: str, configuration: str | None = None) -> Any:
    """A data set of the hub, by split; no code of its own is run.

    Raises:
        KdzooError: the hub cannot be reached, or has none of that name.
    """
    from datasets import load_dataset

    try:
        return load_dataset(name, configuration)
    except Exception as error:  # the hub client has no common base class for being offline
        reason = str(error).strip().splitlines()[:1] or [""]
        what = name if configuration is None else f"{configuration} of {name}"
        instead = "files of your own" if configuration is None else "'synthetic' or a folder"
        raise KdzooError(
            f"could not load {what} from the hub ({type(error).__name__}: {reason[0]}); "
            f"without a network take {instead}"
        ) from error
