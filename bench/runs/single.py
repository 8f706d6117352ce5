"""One model trained for one task and written to a folder: what ``kdzoo finetune`` and ``kdzoo distill`` do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from rich.console import Console

from kdzoo.bench.contents import contents_of
from kdzoo.bench.folder import Records
from kdzoo.bench.progress import progress
from kdzoo.bench.record import new_record
from kdzoo.bench.runs.augmentation import augmented_rows, check_augmentation
from kdzoo.bench.runs.budget import Budget, Distilled, check_precision
from kdzoo.bench.runs.encoders import encoder_for
from kdzoo.bench.runs.tasks import load_rows
from kdzoo.bench.runs.train import quiet, train
from kdzoo.distributed import launched
from kdzoo.models.activations import Needs
from kdzoo.models.decoders import check_decoder
from kdzoo.models.inputs import check_abilities
from kdzoo.models.spec import ModelSpec
from kdzoo.models.teachers import check_length
from kdzoo.models.tokenizers import told_of_targets
from kdzoo.objectives.checks import check_labels, check_separate_tokens
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.overrides import settings_without_effect
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import Task, get_task
from kdzoo.tasks.encoding import Encoder
from kdzoo.training.accumulation import say_micro_batches
from kdzoo.training.cache import TeacherCache, megabytes
from kdzoo.training.decoded import check_targets, decoded_rows
from kdzoo.training.kept import why_not_kept
from kdzoo.training.order import check_together


def run_one(
    *,
    task_name: str,
    recipe: Recipe,
    teacher: str,
    student: str | None,
    given: Distilled,
    budget: Budget,
    seed: int,
    folder: Path,
    console: Console,
    log_gradients: bool = False,
    overrides: Sequence[str] = (),
) -> dict[str, Any]:
    """Train one model, with a checkpoint an epoch; the same call goes on from the last one.

    Of several processes, as ``torchrun`` starts them, the first one writes.

    Args:
        task_name: the task.
        recipe: how to train; ``none`` fine-tunes.
        teacher: the teacher's folder, hub name or size; the model itself where ``student`` is None.
        student: see `kdzoo.models.spec.ModelSpec.parse`; None trains the teacher itself.
        given: the rows, and where the teacher's activations are kept.
        budget: how long and how fast.
        seed: of the student's new weights, of dropout and of the order of the rows.
        folder: where the model and its ``record.json`` go.
        console: where progress is shown.
        log_gradients: put the terms' gradient norms and cosines into the record's history.
        overrides: the settings that the recipe was changed with; one without effect on the task is refused.

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
    task, above = get_task(task_name), ModelSpec.parse(teacher)
    below = ModelSpec.parse(student) if student is not None else None
    if given.augment:
        check_augmentation(above, given.augment_model, given.glove)
    configuration = _configuration(task, recipe, teacher, student, given, budget, seed) | told_of_targets(above, below)
    if log_gradients:
        configuration["log_gradients"] = True
    records, old = Records.of_model(folder, configuration)
    if old is not None:
        of_files = task.brings_rows or given.data not in ("synthetic", "hub")
        records.check_contents(contents_of(above, below, load_rows([task], given) if of_files else {}))
        return old
    rows = load_rows([task], given)[task.name]
    encoder = encoder_for(above, below, [task], {task.name: rows}, given.data, budget.max_length, folder, budget.epochs)
    model, guide = _models(above, below, task, encoder, budget, seed, say)
    check_targets(recipe, task)
    for split, split_rows in rows.items():
        for tokenizer in {id(one): one for one in (encoder.teacher, encoder.student)}.values():
            task.check_rows(split, split_rows, tokenizer)
    if cut := task.about_length(rows["train"], encoder.student, budget.max_length):
        say(f"{task.name}: {cut}")
    check_together(task.rows_together, budget.batch_size)
    objective = _checked(recipe, model, guide, encoder, len(rows["train"]) * (1 + given.augment), budget)
    needs = objective.teacher_needs()
    for _, _, line in settings_without_effect(overrides, [(task.name, recipe, objective.idle(model))]):
        say(f"{task.name}: {line}")
    records.check_contents(contents_of(above, below, {task.name: rows}))

    if given.augment:
        rows["train"] = augmented_rows(
            rows["train"],
            task,
            given.augment,
            teacher=above,
            model=given.augment_model,
            glove=given.glove,
            folder=folder / "augmented",
            say=say,
        )
    said = ""
    if recipe.targets is not None:
        with progress(console, f"{task.name} decoding", len(rows["train"]), "rows") as decoding:
            rows["train"], said = decoded_rows(
                rows["train"],
                task,
                guide,
                encoder.teacher,
                recipe.targets,
                max_length=budget.max_length,
                folder=folder / "decoded",
                student=encoder.student,
                progress=decoding,
            )
        say(f"{task.name} {said}")
    # What is trained without a teacher is to be one.
    encode = encoder.for_teacher if below is None else encoder.for_students
    tokenized = DatasetDict({split: encode(task, split_rows) for split, split_rows in rows.items()})
    cache = _cache(given, guide, needs, tokenized["train"], say)
    first = launched()[0] == 0
    with records.claimed() if first else nullcontext(), progress(console, f"{task.name} {recipe.name}") as progressed:
        outcome = train(
            model,
            guide,
            recipe,
            task=task,
            data=tokenized,
            tokenizer=encoder.student,
            collator=encoder.teacher_collator(task) if below is None else encoder.collator(task),
            budget=budget,
            seed=seed,
            folder=folder,
            save=True,
            log_gradients=log_gradients,
            cache=cache,
            progress=progressed,
        )
        if said:
            outcome.scored_by["targets"] = said
        named = {"text_columns": list(task.text_columns)} if task.text_columns else {}  # for kdzoo predict
        record = new_record(configuration, **asdict(outcome), **named)
        if first:
            records.write(records.model, record)
    return record


def _configuration(
    task: Task, recipe: Recipe, teacher: str, student: str | None, given: Distilled, budget: Budget, seed: int
) -> dict[str, Any]:
    """All that the model depends on."""
    found = {
        "task": task.name,
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True, exclude={"general", "sources"}),
        "teacher": teacher,
        "student": student,
        "budget": budget.model_dump(mode="json"),
        "seed": seed,
        **given.model_dump(include={"data", "train_rows", "validation_rows"}),
    }
    if given.test_rows is not None:
        found["test_rows"] = given.test_rows
    if task.brings_rows:
        found["own_task"] = task.identity()
    if given.cache_folder is not None and given.cache_precision != "fp32":
        found["cache_precision"] = given.cache_precision
    if given.cache_top is not None:
        found["cache_top"] = given.cache_top
    if given.augment:
        found |= given.model_dump(include={"augment", "augment_model", "glove"})
    return found


def _cache(
    given: Distilled, guide: Any, needs: Needs | None, rows: Dataset, say: Callable[[str], None]
) -> TeacherCache | None:
    """Where the teacher's activations are kept, which is said with their size; None where they are not."""
    if given.cache_folder is None:
        return None
    limit = int(given.cache_limit * 1e9)
    cache = TeacherCache(given.cache_folder, precision=given.cache_precision, limit=limit, top=given.cache_top)
    if guide is not None and needs is not None and why_not_kept(guide, needs) is None:
        size = cache.nbytes(guide, rows, needs)
        if size <= limit:  # the cache itself warns of the other case
            say(f"the teacher's activations are kept in {cache.folder}: {megabytes(size)}")
    return cache


def _models(
    above: ModelSpec,
    below: ModelSpec | None,
    task: Task,
    encoder: Encoder,
    budget: Budget,
    seed: int,
    say: Callable[[str], None],
) -> tuple[Any, Any]:
    """What is trained, and what it learns from: the student and the teacher, or the teacher and None."""
    if below is None:
        guide = None
        model = above.build(task, tokenizer=encoder.teacher, positions=budget.max_length, seed=seed)
    else:
        above.check_head(task)
        if (line := above.about_labels(task)) is not None:
            say(line)
        guide = above.build(task)
        model = below.build(task, teacher=guide, seed=seed).train()
    check_length(budget.max_length, encoder.student, model)
    if guide is not None:  # first: what it lacks, a student made of it lacks too
        check_decoder(guide, f"the teacher {above}", task.longest_target, encoder.teacher)
    own = encoder.teacher if below is None else encoder.student
    check_decoder(model, f"the model {above if below is None else below}", task.longest_target, own)
    check_abilities(model, task.abilities(teacher=below is None), task.name)
    if guide is not None:
        check_abilities(guide, task.abilities(teacher=True), task.name)
    return model, guide


def _checked(recipe: Recipe, model: Any, guide: Any, encoder: Encoder, rows: int, budget: Budget) -> Objective:
    """Refuse a recipe that cannot work on the models and the rows; its objective, bound to them."""
    with torch.device("meta"):
        objective = recipe.objective()
        if encoder.separate:
            check_separate_tokens(objective, model, same_targets=encoder.same_targets)
        check_labels(objective)
        objective.bind(model, guide, num_samples=rows)
    say_micro_batches(objective, budget.gradient_accumulation, budget.batch_size)
    return objective
