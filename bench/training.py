"""One training and its evaluation: what fine-tuning, distilling and every cell of a comparison run."""

from __future__ import annotations

import json
import resource
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset, DatasetDict
from datasets.utils.logging import disable_progress_bar
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_callback import PrinterCallback
from transformers.utils import logging as transformers_logging

from kdzoo.bench.settings import Budget
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.glue import Task
from kdzoo.recipe import Recipe
from kdzoo.trainer import DistillationTrainer

Progress = Callable[[int, int], None]


@dataclass
class Outcome:
    """What a training gave.

    Attributes:
        metrics: the task's metrics by name; of several validation splits with the split's name before.
        score: the task's one number, 0 to 100.
        predictions: by validation split, in the rows' order: class ids, or scores.
        references: the labels in the same form.
        samples_per_second: training rows over training time.
        train_seconds: wall time of the training.
        step_seconds: mean seconds of a step, split as in `kdzoo.stopwatch.PARTS`.
        evaluation_samples_per_second: validation rows over the time of predicting them.
        parameters: of the model as it is saved.
        loss_parameters: of the objective, which are not.
        peak_memory: bytes; the accelerator's, or the process's resident set on a CPU.
        history: the Trainer's log.
    """

    metrics: dict[str, float]
    score: float
    predictions: dict[str, list[float]]
    references: dict[str, list[float]]
    samples_per_second: float
    train_seconds: float
    steps: int
    step_seconds: dict[str, float]
    evaluation_samples_per_second: float
    parameters: int
    loss_parameters: int
    peak_memory: int
    history: list[dict[str, Any]] = field(default_factory=list)


def train(
    student: PreTrainedModel,
    teacher: PreTrainedModel | None,
    recipe: Recipe,
    *,
    task: Task,
    data: DatasetDict,
    tokenizer: PreTrainedTokenizerBase,
    budget: Budget,
    seed: int,
    folder: Path,
    save: bool = False,
    evaluate_only: bool = False,
    log_gradients: bool = False,
    progress: Progress | None = None,
) -> Outcome:
    """Train a student by a recipe and evaluate it.

    Args:
        student: the model to train.
        teacher: the model it learns from; None where the recipe needs none.
        recipe: how.
        task: what for.
        data: the task's tokenised splits (``task.tokenize``).
        tokenizer: theirs.
        budget: how long and how fast.
        seed: of dropout, of what the losses learn, and of the order of the rows.
        folder: for checkpoints, and for the model where ``save`` is set.
        save: keep a checkpoint an epoch, go on from the last one, and write the model in the end.
        evaluate_only: leave the training out.
        log_gradients: put the terms' gradient norms and cosines into the history.
        progress: told the steps done and the steps to do.

    Raises:
        KdzooError: where recipe, models and data do not go together.
        DistillationFailure: when the loss becomes NaN or infinite.
    """
    quiet()
    callbacks = [_Steps(progress)] if progress is not None else []
    steps = budget.batch_size * budget.gradient_accumulation
    total = max(1, int(np.ceil(len(data["train"]) / steps) * budget.epochs))
    arguments = TrainingArguments(
        output_dir=str(folder),
        num_train_epochs=budget.epochs,
        per_device_train_batch_size=budget.batch_size,
        per_device_eval_batch_size=2 * budget.batch_size,
        gradient_accumulation_steps=budget.gradient_accumulation,
        learning_rate=budget.learning_rate,
        warmup_steps=int(np.ceil(budget.warmup_ratio * total)),
        weight_decay=budget.weight_decay,
        max_grad_norm=budget.max_grad_norm,
        bf16=budget.precision == "bf16",
        fp16=budget.precision == "fp16",
        use_cpu=not torch.accelerator.is_available(),
        seed=seed,
        data_seed=seed,
        train_sampling_strategy="group_by_length",
        length_column_name="length",
        dataloader_pin_memory=torch.cuda.is_available(),
        logging_steps=max(1, total // 20),
        save_strategy="epoch" if save else "no",
        save_total_limit=1,
        report_to="none",
        disable_tqdm=True,
        log_level="error",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", KdzooWarning)  # said when the request was checked
        trainer = DistillationTrainer(
            model=student,
            teacher=teacher,
            recipe=recipe,
            log_gradients=log_gradients,
            args=arguments,
            train_dataset=data["train"],
            data_collator=task.collator(tokenizer),
            processing_class=tokenizer,
            callbacks=callbacks,
        )
    trainer.pop_callback(PrinterCallback)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    ran = {"train_runtime": 0.0, "train_samples_per_second": 0.0}
    resumed = 0
    if not evaluate_only:
        checkpoint, resumed = last_checkpoint(folder) if save else (None, 0)
        ran |= trainer.train(resume_from_checkpoint=checkpoint).metrics
    by_split, predictions, references, seconds, rows = {}, {}, {}, 0.0, 0
    for split in task.validation_splits:
        if split not in data:
            continue
        start = time.perf_counter()
        logits, labels = predict(trainer, data[split])
        seconds += time.perf_counter() - start
        rows += len(labels)
        by_split[split] = task.evaluate(logits, labels)
        predictions[split] = _written(task.predictions(logits))
        references[split] = _written(labels)
    metrics = task.flatten(by_split)
    if save:
        trainer.log({f"eval_{name}": value for name, value in metrics.items()})
        trainer.save_model(str(folder))
    done = max(trainer.state.global_step - resumed, 1)
    return Outcome(
        metrics=metrics,
        score=task.score(metrics),
        predictions=predictions,
        references=references,
        # The Trainer counts the rows from before a resume too.
        samples_per_second=float(ran["train_samples_per_second"]) * done / max(trainer.state.global_step, 1),
        train_seconds=float(ran["train_runtime"]),
        steps=trainer.state.global_step,
        step_seconds={part: seconds / done for part, seconds in trainer.stopwatch.seconds.items()},
        evaluation_samples_per_second=rows / max(seconds, 1e-9),
        parameters=sum(parameter.numel() for parameter in student.parameters()),
        loss_parameters=sum(parameter.numel() for parameter in trainer.model.objective.parameters()),
        peak_memory=_peak_memory(),
        history=trainer.state.log_history,
    )


def _written(values: np.ndarray) -> list[float]:
    """Numbers as a record holds them: every digit that float32 has, so that ranks stay as they are."""
    return [float(f"{value:.8g}") for value in values.tolist()]


def last_checkpoint(folder: Path) -> tuple[str | None, int]:
    """The last whole checkpoint in a folder and its step; None and 0 where there is none.

    The Trainer writes a checkpoint's state last, so one that was cut short has none.
    """
    for path in sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]), reverse=True):
        try:
            return str(path), int(json.loads((path / TRAINER_STATE_NAME).read_text(encoding="utf-8"))["global_step"])
        except (OSError, ValueError):
            continue
    return None, 0


def check_precision(budget: Budget) -> None:
    """Refuse a precision that the machine does not have.

    Raises:
        KdzooError: names those it has.
    """
    if budget.precision == "fp16" and not torch.accelerator.is_available():
        raise KdzooError("precision fp16 needs an accelerator, and there is none; take fp32 or bf16")


def predict(trainer: DistillationTrainer, rows: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Logits (N, C) and labels (N,) in the rows' order; they are run longest first, so that batches pad little."""
    order = np.argsort(-np.asarray(rows["length"]), kind="stable")
    output = trainer.predict(rows.select(order))
    logits, labels = np.empty_like(output.predictions), np.empty_like(output.label_ids)
    logits[order], labels[order] = output.predictions, output.label_ids
    return logits, labels


def quiet() -> None:
    """Keep the libraries' own bars and notices off the terminal, which shows ours."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bar()


class _Steps(TrainerCallback):
    def __init__(self, progress: Progress) -> None:
        self._progress = progress

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def _peak_memory() -> int:
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return int(peak if sys.platform == "darwin" else peak * 1024)
