"""The grid of a comparison: every (task, method, seed) cell trained alike and recorded."""

from __future__ import annotations

import platform
import signal
import time
import warnings
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from multiprocessing import active_children, get_context
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

from kdzoo.activations import Needs
from kdzoo.bench.models import build_on_meta, check_head, check_length, every_other_layer, load_tokenizer, make_teacher
from kdzoo.bench.records import FORMAT, Records
from kdzoo.bench.settings import Settings
from kdzoo.bench.table import TEACHER, read_records, write_csv
from kdzoo.bench.training import Outcome, check_precision, quiet, train
from kdzoo.bench.training import Progress as StepProgress
from kdzoo.cache import TeacherCache, megabytes
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.glue import Task, get_task, load
from kdzoo.recipe import Recipe
from kdzoo.registry import available
from kdzoo.students import load_model, make_student, parse_student

VERSIONS = ("kdzoo", "torch", "transformers", "datasets")
Job = tuple[str, str, int]
ALL = "all"  # in place of methods: every registered recipe
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
        everything = ALL in settings.methods
        own = [method for method in settings.methods if method != ALL]
        methods = [*available("recipes"), *own] if everything else own
        for recipe in _overridden([Recipe.load(method) for method in methods], settings.overrides):
            if recipe.name in self.recipes:
                raise KdzooError(f"two methods are called {recipe.name!r}; give one of the recipes another name")
            self.recipes[recipe.name] = recipe
        self._wide = max(map(len, self.recipes))  # so that the lines of all methods stand in columns
        self.impossible: dict[tuple[str, str], str] = {}
        order = {"tasks": list(settings.tasks), "methods": list(self.recipes)}
        self.records = Records(folder, settings.shared(), order)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(settings.teacher, settings.data)
        self.cache = TeacherCache(settings.cache_folder or folder / "cache", precision=settings.cache_precision)
        self._teacher_needs: dict[
            tuple[str, str], tuple[Any, Needs]
        ] = {}  # by task and method, with the teacher's config
        self._tokenized_tasks: dict[str, DatasetDict] = {}
        self._teachers: dict[str, PreTrainedModel] = {}
        self.data: dict[str, DatasetDict] = {}
        for task in self.tasks:
            self.data[task.name] = load(
                task, settings.data, train_rows=settings.train_rows, validation_rows=settings.validation_rows
            )
        self.check(leave_out=everything)

    @property
    def student(self) -> str:
        """The student's description."""
        assert self.settings.student is not None
        return self.settings.student

    def check(self, *, leave_out: bool) -> None:
        """Refuse what cannot work, on models without weights; warn of what does less than its name says.

        Args:
            leave_out: leave such cells out instead, and keep the reason in ``impossible`` by task and method.

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
                    with torch.device("meta"), warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always", KdzooWarning)
                        objective = recipe.objective()
                        objective.bind(student, teacher, num_samples=len(self.data[task.name]["train"]))
                except KdzooError as error:
                    if not leave_out:
                        raise KdzooError(f"{name} on {task.name}: {error}") from None
                    self.impossible[task.name, name] = str(error)
                    self._say(f"{task.name:<6} {name:<{self._wide}} left out: {error}")
                    continue
                if (needs := objective.teacher_needs()) is not None:
                    self._teacher_needs[task.name, name] = teacher.config, needs
                for warning in caught:
                    if issubclass(warning.category, KdzooWarning):
                        self._say(f"{task.name:<6} {name:<{self._wide}} warning: {warning.message}")

    def cells(self) -> Iterator[tuple[Task, str, int]]:
        """The grid, task by task, seed by seed, so that the first rows of the table fill early."""
        for task in self.tasks:
            for seed in range(self.settings.seeds):
                for method in self.recipes:
                    if (task.name, method) not in self.impossible:
                        yield task, method, seed

    def run(self, workers: int = 1) -> list[dict[str, Any]]:
        """Run what is missing; the records of the whole grid, teachers included.

        Args:
            workers: processes that train at the same time, each on its share of the processor's threads.

        Raises:
            DistillationFailure: when a loss becomes NaN or infinite, or a record cannot be written.
        """
        teachers = [(task.name, TEACHER, 0) for task in self.tasks]
        cells = [(task.name, method, seed) for task, method, seed in self.cells()]
        with self.records.claimed(), progress_bar(self.console) as bar:
            for task in self.tasks:
                if any(self.find(job) is None for job in cells if job[0] == task.name):
                    self._announce_cache(task)
            overall = bar.add_task("comparing", total=sum(self._steps(*job) for job in teachers + cells))
            if workers == 1:
                jobs = [job for teacher in teachers for job in (teacher, *(c for c in cells if c[0] == teacher[0]))]
                done = [self._alone(job, bar, overall) for job in jobs]
            else:
                with self._pool(workers) as pool:
                    done = [
                        record for jobs in (teachers, cells) for record in self._side_by_side(jobs, pool, bar, overall)
                    ]
            write_csv(self.records.folder / "results.csv", read_records(self.records.folder))
        return done

    def cached(self, task: Task) -> tuple[set[str], int]:
        """The methods whose teacher is read from the cache, those that need least first, and the bytes they take."""
        sizes: dict[str, tuple[int, Any, Needs]] = {}
        for (name, method), (config, needs) in self._teacher_needs.items():
            if name == task.name:
                sizes[method] = (self.cache.nbytes(config, self._tokenized(task)["train"], needs), config, needs)
        fitting: set[str] = set()
        together, taken = Needs(logits=False), 0
        for method, (_, config, needs) in sorted(sizes.items(), key=lambda entry: entry[1][0]):
            size = self.cache.nbytes(config, self._tokenized(task)["train"], together | needs)
            if size <= self.settings.cache_limit * 1e9:
                fitting.add(method)
                together, taken = together | needs, size
        return fitting, taken

    def _announce_cache(self, task: Task) -> None:
        methods, size = self.cached(task)
        if methods:
            names = ", ".join(name for name in self.recipes if name in methods)
            self._say(f"{task.name:<6} the teacher's activations are kept for {names}: {megabytes(size)}")
        live = [m for t, m in self._teacher_needs if t == task.name and m not in methods]
        if live and self.settings.cache_limit:
            limit = megabytes(self.settings.cache_limit * 1e9)
            self._say(f"{task.name:<6} the teacher runs live for {', '.join(live)}: over --cache-limit, {limit}")

    def find(self, job: Job) -> dict[str, Any] | None:
        """The record of a teacher or a cell that is done.

        Raises:
            KdzooError: when it was made with another configuration.
        """
        return self.records.find(self._path(job), self._configuration(job))

    def train(self, job: Job, progress: StepProgress | None = None) -> dict[str, Any]:
        """Train a teacher or a cell, and write its record.

        Args:
            job: task, method and seed; the method of a teacher is ``"teacher"``.
            progress: told the steps done and the steps to do.
        """
        name, method, seed = job
        task, started = get_task(name), _now()
        shared: dict[str, Any] = {
            "task": task,
            "data": self._tokenized(task),
            "tokenizer": self.tokenizer,
            "seed": seed,
            "progress": progress,
        }
        if method == TEACHER:
            return self._train_teacher(job, started, shared)
        recipe, teacher = self.recipes[method], self._teacher(task)
        outcome = train(
            make_student(self.student, teacher, seed=seed),
            teacher if recipe.needs_teacher else None,
            recipe,
            cache=self.cache if method in self.cached(task)[0] else None,
            evaluations=self.settings.evaluations,
            budget=self.settings.budget,
            folder=self.records.folder / "work",
            **shared,
        )
        record = self._record(self._configuration(job), outcome, started)
        self.records.write(self._path(job), record)
        return record

    def _train_teacher(self, job: Job, started: str, shared: dict[str, Any]) -> dict[str, Any]:
        settings = self.settings
        with self.records.building(self.records.teacher(job[0])) as scratch:
            model = make_teacher(settings.teacher, self.tokenizer, shared["task"])
            outcome = train(
                model,
                None,
                Recipe.load("none"),
                budget=settings.teacher_budget,
                folder=scratch / "training",
                evaluate_only=not settings.finetune_teacher,
                **shared,
            )
            model.save_pretrained(scratch)
            self.tokenizer.save_pretrained(scratch)
            record = self._record(self._configuration(job), outcome, started)
            self.records.write(scratch / "record.json", record)
        return record

    def _alone(self, job: Job, bar: Progress, overall: TaskID) -> dict[str, Any]:
        record = self.find(job)
        if record is not None:
            bar.advance(overall, self._steps(*job))
            return record
        with _Part(bar, overall, " ".join(str(part) for part in job[: 2 if job[1] == TEACHER else 3])) as part:
            record = self.train(job, part.advance)
        self._report(record)
        return record

    def _side_by_side(
        self, jobs: list[Job], pool: ProcessPoolExecutor, bar: Progress, overall: TaskID
    ) -> list[dict[str, Any]]:
        records = {job: self.find(job) for job in jobs}
        missing = [job for job, record in records.items() if record is None]
        bar.advance(overall, sum(self._steps(*job) for job in jobs if job not in missing))
        running = {pool.submit(_work, job): job for job in missing}
        for future in as_completed(running):
            job, record = running[future], future.result()
            records[job] = record
            bar.advance(overall, self._steps(*job))
            self._report(record)
        return [record for record in records.values() if record is not None]

    @contextmanager
    def _pool(self, workers: int) -> Iterator[ProcessPoolExecutor]:
        threads = max(1, torch.get_num_threads() // workers)
        settings = (self.settings, self.records.folder, threads)
        with ProcessPoolExecutor(workers, get_context("spawn"), _start_worker, settings) as pool:
            try:
                yield pool
            except BaseException:
                # Leaving the pool would wait for the trainings under way.
                for child in active_children():
                    child.terminate()
                raise

    def _path(self, job: Job) -> Path:
        name, method, seed = job
        if method == TEACHER:
            return self.records.teacher(name) / "record.json"
        return self.records.cell(name, method, seed)

    def _configuration(self, job: Job) -> dict[str, Any]:
        name, method, seed = job
        configuration: dict[str, Any] = {"task": name, "method": method, "seed": seed}
        if method == TEACHER:
            return configuration | {"shared": self.settings.of_teacher()}
        recipe = self.recipes[method].model_dump(mode="json", exclude_defaults=True, exclude=UNUSED)
        return configuration | {"shared": self.settings.shared(), "recipe": recipe}

    def _tokenized(self, task: Task) -> DatasetDict:
        if task.name not in self._tokenized_tasks:
            length = self.settings.budget.max_length
            splits = self.data[task.name].items()
            self._tokenized_tasks[task.name] = DatasetDict(
                {split: task.tokenize(rows, self.tokenizer, length) for split, rows in splits}
            )
        return self._tokenized_tasks[task.name]

    def _teacher(self, task: Task) -> PreTrainedModel:
        if task.name not in self._teachers:
            # One at a time: cells come task by task.
            self._teachers = {task.name: load_model(self.records.teacher(task.name), task.num_labels)}
        return self._teachers[task.name]

    def _record(self, configuration: dict[str, Any], outcome: Outcome, started: str) -> dict[str, Any]:
        names = ("task", "method", "seed")
        found = asdict(outcome)
        if configuration["method"] != TEACHER:
            del found["references"]  # the teacher's record holds them for the whole task
        return {
            "format": FORMAT,
            **{name: configuration[name] for name in names},
            "configuration": configuration,
            **found,
            "rows": {split: len(rows) for split, rows in self.data[configuration["task"]].items()},
            "versions": {name: version(name) for name in VERSIONS} | {"python": platform.python_version()},
            "device": device_name(),
            "threads": torch.get_num_threads(),
            "started": started,
            "finished": _now(),
        }

    def _report(self, record: dict[str, Any]) -> None:
        metrics = ", ".join(f"{name} {100 * value:.1f}" for name, value in record["metrics"].items())
        self._say(
            f"{record['task']:<6} {record['method']:<{self._wide}} seed {record['seed']}  {metrics:<40} "
            f"{record['samples_per_second']:7.0f} rows/s  {record['train_seconds']:6.1f} s"
        )

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _steps(self, name: str, method: str, seed: int) -> int:
        budget = self.settings.teacher_budget if method == TEACHER else self.settings.budget
        rows = len(self.data[name]["train"])
        return max(1, round(budget.epochs * -(-rows // (budget.batch_size * budget.gradient_accumulation))))


def _overridden(recipes: list[Recipe], overrides: tuple[str, ...]) -> list[Recipe]:
    """The recipes with settings changed: a loss's in those that hold it (one must), a recipe's own in all."""
    for setting in overrides:
        loss = setting.partition("=")[0].split(".")[0]
        if loss in Recipe.model_fields:
            recipes = [recipe.override([setting]) for recipe in recipes]
            continue
        holding = [recipe for recipe in recipes if loss in recipe.losses]
        if not holding:
            raise unknown("term", loss, {name for recipe in recipes for name in recipe.losses})
        recipes = [recipe.override([setting]) if recipe in holding else recipe for recipe in recipes]
    return recipes


_comparison: Comparison | None = None  # a worker's own


def _start_worker(settings: Settings, folder: Path, threads: int) -> None:
    global _comparison
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    torch.set_num_threads(threads)
    _comparison = Comparison(settings, folder, Console(quiet=True))


def _work(job: Job) -> dict[str, Any]:
    assert _comparison is not None
    return _comparison.train(job)


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
