"""The grid of a comparison: every (task, method, seed) cell trained alike and recorded."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import DatasetDict
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdzoo.bench.models import build_on_meta, check_head, check_length, every_other_layer, load_tokenizer, make_teacher
from kdzoo.bench.records import FORMAT, Records
from kdzoo.bench.settings import Budget, Settings
from kdzoo.bench.table import TEACHER, read_records, write_csv
from kdzoo.bench.training import Outcome, check_precision, quiet, train
from kdzoo.errors import KdzooError, unknown
from kdzoo.glue import Task, get_task, load
from kdzoo.recipe import Recipe
from kdzoo.students import load_model, make_student, parse_student

VERSIONS = ("kdzoo", "torch", "transformers", "datasets")
UNUSED = {"title", "citation", "student", "training", "notes"}  # of a recipe; no cell depends on them


class Comparison:
    """A comparison in a folder. Making one checks everything that can be checked before training.

    Args:
        settings: what to run.
        folder: where its records go, and where those of an interrupted run are found.
        console: where progress is shown.

    Raises:
        KdzooError: for anything that would make a cell impossible.
    """

    def __init__(self, settings: Settings, folder: Path, console: Console) -> None:
        quiet()
        if settings.student is None:
            settings = settings.model_copy(update={"student": every_other_layer(settings.teacher)})
        if not settings.finetune_teacher:
            check_head(settings.teacher)
        self.settings = settings
        self.console = console
        check_precision(settings.budget)
        check_precision(settings.teacher_budget)
        self.tasks: list[Task] = [get_task(name) for name in settings.tasks]
        twice = [name for index, name in enumerate(settings.tasks) if name in settings.tasks[:index]]
        if twice:
            raise KdzooError(f"the task {twice[0]!r} is named twice; name each task once")
        self.recipes: dict[str, Recipe] = {}
        for recipe in _overridden([Recipe.load(method) for method in settings.methods], settings.overrides):
            if recipe.name in self.recipes:
                raise KdzooError(f"two methods are called {recipe.name!r}; give one of the recipes another name")
            self.recipes[recipe.name] = recipe
        order = {"tasks": list(settings.tasks), "methods": list(self.recipes)}
        self.records = Records(folder, settings.shared(), order)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(settings.teacher, settings.data)
        self.data: dict[str, DatasetDict] = {}
        for task in self.tasks:
            self.data[task.name] = load(
                task, settings.data, train_rows=settings.train_rows, validation_rows=settings.validation_rows
            )
        self.check()

    @property
    def student(self) -> str:
        """The student's description."""
        assert self.settings.student is not None
        return self.settings.student

    def check(self) -> None:
        """Refuse what cannot work, on models without weights.

        Raises:
            KdzooError: names the method, the task and the reason.
        """
        for task in self.tasks:
            teacher = build_on_meta(self.settings.teacher, self.tokenizer, task)
            on_disk = parse_student(self.student).path is not None
            with nullcontext() if on_disk else torch.device("meta"):
                student = make_student(self.student, teacher)
            check_length(self.settings.budget, self.tokenizer, teacher, student)
            check_length(self.settings.teacher_budget, self.tokenizer, teacher)
            for name, recipe in self.recipes.items():
                try:
                    with torch.device("meta"):
                        recipe.objective().bind(student, teacher, num_samples=len(self.data[task.name]["train"]))
                except KdzooError as error:
                    raise KdzooError(f"{name} on {task.name}: {error}") from None

    def cells(self) -> Iterator[tuple[Task, str, int]]:
        """The grid, task by task, seed by seed, so that the first rows of the table fill early."""
        for task in self.tasks:
            for seed in range(self.settings.seeds):
                for method in self.recipes:
                    yield task, method, seed

    def run(self) -> list[dict[str, Any]]:
        """Run what is missing; the records of the whole grid, teachers included.

        Raises:
            DistillationFailure: when a loss becomes NaN or infinite, or a record cannot be written.
        """
        with self.records.claimed(), progress_bar(self.console) as bar:
            total = sum(self._steps(task, self.settings.teacher_budget) for task in self.tasks)
            total += sum(self._steps(task, self.settings.budget) for task, _, _ in self.cells())
            overall = bar.add_task("comparing", total=total)
            done: list[dict[str, Any]] = []
            for task in self.tasks:
                tokenized = DatasetDict(
                    {
                        split: task.tokenize(rows, self.tokenizer, self.settings.budget.max_length)
                        for split, rows in self.data[task.name].items()
                    }
                )
                teacher, record = self._teacher(task, tokenized, bar, overall)
                done.append(record)
                for _, method, seed in (cell for cell in self.cells() if cell[0] is task):
                    done.append(self._cell(task, method, seed, tokenized, teacher, bar, overall))
            write_csv(self.records.folder / "results.csv", read_records(self.records.folder))
        return done

    def _teacher(
        self, task: Task, data: DatasetDict, bar: Progress, overall: TaskID
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        settings = self.settings
        folder = self.records.teacher(task.name)
        configuration = {"task": task.name, "method": TEACHER, "seed": 0, "shared": settings.of_teacher()}
        record = self.records.find(folder / "record.json", configuration)
        if record is None:
            started = _now()
            with self.records.building(folder) as scratch, _Part(bar, overall, f"{task.name} teacher") as part:
                model = make_teacher(settings.teacher, self.tokenizer, task)
                outcome = train(
                    model,
                    None,
                    Recipe.load("none"),
                    task=task,
                    data=data,
                    tokenizer=self.tokenizer,
                    budget=settings.teacher_budget,
                    seed=0,
                    folder=scratch / "training",
                    evaluate_only=not settings.finetune_teacher,
                    progress=part.advance,
                )
                model.save_pretrained(scratch)
                self.tokenizer.save_pretrained(scratch)
                record = self._record(configuration, outcome, started)
                self.records.write(scratch / "record.json", record)
            self._report(record)
        else:
            bar.advance(overall, self._steps(task, settings.teacher_budget))
        return load_model(folder, task.num_labels), record

    def _cell(
        self,
        task: Task,
        method: str,
        seed: int,
        data: DatasetDict,
        teacher: PreTrainedModel,
        bar: Progress,
        overall: TaskID,
    ) -> dict[str, Any]:
        recipe = self.recipes[method]
        path = self.records.cell(task.name, method, seed)
        configuration = {
            "task": task.name,
            "method": method,
            "seed": seed,
            "shared": self.settings.shared(),
            "recipe": recipe.model_dump(mode="json", exclude_defaults=True, exclude=UNUSED),
        }
        record = self.records.find(path, configuration)
        if record is not None:
            bar.advance(overall, self._steps(task, self.settings.budget))
            return record
        started = _now()
        with _Part(bar, overall, f"{task.name} {method} seed {seed}") as part:
            outcome = train(
                make_student(self.student, teacher, seed=seed),
                teacher if recipe.needs_teacher else None,
                recipe,
                task=task,
                data=data,
                tokenizer=self.tokenizer,
                budget=self.settings.budget,
                seed=seed,
                folder=self.records.folder / "work",
                progress=part.advance,
            )
        record = self._record(configuration, outcome, started)
        self.records.write(path, record)
        self._report(record)
        return record

    def _record(self, configuration: dict[str, Any], outcome: Outcome, started: str) -> dict[str, Any]:
        names = ("task", "method", "seed")
        return {
            "format": FORMAT,
            **{name: configuration[name] for name in names},
            "configuration": configuration,
            **asdict(outcome),
            "rows": {split: len(rows) for split, rows in self.data[configuration["task"]].items()},
            "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "started": started,
            "finished": _now(),
        }

    def _report(self, record: dict[str, Any]) -> None:
        metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in record["metrics"].items())
        self.console.print(
            f"{record['task']:<6} {record['method']:<10} seed {record['seed']}  {metrics:<40} "
            f"{record['samples_per_second']:7.0f} rows/s  {record['train_seconds']:6.1f} s",
            highlight=False,
        )

    def _steps(self, task: Task, budget: Budget) -> int:
        rows = len(self.data[task.name]["train"])
        return max(1, round(budget.epochs * -(-rows // (budget.batch_size * budget.gradient_accumulation))))


def _overridden(recipes: list[Recipe], overrides: tuple[str, ...]) -> list[Recipe]:
    """The recipes with settings changed, each setting in those that hold its loss; one must."""
    for setting in overrides:
        loss = setting.partition("=")[0].split(".")[0]
        holding = [recipe for recipe in recipes if loss in recipe.losses]
        if not holding:
            raise unknown("term", loss, {name for recipe in recipes for name in recipe.losses})
        recipes = [recipe.override([setting]) if recipe in holding else recipe for recipe in recipes]
    return recipes


class _Part:
    """One training's share of the progress bar."""

    def __init__(self, bar: Progress, overall: TaskID, name: str) -> None:
        self._bar, self._overall, self._name, self._done = bar, overall, name, 0

    def __enter__(self) -> _Part:
        self._bar.update(self._overall, description=self._name)
        return self

    def advance(self, done: int, total: int) -> None:
        """Called after each step with the steps done of this training."""
        self._bar.advance(self._overall, done - self._done)
        self._done = done

    def __exit__(self, *_: object) -> None:
        self._bar.update(self._overall, description="comparing")


def progress_bar(console: Console) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("steps, elapsed"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def device_name() -> str:
    """The accelerator's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds")
