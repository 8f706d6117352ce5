"""The grid of a comparison: every (task, method, seed) cell trained alike and recorded."""

from __future__ import annotations

import copy
import platform
import time
import warnings
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, DatasetDict
from rich.console import Console
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from kdzoo.activations import Needs
from kdzoo.bench.augmentation import augmented_rows, check_augmentation
from kdzoo.bench.launchers import Failure, Files, InProcess, Job, Launcher, Progress, Result
from kdzoo.bench.live import Board, progress_bar
from kdzoo.bench.models import (
    build_on_meta,
    check_head,
    check_labels,
    check_length,
    every_other_layer,
    load_tokenizer,
    make_teacher,
)
from kdzoo.bench.records import FORMAT, Records, is_full_disk, read_json
from kdzoo.bench.settings import Settings
from kdzoo.bench.table import TEACHER, terminal_table
from kdzoo.bench.tracking import check_trackers, tracked
from kdzoo.bench.training import Outcome, check_precision, quiet, train
from kdzoo.cache import TeacherCache, megabytes
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.glue import Task, get_task, load
from kdzoo.recipe import ALL, Recipe, load_recipes
from kdzoo.students import check_weights, load_model, make_student, parse_student

VERSIONS = ("kdzoo", "torch", "transformers", "datasets")
UNUSED = {"title", "citation", "general", "student", "training", "notes"}  # of a recipe; no cell depends on them


class Comparison:
    """A comparison in a folder. Making one checks everything that can be checked before training.

    Args:
        settings: what to run.
        folder: where its records go, and where those of an interrupted run are found.
        console: where progress is shown.
        trackers: ``"tensorboard"`` and ``"wandb"``, to log each training to; into ``logs`` in the folder.

    Attributes:
        failed: why trainings failed, by task, method and seed, once it has run.

    Raises:
        KdzooError: for anything that would make a cell impossible.
    """

    def __init__(self, settings: Settings, folder: Path, console: Console, trackers: tuple[str, ...] = ()) -> None:
        quiet()
        check_trackers(trackers)
        self.trackers = trackers
        self.failed: dict[Job, str] = {}
        if settings.student is None:
            settings = settings.model_copy(update={"student": every_other_layer(settings.teacher)})
        if not settings.finetune_teacher:
            check_head(settings.teacher)
        check_weights(settings.teacher)
        self.settings = settings
        self.console = console
        check_precision(settings.budget)
        check_precision(settings.teacher_budget)
        self.tasks: list[Task] = [get_task(name) for name in settings.tasks]
        twice = [name for index, name in enumerate(settings.tasks) if name in settings.tasks[:index]]
        if twice:
            raise KdzooError(f"the task {twice[0]!r} is named twice; name each task once")
        self.recipes = load_recipes(settings.methods, settings.overrides)
        self._wide = max(map(len, self.recipes))  # so that the lines of all methods stand in columns
        self.impossible: dict[tuple[str, str], str] = {}
        order = {"tasks": list(settings.tasks), "methods": list(self.recipes)}
        self.records = Records(folder, settings.shared(), order)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(settings.teacher, settings.data)
        if settings.augment:
            check_augmentation(settings.teacher, settings.augment_model, settings.glove)
        self.cache = TeacherCache(settings.cache_folder or folder / "cache", precision=settings.cache_precision)
        # By task and method, with the teacher's config.
        self._teacher_needs: dict[tuple[str, str], tuple[Any, Needs]] = {}
        self._tokenized_tasks: dict[str, DatasetDict] = {}
        self._teachers: dict[str, PreTrainedModel] = {}
        self.data: dict[str, DatasetDict] = {}
        for task in self.tasks:
            self.data[task.name] = load(
                task, settings.data, train_rows=settings.train_rows, validation_rows=settings.validation_rows
            )
        self.check(leave_out=ALL in settings.methods)

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
        copies = 1 + self.settings.augment
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
                        objective.bind(student, teacher, num_samples=len(self.data[task.name]["train"]) * copies)
                        check_labels(objective)
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

    @property
    def title(self) -> str:
        """Of its table."""
        seeds = "one seed" if self.settings.seeds == 1 else f"mean ± std over {self.settings.seeds} seeds"
        return f"Validation scores, {seeds}; teacher {self.settings.teacher}, student {self.student}"

    def run(
        self, launcher: Launcher | None = None, *, command: str = "", retry_failed: bool = False
    ) -> list[dict[str, Any]]:
        """Run what is missing; the records of the whole grid, teachers included.

        A training that fails is recorded under ``failed``, and the others go on; a failed teacher's cells are left out.

        Args:
            launcher: where the trainings run; one after the other in this process by default.
            command: what was asked for, as it was typed; kept beside the records.
            retry_failed: run again what failed in an earlier run.

        Raises:
            DistillationFailure: when a record cannot be written.
        """
        launcher = launcher or InProcess()
        grid: dict[Job, list[Job]] = {(task.name, TEACHER, 0): [] for task in self.tasks}
        for task, method, seed in self.cells():
            grid[task.name, TEACHER, 0].append((task.name, method, seed))
        self.failed = {}
        with self.records.claimed(command):
            for line in self.records.set_aside_damaged():
                self._say(f"warning: {line}")
            jobs = [job for teacher, cells in grid.items() for job in (teacher, *cells)]
            done = {job: record for job in jobs if (record := self.find(job)) is not None}
            steps = {job: self._steps(*job) for job in jobs if job not in done}
            for task in self.tasks:
                if any(job in steps for job in grid[task.name, TEACHER, 0]):
                    self._augment(task)
                    self._announce_cache(task)
            with Board(self.console, steps, self._table, self._wide, launcher.doing) as board:
                waiting: deque[Job] = deque()

                def plan(jobs: Sequence[Job]) -> Iterator[Job]:
                    """Those that are to run, with the cells of the teachers that are done."""
                    for job in jobs:
                        why = None if job in done or retry_failed else self._failed_before(job)
                        if why is not None:
                            fail(job, why, f"failed before: {why}; --retry-failed runs it again")
                        elif job in done:
                            yield from plan(grid.get(job, []))
                        else:
                            yield job

                def fail(job: Job, why: str, line: str) -> None:
                    without = [cell for cell in grid.get(job, []) if cell in steps]
                    self.failed[job] = why
                    board.failed(job, line + (f"; {len(without)} cells are left out" if without else ""), without)

                for job, record in done.items():
                    self._failure_path(job).unlink(missing_ok=True)  # where a run was killed just before it did
                    board.found(record)
                waiting.extend(plan([*grid]))
                if launcher.side_by_side:  # no worker waits for the last teacher then
                    waiting = deque(sorted(waiting, key=lambda job: job[1] != TEACHER))
                with closing(launcher.run(self, waiting, board)) as running:  # whatever happens, its processes end
                    for job, result in running:
                        if isinstance(result, Failure):
                            self._record_failure(job, result)
                            fail(job, result.error, f"failed: {result.error}")
                            continue
                        if job not in grid:  # a teacher's is with its weights
                            self.records.write(self._path(job), result)
                        self._failure_path(job).unlink(missing_ok=True)
                        done[job] = result
                        board.ended(job, result)
                        new = [*plan(grid.get(job, []))]
                        if launcher.side_by_side:
                            waiting.extend(new)
                        else:
                            waiting.extendleft(reversed(new))
            if done:
                from kdzoo.bench.report import write_results  # matplotlib is loaded for it

                write_results(self.records.folder)
        return [done[job] for job in jobs if job in done]

    def summary_of_failures(self) -> str:
        """One line about the trainings that failed."""
        (job, why), *others = self.failed.items()
        more = f", and {len(others)} more" if others else ""
        return (
            f"{' '.join(map(str, job))} failed{more}: {why}; {self.records.folder / 'failed'} has what went wrong, and "
            "--retry-failed runs it again"
        )

    def cached(self, task: Task) -> tuple[set[str], int]:
        """The methods whose teacher is read from the cache, those that need least first, and the bytes they take."""
        sizes: dict[str, tuple[int, Any, Needs]] = {}
        for (name, method), (config, needs) in self._teacher_needs.items():
            if name == task.name:
                sizes[method] = (self.cache.nbytes(config, self._of_students(task)["train"], needs), config, needs)
        fitting: set[str] = set()
        together, taken = Needs(logits=False), 0
        for method, (_, config, needs) in sorted(sizes.items(), key=lambda entry: entry[1][0]):
            size = self.cache.nbytes(config, self._of_students(task)["train"], together | needs)
            if size <= self.settings.cache_limit * 1e9:
                fitting.add(method)
                together, taken = together | needs, size
        return fitting, taken

    def _augment(self, task: Task) -> None:
        """Add the students' training rows, ``augmented``, where they are others than the teacher's."""
        settings, splits = self.settings, self.data[task.name]
        if settings.augment and "augmented" not in splits:
            with progress_bar(self.console) as bar:
                rows = bar.add_task(f"{task.name} augmentation", total=len(splits["train"]))
                splits["augmented"] = augmented_rows(
                    splits["train"],
                    task,
                    settings.augment,
                    teacher=settings.teacher,
                    model=settings.augment_model,
                    glove=settings.glove,
                    folder=self.records.folder / "augmented",
                    say=self._say,
                    progress=lambda done: bar.update(rows, completed=done),
                )

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

    def attempt(self, job: Job, progress: Progress | None = None) -> Result:
        """Train a teacher or a cell; its record, or why there is none.

        Raises:
            Exception: of a disk that is full, which is no fault of the cell.
        """
        try:
            return self.train(job, progress)
        except Exception as error:
            if is_full_disk(error):
                raise
            return Failure.of(error)

    def train(self, job: Job, progress: Progress | None = None) -> dict[str, Any]:
        """Train a teacher, into its folder, or a cell; its record.

        Args:
            job: task, method and seed; the method of a teacher is ``"teacher"``.
            progress: told the steps done and the steps to do.
        """
        name, method, seed = job
        task, started = get_task(name), _now()
        shared: dict[str, Any] = {
            "task": task,
            "data": self._tokenized(task) if method == TEACHER else self._of_students(task),
            "tokenizer": self.tokenizer,
            "seed": seed,
            "progress": progress,
        }
        logs = self.path(self._logs(job)), "-".join(map(str, job))
        with tracked(self.trackers, *logs, self._configuration(job)) as shared["callbacks"]:
            if method == TEACHER:
                record = self._train_teacher(job, started, shared)
            else:
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
            for callback in shared["callbacks"]:
                callback.end(record)
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

    def moved(self, folder: Path) -> Comparison:
        """The same comparison in another folder, without a terminal."""
        moved = copy.copy(self)
        moved.records = self.records.moved(folder)
        moved.cache = TeacherCache(self.settings.cache_folder or folder / "cache", precision=self.cache.precision)
        return moved

    def path(self, part: str) -> Path:
        """Where a part of the folder is."""
        return self.records.folder / part

    def reads(self, job: Job) -> list[str]:
        """The parts of the folder that a training needs: a cell, its teacher."""
        return [] if job[1] == TEACHER else [f"teachers/{job[0]}"]

    def writes(self, job: Job) -> list[str]:
        """The parts of the folder that a training leaves there itself."""
        return [self._logs(job), *([f"teachers/{job[0]}"] if job[1] == TEACHER else [])]

    def receive(self, part: str, files: Files) -> None:
        """Put such a part in its place, whole or not at all."""
        with self.records.building(self.path(part)) as scratch:
            for name, content in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(content)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs, the rows in full: the files they are mapped from may not be there."""
        rows = {
            task: DatasetDict({name: Dataset(split.with_format("arrow")[:]) for name, split in splits.items()})
            for task, splits in self.data.items()
        }
        return self.__dict__ | {"console": None, "data": rows, "_tokenized_tasks": {}, "_teachers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        quiet()
        self.__dict__.update(state, console=Console(quiet=True))

    def _failure_path(self, job: Job) -> Path:
        return self.records.failed(*job)

    def _failed_before(self, job: Job) -> str | None:
        """Why a training failed, if it did with this configuration."""
        path = self._failure_path(job)
        found = read_json(path) if path.exists() else {}
        return str(found.get("error")) if found.get("configuration") == self._configuration(job) else None

    def _record_failure(self, job: Job, failure: Failure) -> None:
        names = dict(zip(("task", "method", "seed"), job, strict=True))
        said = {"configuration": self._configuration(job), **failure._asdict(), "finished": _now()}
        self.records.write(self._failure_path(job), {"format": FORMAT, **names, **said})

    def _table(self, records: Sequence[dict[str, Any]], failed: Sequence[Job]) -> Any:
        return terminal_table(records, self.title, failed=failed)

    def _logs(self, job: Job) -> str:
        return f"logs/{'-'.join(map(str, job))}"

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

    def _of_students(self, task: Task) -> DatasetDict:
        """The splits as the students have them, with the augmented rows for training where there are some."""
        splits = self._tokenized(task)
        return DatasetDict({**splits, "train": splits.get("augmented", splits["train"])})

    def _teacher(self, task: Task) -> PreTrainedModel:
        if task.name not in self._teachers:
            # One at a time: cells come task by task.
            folder = self.records.teacher(task.name)
            try:
                self._teachers = {task.name: load_model(folder, task.num_labels)}
            except KdzooError as error:
                raise KdzooError(f"{error}; remove {folder}, and the teacher is trained again") from None
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

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _steps(self, name: str, method: str, seed: int) -> int:
        budget = self.settings.teacher_budget if method == TEACHER else self.settings.budget
        rows = len(self.data[name]["train"]) * (1 if method == TEACHER else 1 + self.settings.augment)
        return max(1, round(budget.epochs * -(-rows // (budget.batch_size * budget.gradient_accumulation))))


def device_name() -> str:
    """The accelerator's name, or the processor's."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"CPU {platform.processor() or platform.machine()}, {torch.get_num_threads()} threads"


def _now() -> str:
    return datetime.fromtimestamp(time.time(), timezone.utc).isoformat(timespec="seconds")
