"""What a comparison would run, how large its models are, and about how long it would take; trains nothing."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from kdzoo.bench.record import TEACHER
from kdzoo.models.spec import ModelSpec
from kdzoo.training.agreement import accepted_inputs
from kdzoo.training.collated import given

if TYPE_CHECKING:
    from kdzoo.bench.grid.comparison import Comparison
    from kdzoo.bench.runs.budget import Budget
    from kdzoo.tasks import Task

REPEATS = 3  # timed steps, after one that is not


class Speed(NamedTuple):
    """Seconds a row, of a training step and of a forward pass alone."""

    training: float
    forward: float


def estimate(comparison: Comparison) -> Iterator[str]:
    """Lines that say what would be run.

    The time is that of a few steps on random weights of the models' sizes and the tasks' first rows, times the number
    of rows, with the evaluations; what losses add is not in it, nor what several workers save.

    Args:
        comparison: checked, not run.
    """
    work, settings = comparison.work, comparison.settings
    total = 0.0
    for task in comparison.tasks:
        jobs = [(task.name, method, seed) for of, method, seed in comparison.cells() if of is task]
        rows = {split: len(part) for split, part in work.rows.loaded[task.name].items()}
        methods = list(dict.fromkeys(method for _, method, _ in jobs))
        trials = f" and {_counted(len(methods) * settings.tune, 'trial')}" if settings.tune else ""
        yield (
            f"{task.name}: {_counted(len(jobs), 'cell')}{trials} ({', '.join(methods) or 'no method works'}), "
            f"{', '.join(f'{number} {split}' for split, number in rows.items())} rows"
        )
        teacher, student = _models(comparison, task)
        above = _speed(comparison, task, teacher, True)
        below = _speed(comparison, task, student, False)
        scored = sum(rows.get(split, 0) for split in task.validation_splits)
        seconds = scored * above.forward
        if settings.finetune_teacher:
            seconds += _rows(work.steps(task.name, TEACHER, 0), settings.teacher_budget) * above.training
        cached = work.cache(task)[1]
        if cached.intersection(methods):
            seconds += rows["train"] * above.forward
        for method in methods:
            of = [job for job in jobs if job[1] == method]
            recipe, budget = work.method(of[0])
            trained = _rows(work.steps(*of[0]), budget)
            live = above.forward if recipe.needs_teacher and method not in cached else 0.0
            evaluated = scored * (1 + settings.evaluations) * below.forward
            seconds += (len(of) + settings.tune) * (trained * (below.training + live) + evaluated)
        steps = sorted({work.steps(*job) for job in jobs})
        yield (
            f"{task.name}: teacher {settings.teacher}, {_millions(teacher)}; student {settings.student}, "
            f"{_millions(student)}; {' to '.join(map(str, steps[:1] + steps[1:][-1:])) or 'no'} steps a cell; about "
            f"{_time(seconds)}"
        )
        total += seconds
    yield f"about {_time(total)} in all, one training after the other"


def _models(comparison: Comparison, task: Task) -> tuple[Any, Any]:
    """A teacher and a student of the sizes asked for, with random weights."""
    work, length = comparison.work, comparison.settings.budget.max_length
    with torch.random.fork_rng(devices=[]):
        spec: ModelSpec = work.teacher
        if spec.is_size:
            teacher = spec.build(task, tokenizer=work.encoder.teacher, positions=length)
        else:
            on_meta = spec.build_on_meta(task)
            teacher = type(on_meta)(on_meta.config)
        return teacher, work.student.build(task, teacher=teacher)


def _speed(comparison: Comparison, task: Task, model: Any, above: bool) -> Speed:
    """The median times of a batch of the first training rows, by row; above is the teacher."""
    train = comparison.work.rows.loaded[task.name]["train"]
    size = min(comparison.settings.budget.batch_size, len(train))
    encoder = comparison.work.encoder
    encode = encoder.for_teacher if above else encoder.for_students
    rows = encode(task, train.select(range(size)))
    size = min(size, len(rows))
    collate = encoder.teacher_collator(task) if above else encoder.collator(task)
    batch = collate([rows[row] for row in range(size)])
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    taken = given(model, batch, accepted_inputs(model) - {*task.label_names})
    inputs = {name: value.to(device) for name, value in taken.items()}
    model.to(device)
    found = Speed(*(_median(task, model, inputs, train=train) / size for train in (True, False)))
    model.cpu()
    return found


def _median(task: Task, model: Any, inputs: dict[str, Any], *, train: bool) -> float:
    model.train(train)
    optimizer = torch.optim.AdamW(model.parameters())
    spent = []
    for _ in range(1 + REPEATS):
        start = time.perf_counter()
        with torch.set_grad_enabled(train):
            outputs = task.logits(model(**inputs))
            if train:
                outputs.sum().backward()
                optimizer.step()
                optimizer.zero_grad()
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()
        spent.append(time.perf_counter() - start)
    return median(spent[1:])


def _rows(steps: int, budget: Budget) -> int:
    """How many rows pass in a number of updates."""
    return steps * budget.batch_size * budget.gradient_accumulation


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"


def _time(seconds: float) -> str:
    return str(timedelta(seconds=max(1, round(seconds))))


def _millions(model: Any) -> str:
    return f"{sum(parameter.numel() for parameter in model.parameters()) / 1e6:.2f} M parameters"
