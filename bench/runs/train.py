"""One training and its evaluation: what fine-tuning, distilling and every cell of a comparison run."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from datasets import DatasetDict
from datasets.utils.logging import disable_progress_bar
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from kdzoo.bench.progress import ROWS, Progress
from kdzoo.bench.runs.budget import Budget, total_steps, training_arguments
from kdzoo.bench.runs.evaluate import Collator, Curve, evaluated, guessed, inference, tested, written
from kdzoo.bench.timing import forward_flops, peak_memory, reset_peak_memory
from kdzoo.errors import KdzooWarning
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import Task
from kdzoo.tasks.epochs import first_epochs, rows_an_epoch
from kdzoo.training.cache import TeacherCache
from kdzoo.training.trainer import DistillationTrainer

EXAMPLES = 8  # rows of which a record holds the source


@dataclass
class Outcome:
    """What a training gave.

    Attributes:
        metrics: the task's metrics by name; of several validation splits with the split's name before.
        score: the task's one number, 0 to 100.
        kind, headline: the task's, so that a record can be read without it.
        predictions: by validation split, in the order of the task's units, most often rows: class ids, or numbers.
        references: what is right in the same form.
        one_class: whether everything predicted is one class.
        guess: ``score`` and ``metrics`` of a constant guess from the training labels; empty where there is none.
        scored_by: what scores depend on beside, in words by name (`Task.scored_by`).
        sources: what was given in the first rows of the first validation split, where predictions are texts.
        test: ``score``, ``metrics`` and ``rows`` of the test split, scored once; empty where there is none.
        curve: the score during the training: ``step``, ``seconds`` of training until then, ``score``, and on training
            rows held out where there are some; the last entry is of the last weights.
        kept: where the best weights were kept, see `kdzoo.bench.runs.evaluate.Curve.keep_best`, and how many rows were
            trained on and held out; empty where the last were.
        samples_per_second: training rows over training time.
        tokens_per_second: their tokens, padding left out, over training time.
        train_seconds: wall time of the training; evaluations and the making of a cache are not in it.
        step_seconds: mean seconds of a step, split as in `kdzoo.training.stopwatch.PARTS`.
        cached: whether the teacher's activations were read from a cache.
        evaluation_samples_per_second: validation rows over the time of predicting them.
        inference: by batch size, ``latency_ms`` (a batch's, the median) and ``rows_per_second``, on validation rows of
            median length.
        flops: floating-point operations of a forward pass of one row of ``max_length`` tokens.
        parameters: of the model as it is saved.
        loss_parameters: of the objective, which are not.
        peak_memory: bytes while it trained; the accelerator's, or on a CPU the process's resident set.
        history: the Trainer's log.
    """

    metrics: dict[str, float]
    score: float
    kind: str
    headline: list[str]
    predictions: dict[str, Any]
    references: dict[str, Any]
    one_class: bool
    guess: dict[str, Any]
    scored_by: dict[str, str]
    sources: list[str]
    test: dict[str, Any]
    curve: list[dict[str, float]]
    samples_per_second: float
    tokens_per_second: float
    train_seconds: float
    steps: int
    step_seconds: dict[str, float]
    cached: bool
    evaluation_samples_per_second: float
    inference: dict[str, dict[str, float]]
    flops: int
    parameters: int
    loss_parameters: int
    peak_memory: int
    history: list[dict[str, Any]] = field(default_factory=list)
    kept: dict[str, Any] = field(default_factory=dict)


def train(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    recipe: Recipe,
    *,
    task: Task,
    data: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    collator: Collator,
    budget: Budget,
    seed: int,
    folder: Path,
    save: bool = False,
    keep: Path | None = None,
    evaluate_only: bool = False,
    log_gradients: bool = False,
    evaluations: int = 0,
    held_out: DatasetDict | None = None,
    cache: TeacherCache | None = None,
    callbacks: Sequence[TrainerCallback] = (),
    progress: Progress | None = None,
) -> Outcome:
    """Train a student by a recipe and evaluate it.

    Args:
        student: the model to train.
        teacher: the model it learns from; None where the recipe needs none.
        recipe: how.
        task: what for.
        data: the task's encoded splits (`kdzoo.tasks.encoding.Encoder`).
        tokenizer: the student's, which is saved with it.
        collator: makes batches of the rows.
        budget: how long and how fast.
        seed: of dropout, of what the losses learn, and of the order of the rows.
        folder: for checkpoints, and for the model where ``save`` is set.
        save: keep a checkpoint an epoch, go on from the last one, and write the model in the end.
        keep: write the model into this folder in the end, without checkpoints before.
        evaluate_only: leave the training out.
        log_gradients: put the terms' gradient norms and cosines into the history.
        evaluations: how often to take the score while training, at even distances; it changes nothing else.
        held_out: rows of the training split that are not in ``data``, under a validation split's name; of the weights
            at each evaluation and at the end, those that score best on them are kept.
        cache: of the teacher's activations.
        callbacks: more of the Trainer's.
        progress: told the steps done and the steps to do, and before them the teacher's rows, where a cache is filled.

    Raises:
        KdzooError: where recipe, models and data do not go together.
        DistillationFailure: when the loss or the weights become NaN or infinite.
    """
    quiet()
    callbacks = [*callbacks, *([_Steps(progress)] if progress is not None else [])]
    data = DatasetDict({**data, "train": first_epochs(data["train"], budget.epochs)})
    total = total_steps(budget, rows_an_epoch(data["train"]))
    trainer = silent_trainer(
        model=student,
        teacher=teacher,
        recipe=recipe,
        log_gradients=log_gradients,
        cache=cache,
        args=training_arguments(budget, total, seed, folder, save_strategy="epoch" if save else "no"),
        train_dataset=data["train"],
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    if progress is not None:
        trainer.teacher_progress = partial(progress, unit=ROWS)
    trainer.outputs = task.outputs if task.generates else None
    trainer.add_callback(curve := Curve(trainer, task, data, evaluations, held_out))
    reset_peak_memory()
    if evaluate_only:
        ran = _Ran(0, 0.0, peak_memory())
    else:
        ran = _run(trainer, curve, folder if save else None)
    return _outcome(trainer, ran, curve, task, data, collator, budget, into=keep or (folder if save else None))


def silent_trainer(**given: Any) -> DistillationTrainer:
    """A trainer that does not say again what was said when the request was checked, and prints nothing."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KdzooWarning)
        trainer = DistillationTrainer(**given)
    trainer.pop_callback(PrinterCallback)
    return trainer


class _Ran(NamedTuple):
    """A training in this process: its steps, its seconds without evaluations, and the most bytes meanwhile."""

    steps: int
    seconds: float
    peak_memory: int


def _run(trainer: DistillationTrainer, curve: Curve, folder: Path | None) -> _Ran:
    """Train to the end, from the last checkpoint of the folder where there is one."""
    checkpoint, resumed = last_checkpoint(folder) if folder is not None else (None, 0)
    with warnings.catch_warnings():
        # What a loss says at its first call was said before; what the cache says was not.
        warnings.filterwarnings("ignore", category=KdzooWarning, module=r"kdzoo\.baselines\.")
        ran = trainer.train(resume_from_checkpoint=checkpoint).metrics
    seconds = max(float(ran["train_runtime"]) - curve.paused, 0.0)
    return _Ran(trainer.state.global_step - resumed, seconds, peak_memory())


def _outcome(
    trainer: DistillationTrainer,
    ran: _Ran,
    curve: Curve,
    task: Task,
    data: DatasetDict,
    collator: Collator,
    budget: Budget,
    *,
    into: Path | None,
) -> Outcome:
    """Evaluate what was trained, and write it into a folder where there is one."""
    steps = trainer.state.global_step
    if kept := curve.keep_best(steps, ran.seconds):
        kept["train_rows"] = len(data["train"])
        trainer.kept = kept
    start = time.perf_counter()
    metrics, predictions, references = evaluated(trainer, task, data)
    predicting = time.perf_counter() - start
    if into is not None:
        trainer.log({f"eval_{name}": value for name, value in metrics.items()})
        trainer.save_model(str(into))
    student = trainer.student
    rows = budget.epochs * rows_an_epoch(data["train"]) * ran.steps / max(steps, 1)
    per_second = rows / ran.seconds if ran.seconds else 0.0
    score = task.score(metrics)
    return Outcome(
        metrics=metrics,
        score=score,
        kind=task.kind,
        headline=list(task.headline),
        predictions={split: written(values) for split, values in predictions.items()},
        references={split: written(values) for split, values in references.items()},
        one_class=all(task.one_class(values) for values in predictions.values()),
        guess=guessed(task, data, references),
        scored_by=task.scored_by(references),
        sources=task.examples(data[next(iter(references))])[:EXAMPLES] if references else [],
        test=tested(trainer, task, data),
        curve=curve.points
        if kept
        else [*curve.points, {"step": steps, "seconds": ran.seconds, "score": curve.last(score)}],
        samples_per_second=per_second,
        tokens_per_second=per_second * float(np.mean(data["train"]["length"])),
        train_seconds=ran.seconds,
        steps=steps,
        step_seconds={part: spent / max(ran.steps, 1) for part, spent in trainer.stopwatch.seconds.items()},
        cached=trainer.teacher_rows is not None,
        evaluation_samples_per_second=sum(map(len, references.values())) / max(predicting, 1e-9),
        inference=inference(student, data, task, collator),
        flops=forward_flops(student, budget.max_length),
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        loss_parameters=sum(parameter.numel() for parameter in trainer.model.objective.parameters()),
        peak_memory=ran.peak_memory,
        history=trainer.state.log_history,
        kept=kept,
    )


def last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The last whole checkpoint in a folder and its step; None and 0 where there is none.

    The Trainer writes a checkpoint's state last, so one that was cut short has none.
    """
    steps = {path: path.name.removeprefix("checkpoint-") for path in folder.glob("checkpoint-*")}
    numbered = [path for path, step in steps.items() if step.isascii() and step.isdecimal() and len(step) < 16]
    for path in sorted(numbered, key=lambda path: int(steps[path]), reverse=True):
        try:
            return str(path), int(json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError, TypeError, KeyError, OverflowError, RecursionError):
            continue
    return None, 0


def quiet() -> None:
    """Keep the libraries' own bars and notices off the terminal, which shows ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    # accelerate says it of an argument that the Trainer passes.
    warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
    disable_progress_bar()


class _Steps(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)
