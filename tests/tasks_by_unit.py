"""Tiny models, rows and trainers of the tasks whose rows are sentences and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from kdzoo.models.activations import capture
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import learned_tokenizer
from kdzoo.tasks import get_task, load
from kdzoo.training.agreement import accepted_inputs
from kdzoo.training.labels import Labels
from kdzoo.training.trainer import DistillationTrainer


def made(name: str, train: int = 24, length: int = 32) -> tuple[Any, Any, Any, Any]:
    """A task, its synthetic training rows as they are and encoded, and a tokenizer learned from them."""
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    task = get_task(name)
    data = load(task, "synthetic", train_rows=train, validation_rows=8)
    tokenizer = learned_tokenizer(task.texts(data["train"]), size=150)  # so that words have several pieces
    return task, data["train"], task.encode(data["train"], tokenizer, length), tokenizer


def model(task: Any, tokenizer: Any, size: str = "2x16,heads=2", seed: int = 0) -> Any:
    """A model without dropout, its weights large enough for logits that differ."""
    built = ModelSpec.parse(size).build(task, tokenizer=tokenizer, positions=64, seed=seed)
    for part in built.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    return built.eval()


def trainer(
    task: Any,
    tokenizer: Any,
    rows: Any,
    folder: Path,
    objective: Any,
    *,
    cache: Any = None,
    batch: int = 8,
    pieces: int = 1,
    **told: Any,
) -> DistillationTrainer:
    """A trainer of a student for three steps, of ``pieces`` micro-batches each."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        max_steps=3,
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=pieces,
        learning_rate=0.1,
        optim="sgd",
        use_cpu=True,
        seed=0,
        logging_steps=1,
        report_to="none",
        disable_tqdm=True,
        save_strategy="no",
        **told,
    )
    return DistillationTrainer(
        model=model(getattr(task, "inner", task), tokenizer, "1x16,heads=2", seed=1),  # plain, whatever the teacher is
        teacher=model(task, tokenizer),
        objective=objective,
        cache=cache,
        args=arguments,
        train_dataset=rows,
        data_collator=task.collator(tokenizer),
        processing_class=tokenizer,
    )


def losses(trained: DistillationTrainer) -> list[float]:
    """The loss of each step."""
    return [entry["loss"] for entry in trained.state.log_history if "loss" in entry]


def compared(objective: Any, student: Any, teacher: Any, batch: dict[str, Any]) -> dict[str, float]:
    """The terms of one batch, as the trainer computes them."""
    objective.bind(student, teacher)
    labels = Labels.of(student, batch)
    taken = []
    for side, needs in zip((student, teacher), objective.needs(0.0), strict=True):
        if needs is None:
            taken.append(None)
            continue
        inputs = {name: batch[name] for name in accepted_inputs(side) if name in batch}
        with capture(side, needs) as recorder:
            taken.append(labels.read(recorder.activations(side(**inputs), mask=batch["attention_mask"])))
    told = {"labels": labels.values, "counted": labels.counted, "lists": labels.lists}
    output = objective(*taken, **told, sample_ids=batch["sample_ids"])
    return {name: float(value) for name, value in output.terms.items()}
