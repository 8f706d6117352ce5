"""A trained model's scores, its predictions, and its speed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from transformers import PreTrainedModel, TrainerCallback

from kdzoo.bench.timing import forward_speed, reset_peak_memory
from kdzoo.tasks import Task
from kdzoo.training.agreement import accepted_inputs
from kdzoo.training.trainer import DistillationTrainer

Collator = Callable[[list[dict[str, Any]]], dict[str, Any]]
INFERENCE = {1: 10, 32: 3}  # batch sizes that inference is measured at, and how many calls the median is of


class Evaluation(NamedTuple):
    """What a model is worth on some splits.

    Attributes:
        metrics: the task's, by name; of several validation splits with the split's name before.
        predictions, references: by split, by the task's unit.
    """

    metrics: dict[str, float]
    predictions: dict[str, Any]
    references: dict[str, Any]


def evaluated(trainer: DistillationTrainer, task: Task, data: DatasetDict) -> Evaluation:
    """The task's metrics on its validation splits."""
    by_split, predictions, references = {}, {}, {}
    for split in task.validation_splits:
        if split in data:
            predictions[split] = _predicted(trainer, task, data[split])
            references[split] = task.references(data[split])
            by_split[split] = task.evaluate(predictions[split], references[split])
    return Evaluation(task.flatten(by_split), predictions, references)


def tested(trainer: DistillationTrainer, task: Task, data: DatasetDict) -> dict[str, Any]:
    """The score and the metrics on the test split; empty where there is none."""
    if task.test_split is None or task.test_split not in data:
        return {}
    rows = data[task.test_split]
    references = task.references(rows)
    metrics = task.evaluate(_predicted(trainer, task, rows), references)
    return {"score": task.score(metrics), "metrics": metrics, "rows": len(references)}


def _predicted(trainer: DistillationTrainer, task: Task, rows: Dataset) -> Any:
    """What a model predicts, by the task's unit."""
    tokenizer: Any = trainer.processing_class
    return task.predictions(task.decoded(predict(trainer, rows), tokenizer), rows)


def guessed(task: Task, data: DatasetDict, references: dict[str, Any]) -> dict[str, Any]:
    """The score and the metrics of a constant guess (`Task.constant`); empty where the task has none.

    Args:
        task: what for.
        data: its splits as it encodes them.
        references: by validation split.
    """
    constant = {split: task.constant(data["train"], true) for split, true in references.items()}
    if any(guess is None for guess in constant.values()):
        return {}
    metrics = task.flatten({split: task.evaluate(guess, references[split]) for split, guess in constant.items()})
    return {"score": task.score(metrics), "metrics": metrics}


def inference(model: PreTrainedModel, data: DatasetDict, task: Task, collator: Collator) -> dict[str, dict[str, float]]:
    """By batch size, a forward pass's median milliseconds and the rows a second, on rows of median length.

    Of a task that writes text it is the whole decoding.

    Args:
        model: on the device it is measured on.
        data: the task's tokenised splits.
        task: what for.
        collator: of their rows.
    """
    rows = next(data[split] for split in task.validation_splits if split in data)
    names = accepted_inputs(model)
    middle = np.argsort(np.asarray(rows["length"]), kind="stable")
    found = {}
    for size, repeats in INFERENCE.items():
        repeats = max(repeats // 3, 1) if task.generates else repeats  # a decoding is dozens of forward passes
        first = max(len(middle) // 2 - size // 2, 0)
        batch = [rows[int(index)] for index in np.resize(middle[first : first + size], size)]
        taken = collator(batch)
        given = {name: value.to(model.device) for name, value in taken.items() if name in names - {*task.label_names}}
        found[str(size)] = forward_speed(model, partial(task.outputs, model, given), size, repeats)
    return found


def written(values: Any) -> Any:
    """What is predicted as a record holds it: numbers with every digit that float32 has, so that ranks stay."""
    if isinstance(values, np.ndarray):
        values = values.tolist()
    if isinstance(values, (list, tuple)):
        return [written(value) for value in values]
    return float(f"{value:.8g}") if isinstance(value := values, (int, float)) else values


def predict(trainer: DistillationTrainer, rows: Dataset) -> Any:
    """A model's outputs in the rows' order, one array or several; run longest first, so that batches pad little.

    A model that reads the parts of rows by themselves (`kdzoo.models.bi_encoder`) reads each once.
    """
    by_parts = getattr(trainer.student, "outputs_of", None)
    if by_parts is not None:
        return by_parts(rows, trainer.args.eval_batch_size, trainer.accelerator.autocast)
    order = np.argsort(-np.asarray(rows["length"][:]), kind="stable")
    found = trainer.predict(rows.select(order)).predictions
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    return tuple(part[back] for part in found) if isinstance(found, tuple) else found[back]


class Curve(TrainerCallback):
    """Takes the score while a model trains, out of the training's time and without touching its random numbers.

    The score is that of `Task.glimpse`'s rows.

    Args:
        trainer: which trains.
        task: what for.
        data: its encoded splits.
        times: how often, at even distances; the last score is taken in the end, by others.
        held_out: training rows that are not trained on, under the name of a validation split: the weights that score
            best on them are those that the model has after `keep_best`. Without them it keeps the last.

    Attributes:
        points: ``step``, ``seconds`` of training until then, ``score``; with rows held out, the score on these too.
        paused: the seconds that all this took while it trained.
    """

    def __init__(
        self,
        trainer: DistillationTrainer,
        task: Task,
        data: DatasetDict,
        times: int,
        held_out: DatasetDict | None = None,
    ) -> None:
        rows = DatasetDict({split: task.glimpse(data[split]) for split in task.validation_splits if split in data})
        self._part = any(len(rows[split]) < len(data[split]) for split in rows)
        self._score = lambda rows: task.score(evaluated(trainer, task, rows).metrics)
        self._model, self._data, self._held_out = trainer.student, rows, held_out
        self._stopwatch, self._times = trainer.stopwatch, times
        self._best: tuple[float, int, dict[str, torch.Tensor]] | None = None
        self.points: list[dict[str, float]] = []
        self.paused = 0.0

    def last(self, score: float) -> float:
        """The score in the end of the rows that the others are of, given that of all."""
        return self._score(self._data) if self._part and self._times else score

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        reset_peak_memory()  # the making of a cache, which lies behind, is no part of the training
        self._start = time.perf_counter()
        # The last score is the one that is taken in the end.
        self._at = {round(state.max_steps * part / (self._times + 1)) for part in range(1, self._times + 1)}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step not in self._at or not 0 < state.global_step < state.max_steps:
            return
        now = time.perf_counter()
        self._take(state.global_step, now - self._start - self.paused)
        model.train()
        self.paused += time.perf_counter() - now
        self._stopwatch.start()

    def _take(self, step: int, seconds: float) -> None:
        """A point of the curve, and the weights where none before did better on the rows held out."""
        with torch.random.fork_rng():
            point: dict[str, float] = {"step": step, "seconds": seconds, "score": self._score(self._data)}
            if self._held_out is not None:
                point["held_out"] = score = self._score(self._held_out)
                if self._best is None or score >= self._best[0]:
                    weights = {name: value.detach().cpu().clone() for name, value in self._model.state_dict().items()}
                    self._best = score, step, weights
        self.points.append(point)

    def keep_best(self, step: int, seconds: float) -> dict[str, Any]:
        """Give the model the weights that did best on the rows held out, the last of those that are level.

        They were trained longer; a method with stages may have seen no label when the first of them were reached.

        Args:
            step, seconds: of the whole training, whose last weights take part.

        Returns:
            Of these weights the ``step`` and the ``score`` on the rows held out; of how many they are the best, and how
            many rows these are. Empty without such rows, and the model is left as it is.
        """
        if self._held_out is None:
            return {}
        self._take(step, seconds)
        assert self._best is not None
        score, best, weights = self._best
        self._model.load_state_dict(weights)
        rows = sum(map(len, self._held_out.values()))
        return {"step": best, "score": score, "evaluations": len(self.points), "held_out_rows": rows}
