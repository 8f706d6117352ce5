"""A trained model's scores, its predictions, and its speed."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from kdzoo.bench.timing import forward_speed, reset_peak_memory
from kdzoo.tasks import Task
from kdzoo.training.trainer import DistillationTrainer, accepted_inputs

INFERENCE = {1: 10, 32: 3}  # batch sizes that inference is measured at, and how many calls the median is of


def evaluated(
    trainer: DistillationTrainer, task: Task, data: DatasetDict
) -> tuple[dict[str, float], dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The task's metrics on its validation splits, and by split the predictions and the labels."""
    by_split, predictions, references = {}, {}, {}
    for split in task.validation_splits:
        if split in data:
            logits, labels = predict(trainer, data[split])
            by_split[split] = task.evaluate(logits, labels)
            predictions[split], references[split] = task.predictions(logits), labels
    return task.flatten(by_split), predictions, references


def inference(
    model: PreTrainedModel, data: DatasetDict, task: Task, tokenizer: PreTrainedTokenizerBase
) -> dict[str, dict[str, float]]:
    """By batch size, a forward pass's median milliseconds and the rows a second, on rows of median length.

    Args:
        model: on the device it is measured on.
        data: the task's tokenised splits.
        task: what for.
        tokenizer: theirs.
    """
    rows = next(data[split] for split in task.validation_splits if split in data)
    names = accepted_inputs(model)
    middle = np.argsort(np.asarray(rows["length"]), kind="stable")
    found = {}
    for size, repeats in INFERENCE.items():
        first = max(len(middle) // 2 - size // 2, 0)
        batch = [rows[int(index)] for index in np.resize(middle[first : first + size], size)]
        taken = task.collator(tokenizer)(batch)
        given = {name: value.to(model.device) for name, value in taken.items() if name in names}
        found[str(size)] = forward_speed(model, given, size, repeats)
    return found


def _written(values: np.ndarray) -> list[float]:
    """Numbers as a record holds them: every digit that float32 has, so that ranks stay as they are."""
    return [float(f"{value:.8g}") for value in values.tolist()]


def predict(trainer: DistillationTrainer, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) and labels (N,) in the rows' order; they are run longest first, so that batches pad little."""
    order = np.argsort(-np.asarray(rows["length"]), kind="stable")
    output = trainer.predict(rows.select(order))
    logits, labels = np.empty_like(output.predictions), np.empty_like(output.label_ids)
    logits[order], labels[order] = output.predictions, output.label_ids
    return logits, labels


class _Curve(TrainerCallback):
    """Takes the score while a model trains, out of the training's time and without touching its random numbers."""

    def __init__(self, trainer: DistillationTrainer, task: Task, data: DatasetDict, times: int) -> None:
        self._evaluated = lambda: task.score(evaluated(trainer, task, data)[0])
        self._stopwatch, self._times = trainer.stopwatch, times
        self.points: list[dict[str, float]] = []
        self.paused = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        reset_peak_memory()  # the making of a cache, which lies behind, is no part of the training
        self._start = time.perf_counter()
        # The last score is the one that is taken in the end.
        self._at = {round(state.max_steps * part / (self._times + 1)) for part in range(1, self._times + 1)}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step not in self._at or not 0 < state.global_step < state.max_steps:
            return
        now = time.perf_counter()
        with torch.random.fork_rng():
            score = self._evaluated()
        self.points.append({"step": state.global_step, "seconds": now - self._start - self.paused, "score": score})
        model.train()
        self.paused += time.perf_counter() - now
        self._stopwatch.start()
