"""One model trained for one task and written to a folder: what ``kdzoo finetune`` and ``kdzoo distill`` do."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from rich.console import Console

from kdzoo.bench.contents import contents_of
from kdzoo.bench.folder import Records
from kdzoo.bench.progress import progress
from kdzoo.bench.record import FORMAT
from kdzoo.bench.runs.augmentation import augmented_rows, check_augmentation
from kdzoo.bench.runs.budget import Budget, check_precision
from kdzoo.bench.runs.encoders import encoder_for
from kdzoo.bench.runs.train import quiet, train
from kdzoo.bench.timing import device_name, versions
from kdzoo.distributed import launched
from kdzoo.models.spec import ModelSpec
from kdzoo.models.teachers import check_length
from kdzoo.objectives.objective import check_labels, check_separate_tokens
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import get_task, load
from kdzoo.training.cache import TeacherCache, megabytes


def run_one(
    *,
    task_name: str,
    recipe: Recipe,
    data: str,
    teacher: str,
    student: str | None,
    budget: Budget,
    seed: int,
    train_rows: int | None,
    validation_rows: int | None,
    folder: Path,
    console: Console,
    log_gradients: bool = False,
    cache: TeacherCache | None = None,
    augment: int = 0,
    augment_model: str | None = None,
    glove: str | None = None,
) -> dict[str, Any]:
    """Train one model, with a checkpoint an epoch; the same call goes on from the last one.

    Of several processes, as ``torchrun`` starts them, the first one writes.

    Args:
        task_name: the task.
        recipe: how to train; ``none`` fine-tunes.
        data: ``"synthetic"``, ``"hub"`` or a folder.
        teacher: the teacher's folder, hub name or size; the model itself where ``student`` is None.
        student: see `kdzoo.models.spec.ModelSpec.parse`; None trains the teacher itself.
        budget: how long and how fast.
        seed: of the student's new weights, of dropout and of the order of the rows.
        train_rows, validation_rows: how many to take; all when None.
        folder: where the model and its ``record.json`` go.
        console: where progress is shown.
        log_gradients: put the terms' gradient norms and cosines into the record's history.
        cache: where the teacher's activations are kept, so that it runs once a row; nowhere when None.
        augment: copies of each training row in which words are exchanged, added to the rows.
        augment_model, glove: see `kdzoo.bench.runs.augmentation.check_augmentation`.

    Returns:
        The record.

    Raises:
        KdzooError: for anything that cannot work, before training.
        DistillationFailure: when the loss becomes NaN or infinite.
    """

    def say(line: str) -> None:
        console.print(line, highlight=False, markup=False, soft_wrap=True)

    quiet()
    check_precision(budget)
    task = get_task(task_name)
    above = ModelSpec.parse(teacher)
    below = ModelSpec.parse(student) if student is not None else None
    if augment:
        check_augmentation(above, augment_model, glove)
    configuration = {
        "task": task.name,
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True, exclude={"general", "sources"}),
        "data": data,
        "teacher": teacher,
        "student": student,
        "budget": budget.model_dump(mode="json"),
        "seed": seed,
        "train_rows": train_rows,
        "validation_rows": validation_rows,
        **({"own_task": task.identity()} if task.brings_rows else {}),
        **({"log_gradients": True} if log_gradients else {}),
        **({"cache_precision": cache.precision} if cache is not None and cache.precision != "fp32" else {}),
        **({"augment": augment, "augment_model": augment_model, "glove": glove} if augment else {}),
    }
    records, old = Records.of_model(folder, configuration)
    if old is not None:
        of_files = task.brings_rows or data not in ("synthetic", "hub")
        again = load(task, data, train_rows=train_rows, validation_rows=validation_rows) if of_files else None
        records.check_contents(contents_of(above, below, {} if again is None else {task.name: again}))
        return old
    rows = load(task, data, train_rows=train_rows, validation_rows=validation_rows)
    encoder = encoder_for(above, below, [task], {task.name: rows}, data, budget.max_length, folder)
    if below is None:
        model = above.build(task, tokenizer=encoder.teacher, positions=budget.max_length, seed=seed)
        guide = None
    else:
        above.check_head(task.head())
        if (line := above.about_labels(task)) is not None:
            say(line)
        guide = above.build(task)
        model = below.build(task, teacher=guide, seed=seed).train()
    check_length(budget.max_length, encoder.student, model)
    with torch.device("meta"):
        objective = recipe.objective().bind(model, guide, num_samples=len(rows["train"]) * (1 + augment))
        check_labels(objective)
        if encoder.separate:
            check_separate_tokens(objective, model)
    records.check_contents(contents_of(above, below, {task.name: rows}))

    if augment:
        rows["train"] = augmented_rows(
            rows["train"],
            task,
            augment,
            teacher=above,
            model=augment_model,
            glove=glove,
            folder=folder / "augmented",
            say=say,
        )
    tokenized = DatasetDict({split: encoder.for_students(task, split_rows) for split, split_rows in rows.items()})
    needs = objective.teacher_needs()
    if cache is not None and guide is not None and needs is not None:
        size = cache.nbytes(guide.config, tokenized["train"], needs)
        if cache.limit is None or size <= cache.limit:  # the cache itself warns of the other case
            say(f"the teacher's activations are kept in {cache.folder}: {megabytes(size)}")
    first = launched()[0] == 0
    with records.claimed() if first else nullcontext(), progress(console, f"{task.name} {recipe.name}") as progressed:
        outcome = train(
            model,
            guide,
            recipe,
            task=task,
            data=tokenized,
            tokenizer=encoder.student,
            collator=encoder.collator(task),
            budget=budget,
            seed=seed,
            folder=folder,
            save=True,
            log_gradients=log_gradients,
            cache=cache,
            progress=progressed,
        )
        record = {
            "format": FORMAT,
            "configuration": configuration,
            **asdict(outcome),
            "versions": versions("transformers", "datasets"),
            "device": device_name(),
            "threads": torch.get_num_threads(),
        }
        if first:
            records.write(records.model, record)
    return record
