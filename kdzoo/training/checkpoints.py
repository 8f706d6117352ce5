"""What a checkpoint holds of a student, whatever is wrapped around it, and whether a training can go on from one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, load_model, save_model
from torch import nn
from transformers.trainer import OPTIMIZER_NAME, SCHEDULER_NAME, TRAINER_STATE_NAME

from kdzoo.errors import KdzooError
from kdzoo.models.heads import is_peft, savable

OBJECTIVE_FILE = "objective.safetensors"
STUDENT_FILE = "model.safetensors"
ADAPTER_FILE = "adapter_model.safetensors"


def save_student(student: nn.Module, folder: Path) -> None:
    """Write a student as transformers does, or of one with PEFT's adapters these, as PEFT does."""
    savable(student).save_pretrained(str(folder))


def save_objective(objective: nn.Module, folder: Path) -> None:
    """Write what an objective learns."""
    save_model(objective, str(folder / OBJECTIVE_FILE))


def load(student: nn.Module, objective: nn.Module, folder: Path) -> None:
    """Put a checkpoint's weights into a student and an objective.

    Raises:
        KdzooError: on one line that names the file.
    """
    model = savable(student)
    if is_peft(model):
        with resuming(folder, ADAPTER_FILE):
            _load_adapters(model, folder)
    else:
        with resuming(folder, STUDENT_FILE):
            load_model(model, folder / STUDENT_FILE)
    with resuming(folder, OBJECTIVE_FILE):
        load_model(objective, folder / OBJECTIVE_FILE)


def _load_adapters(model: Any, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    for adapter in model.peft_config:
        path = folder / ADAPTER_FILE if adapter == "default" else folder / adapter / ADAPTER_FILE
        kept = load_file(path)
        result: Any = set_peft_model_state_dict(model, kept, adapter_name=adapter)
        if result.unexpected_keys:
            raise ValueError(f"{path.name} holds other adapters than the student's: {result.unexpected_keys[0]}")


def check(folder: Path, max_steps: int) -> None:
    """Refuse a checkpoint that a training would go on from otherwise than it stopped.

    Args:
        folder: the checkpoint.
        max_steps: of the training, where it is known; else 0 or less.

    Raises:
        KdzooError: on one line that names the file.
    """
    with resuming(folder, TRAINER_STATE_NAME):
        state = json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
        step = state.get("global_step") if isinstance(state, dict) else None
        if not isinstance(step, int) or isinstance(step, bool) or step < 0:
            raise ValueError(f"its global_step is {step!r}, which is no number of steps")
        named = folder.name.rpartition("-")[2]
        if folder.name.startswith("checkpoint-") and named.isdigit() and int(named) != step:
            raise ValueError(f"its global_step is {step}, and the folder is that of step {named}")
        if 0 < max_steps < step:
            raise ValueError(f"its global_step is {step}, and this training ends after {max_steps}")
    for name in (OPTIMIZER_NAME, SCHEDULER_NAME):
        with resuming(folder, name):
            if not (folder / name).is_file():
                raise ValueError("it is missing, so the training would not go on as it was")


@contextmanager
def resuming(folder: Path, name: str) -> Iterator[None]:
    """What goes wrong while a checkpoint's file is read, on one line that names it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise KdzooError(f"checkpoint {folder} cannot be resumed: {name}: {reason}") from error
