"""What a comparison would run, how large its models are, and about how long it would take; trains nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any

import torch

from kdzoo.bench.record import TEACHER
from kdzoo.models.spec import ModelSpec

if TYPE_CHECKING:
    from kdzoo.bench.grid.comparison import Comparison
    from kdzoo.tasks import Task

REPEATS = 3  # timed steps, after one that is not


def estimate(comparison: Comparison) -> Iterator[str]:
    """Lines that say what would be run.

    The time is that of a few steps on random weights of the models' sizes and rows of the tasks, forward and backward,
    times the number of steps; what losses and evaluations add is not in it, nor what several workers save.

    Args:
        comparison: checked, not run.
    """
    work, settings = comparison.work, comparison.settings
    total = 0.0
    for task in comparison.tasks:
        cells = [(method, seed) for name, method, seed in comparison.cells() if name is task]
        splits = ", ".join(f"{len(rows)} {split}" for split, rows in work.data[task.name].items())
        methods = list(dict.fromkeys(method for method, _ in cells))
        yield f"{task.name}: {len(cells)} cells ({', '.join(methods)}), {splits} rows"
        teacher, student = _models(comparison, task)
        own, below = _seconds(comparison, task, teacher, train=True), _seconds(comparison, task, student, train=True)
        above = _seconds(comparison, task, teacher, train=False)
        needing = sum(comparison.recipes[method].needs_teacher for method, _ in cells)
        steps = work.steps(task.name, cells[0][0], 0) if cells else 0
        first = work.steps(task.name, TEACHER, 0) * own if settings.finetune_teacher else 0.0
        cached = {method for method, _ in cells} & work.cache(task)[1]
        live = sum(method not in cached and comparison.recipes[method].needs_teacher for method, _ in cells)
        once = len(work.data[task.name]["train"]) / settings.budget.batch_size * above if needing > live else 0.0
        seconds = first + len(cells) * steps * below + live * steps * above + once
        yield (
            f"{task.name}: teacher {settings.teacher}, {_millions(teacher)}; student {settings.student}, "
            f"{_millions(student)}; {steps} steps a cell; about {timedelta(seconds=round(seconds))}"
        )
        total += seconds
    yield f"about {timedelta(seconds=round(total))} in all, one training after the other"


def _models(comparison: Comparison, task: Task) -> tuple[Any, Any]:
    """A teacher and a student of the sizes asked for, with random weights."""
    work, length = comparison.work, comparison.settings.budget.max_length
    with torch.random.fork_rng(devices=[]):
        spec: ModelSpec = work.teacher
        if spec.is_size:
            teacher = spec.build(task, tokenizer=work.encoder.teacher, positions=length)
        else:
            teacher = type(spec.build_on_meta(task))(spec.build_on_meta(task).config)
        return teacher, work.student.build(task, teacher=teacher)


def _seconds(comparison: Comparison, task: Task, model: Any, *, train: bool) -> float:
    """The median time of a step on rows from the middle of the training rows by length."""
    work = comparison.work
    of_teacher = work.encoder.for_teacher(task, work.data[task.name]["train"].select(range(_few(comparison, task))))
    batch = task.collator(work.encoder.teacher)([of_teacher[row] for row in range(len(of_teacher))])
    from kdzoo.training.agreement import accepted_inputs

    inputs = {name: value for name, value in batch.items() if name in accepted_inputs(model) - {*task.label_names}}
    inputs = {name: value % model.config.vocab_size if name == "input_ids" else value for name, value in inputs.items()}
    model.train(train)
    spent = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        with torch.set_grad_enabled(train):
            outputs = task.logits(model(**inputs))
            if train:
                outputs.sum().backward()
        spent.append(time.perf_counter() - start)
    return median(spent[1:])


def _few(comparison: Comparison, task: Task) -> int:
    return min(comparison.settings.budget.batch_size, len(comparison.work.data[task.name]["train"]))


def _millions(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters"
