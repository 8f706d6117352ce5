"""GLUE's rows from the Hugging Face Hub."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kdzoo.errors import KdzooError
from kdzoo.tasks.base import Task

if TYPE_CHECKING:
    from datasets import Dataset
from kdzoo.tasks.sources.rows import _from_arrow, _splits

HUB_ID = "nyu-mll/glue"


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
