"""Logs of each training for TensorBoard and Weights & Biases, where they are asked for."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from kdzoo.errors import KdzooError

Write = Callable[[dict[str, float], int], None]


def check_trackers(trackers: tuple[str, ...]) -> None:
    """Refuse trackers that are not installed, or that nobody has logged in to.

    Raises:
        KdzooError: says what to do about it.
    """
    for name in trackers:
        if find_spec(name) is None:
            raise KdzooError(f"--{name} needs the package {name}, which is not installed; pip install 'kdzoo[{name}]'")
    if "wandb" in trackers and os.environ.get("WANDB_MODE", "online") == "online":
        import wandb

        try:
            wandb.login()
        except Exception as error:
            raise KdzooError(f"--wandb: {error} (WANDB_MODE=offline logs into the folder alone)") from None


@contextmanager
def tracked(trackers: tuple[str, ...], folder: Path, name: str, configuration: dict[str, Any]) -> Iterator[list[Logs]]:
    """What logs a training.

    Args:
        trackers: ``"tensorboard"``, ``"wandb"``.
        folder: where the logs go; what an earlier attempt at this training left there goes away.
        name: the training's.
        configuration: what it was told.
    """
    with ExitStack() as stack:
        writes: list[Write] = []
        if trackers:
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True, exist_ok=True)
        if "tensorboard" in trackers:
            from torch.utils.tensorboard import SummaryWriter

            writer = stack.enter_context(SummaryWriter(str(folder)))

            def write(logs: dict[str, float], step: int) -> None:
                for name, value in logs.items():
                    writer.add_scalar(name, value, step)

            writes.append(write)
        if "wandb" in trackers:
            import wandb

            options = {"project": os.environ.get("WANDB_PROJECT", "kdzoo"), "name": name, "config": configuration}
            settings = wandb.Settings(silent=True)
            run = stack.enter_context(
                wandb.init(**options, dir=str(folder), reinit="finish_previous", settings=settings)
            )
            writes.append(run.log)
        yield [Logs(write) for write in writes]


class Logs(TrainerCallback):
    """Hands on what the Trainer logs (the loss, each term's, the learning rate) and, in the end, the scores."""

    def __init__(self, write: Write) -> None:
        self._write = write

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        numbers = {name: value for name, value in (logs or {}).items() if isinstance(value, (int, float))}
        self._write(numbers, state.global_step)

    def end(self, record: dict[str, Any]) -> None:
        """Hand on a record's scores."""
        scores = {"score": record["score"], **record["metrics"]}
        self._write({f"eval/{name}": value for name, value in scores.items()}, record["steps"])
