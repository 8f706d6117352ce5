"""The trainings of a comparison: each task's teacher and each (task, method, seed) cell, here or in another process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from datasets import DatasetDict
from transformers import PreTrainedModel

from kdzoo.bench.files import is_full_disk, now
from kdzoo.bench.folder import Records
from kdzoo.bench.grid.launchers.base import Failure, Files, Job, Result
from kdzoo.bench.grid.rows import Rows
from kdzoo.bench.grid.settings import Settings
from kdzoo.bench.grid.tracking import tracked
from kdzoo.bench.grid.tuning import proposals, set_to
from kdzoo.bench.progress import ROWS, Progress
from kdzoo.bench.record import TEACHER, new_record
from kdzoo.bench.runs.budget import Budget, total_steps
from kdzoo.bench.runs.train import Outcome, quiet, train
from kdzoo.bench.trials import parted
from kdzoo.errors import KdzooError
from kdzoo.models.activations import Needs
from kdzoo.models.spec import ModelSpec
from kdzoo.objectives.recipe import Recipe, Targets
from kdzoo.tasks import Task
from kdzoo.tasks.encoding import Encoder
from kdzoo.tasks.epochs import first_epochs, rows_an_epoch
from kdzoo.training.cache import TeacherCache
from kdzoo.training.decoded import decoded_rows

# Of a recipe; no cell depends on them.
UNUSED = {"title", "citation", "general", "student", "training", "notes", "sources", "tunable"}


class Cells:
    """What a launcher runs: trains teachers and cells, and says where in the folder what they leave belongs.

    It can be pickled, for processes and machines that have no rows of their own.

    Args:
        settings: of the comparison, its student named.
        records: of its folder.
        recipes: by method.
        models: the teacher and the student.
        tasks: what for, by name.
        encoder: of the rows, for both.
        trackers: what each training is logged to.

    Attributes:
        rows: of the tasks.
        chosen: by task and method, the settings that tuning found.
        idle: by task and method, the options that change nothing there, ``LOSS.OPTION``, and why.
        teacher_needs: by task and method, the teacher's config and what the method needs of it.
        weights: by task, how many of a student's steps one of the teacher's is worth.
    """

    def __init__(
        self,
        settings: Settings,
        records: Records,
        recipes: dict[str, Recipe],
        models: tuple[ModelSpec, ModelSpec],
        tasks: Sequence[Task],
        encoder: Encoder,
        trackers: tuple[str, ...],
    ) -> None:
        self.settings = settings
        # A worker's own folder may be another than this process's.
        self.teacher, self.student = (model.absolute() for model in models)
        self.tasks = {task.name: task for task in tasks}
        self._text_columns = {task.name: task.text_columns for task in tasks}  # which a copy without rows has not
        self.records = records
        self.recipes = recipes
        self.encoder = encoder
        self.trackers = trackers
        self.cache_folder = Path(settings.cache_folder or records.folder / "cache").absolute()
        self.rows = Rows(encoder)
        self.chosen: dict[tuple[str, str], dict[str, float]] = {}
        self.idle: dict[tuple[str, str], dict[str, str]] = {}
        self.teacher_needs: dict[tuple[str, str], tuple[Any, Needs]] = {}
        self.weights: dict[str, float] = {}
        self._caches: dict[str, tuple[TeacherCache, set[str], int]] = {}
        self._written: dict[tuple[str, str, Targets], tuple[DatasetDict, str]] = {}
        self._teachers: dict[str, PreTrainedModel] = {}

    def method(self, job: Job) -> tuple[Recipe, Budget]:
        """A cell's recipe and budget, with what was tuned, or what its trial tries."""
        name, trial = parted(job[1])
        recipe = self.recipes[name]
        budget = self.settings.budget_of(recipe)
        if trial is not None:
            return set_to(recipe, budget, self.proposals(job[0], name)[trial])
        return set_to(recipe, budget, self.chosen.get((job[0], name), {}))

    def proposals(self, task: str, method: str) -> list[dict[str, float]]:
        """What the trials of a method try on a task: see `kdzoo.bench.grid.tuning.proposals`."""
        settings, recipe = self.settings, self.recipes[method]
        fixed, idle = settings.fixed_for(recipe), self.idle.get((task, method), {})
        return proposals(recipe, settings.budget_of(recipe), settings.tune, fixed, idle)

    def find(self, job: Job) -> dict[str, Any] | None:
        """The record of a teacher or a cell that is done.

        Raises:
            KdzooError: when it was made with another configuration.
        """
        return self.records.find(self.place(job), self.configuration(job))

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
        task, started = self.tasks[name], now()
        shared: dict[str, Any] = {
            "task": task,
            "seed": seed,
            "progress": progress,
        }
        shared["data"], said = self._rows(task, method, progress)
        logs = self.path(self._logs(job)), "-".join(map(str, job))
        with tracked(self.trackers, *logs, self.configuration(job)) as shared["callbacks"]:
            if method == TEACHER:
                record = self._train_teacher(job, started, shared)
            else:
                record = self._train_student(job, started, shared, said)
            for callback in shared["callbacks"]:
                callback.end(record)
        return record

    def _train_student(self, job: Job, started: str, shared: dict[str, Any], said: str) -> dict[str, Any]:
        task: Task = shared["task"]
        (recipe, budget), teacher = self.method(job), self._teacher(task)
        cache, methods, _ = self.cache(task)
        name, trial = parted(job[1])
        best = self.settings.keep == "best"
        kept = self.path(self.student_part(job)) if self.settings.save_students != "none" and trial is None else None
        with self.records.building(kept) if kept is not None else nullcontext() as scratch:
            outcome = train(
                self.student.build(task, teacher=teacher, seed=job[2]).train(),
                teacher if recipe.needs_teacher else None,
                recipe,
                cache=cache if name in methods else None,
                evaluations=self.settings.evaluations if trial is None or best else 0,
                held_out=self.rows.held_out(task) if best else None,
                budget=budget,
                folder=self.records.folder / "work",
                keep=scratch,
                tokenizer=self.encoder.student,
                collator=self.encoder.collator(task),
                **shared,
            )
            if said:
                outcome.scored_by["targets"] = said
            record = self._record(self.configuration(job), outcome, started)
            if scratch is not None:
                self.records.write(scratch / "record.json", record)
        teacher.cpu()  # so that the next cell's memory is its own
        return record

    def student_part(self, job: Job) -> str:
        """The part of the folder that a cell's student is kept in."""
        return f"students/{'-'.join(map(str, job))}"

    def _train_teacher(self, job: Job, started: str, shared: dict[str, Any]) -> dict[str, Any]:
        settings = self.settings
        with self.records.building(self.records.teacher(job[0])) as scratch:
            task, tokenizer = shared["task"], self.encoder.teacher
            model = self.teacher.build(task, tokenizer=tokenizer, positions=settings.budget.max_length)
            outcome = train(
                model,
                None,
                Recipe.load("none"),
                budget=settings.teacher_budget,
                folder=scratch / "training",
                evaluate_only=not settings.finetune_teacher,
                tokenizer=tokenizer,
                collator=self.encoder.teacher_collator(task),
                **shared,
            )
            model.save_pretrained(scratch)
            tokenizer.save_pretrained(scratch)
            record = self._record(self.configuration(job), outcome, started)
            self.records.write(scratch / "record.json", record)
        return record

    def moved(self, folder: Path) -> Cells:
        """The same in another folder."""
        moved = copy.copy(self)
        moved.records = self.records.moved(folder)
        if self.settings.cache_folder is None:
            moved.cache_folder = folder / "cache"
        moved._caches = {}
        return moved

    def path(self, part: str) -> Path:
        """Where a part of the folder is."""
        return self.records.folder / part

    def reads(self, job: Job) -> list[str]:
        """The parts of the folder that a training needs: a cell, its teacher."""
        return [] if job[1] == TEACHER else [f"teachers/{job[0]}"]

    def writes(self, job: Job) -> list[str]:
        """The parts of the folder that a training leaves there itself."""
        if job[1] == TEACHER:
            return [self._logs(job), f"teachers/{job[0]}"]
        return [self._logs(job), *([self.student_part(job)] if self.settings.save_students != "none" else [])]

    def receive(self, part: str, files: Files) -> None:
        """Put such a part in its place, whole or not at all."""
        with self.records.building(self.path(part)) as scratch:
            for name, content in files.items():
                (scratch / name).parent.mkdir(parents=True, exist_ok=True)
                (scratch / name).write_bytes(content)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs."""
        return self.__dict__ | {"_written": {}, "_teachers": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        quiet()
        self.__dict__.update(state)

    def new_cache(self) -> TeacherCache:
        """One of the comparison's teachers."""
        precision, top = self.settings.cache_precision, self.settings.cache_top
        return TeacherCache(self.cache_folder, precision=precision, top=top)

    def cache(self, task: Task) -> tuple[TeacherCache, set[str], int]:
        """Where a task's teacher is kept, the methods that read it there, which need the least, and all their bytes."""
        if task.name not in self._caches:
            rows = first_epochs(self.rows.of_students(task)["train"], self.settings.budget.epochs)
            cache = self.new_cache()
            wanted = [
                (cache.nbytes(config, rows, needs), method, config, needs)
                for (name, method), (config, needs) in self.teacher_needs.items()
                if name == task.name
            ]
            # Trials and the chosen settings are trained on other rows, unless both hold some out.
            caches = 2 if self.settings.tune and self.settings.keep == "last" else 1
            methods: set[str] = set()
            together, taken = Needs(logits=False), 0
            for _, method, config, needs in sorted(wanted, key=lambda entry: entry[0]):
                size = caches * cache.nbytes(config, rows, together | needs)
                if size <= self.settings.cache_limit * 1e9:
                    methods.add(method)
                    together, taken = together | needs, size
            cache.ahead = together
            self._caches[task.name] = cache, methods, taken
        return self._caches[task.name]

    def _logs(self, job: Job) -> str:
        return f"logs/{'-'.join(map(str, job))}"

    def place(self, job: Job) -> Path:
        """Where a record is."""
        name, method, seed = job
        if method == TEACHER:
            return self.records.teacher(name) / "record.json"
        if parted(method)[1] is not None:
            return self.records.trial(name, method, seed)
        return self.records.cell(name, method, seed)

    def configuration(self, job: Job) -> dict[str, Any]:
        """What a record depends on; it stands in the record."""
        name, method, seed = job
        configuration: dict[str, Any] = {"task": name, "method": method, "seed": seed}
        if method == TEACHER:
            return configuration | {"shared": self.settings.of_teacher()}
        changed, budget = self.method(job)
        recipe = changed.model_dump(mode="json", exclude_defaults=True, exclude=UNUSED)
        own = {} if budget == self.settings.budget else {"budget": budget.model_dump(mode="json")}
        return configuration | {"shared": self.settings.shared(), "recipe": recipe, **own}

    def _rows(self, task: Task, method: str, progress: Progress | None = None) -> tuple[DatasetDict, str]:
        """The splits of a training, and what there is to say of them: a trial's are cut from the training rows."""
        if method == TEACHER:
            return self.rows.tokenized(task), ""
        name, trial = parted(method)
        cut = trial is not None or self.settings.keep == "best"
        splits = self.rows.cut(task) if trial is not None else self.rows.of_students(task)
        if cut:
            splits = DatasetDict({**splits, "train": self.rows.cut(task)["train"]})
        targets = self.recipes[name].targets
        if targets is None:
            return splits, ""
        key = (task.name, "whole" if trial is None else "trials", targets)
        if key not in self._written:
            rows = self.rows.loaded[task.name]["train"]
            made = decoded_rows(
                self.rows.in_two(task)["train"] if cut else rows,
                task,
                self._teacher(task),
                self.encoder.teacher,
                targets,
                max_length=self.settings.budget.max_length,
                folder=self.records.folder / "decoded",
                student=self.encoder.student,
                progress=partial(progress, unit=ROWS) if progress is not None else lambda done, total: None,
            )
            train = self.encoder.for_students(task, made.rows)
            same = {other: held for other, held in self._written.items() if other[0] == task.name}
            self._written = {**same, key: (DatasetDict({**splits, "train": train}), made.said)}
        return self._written[key]

    def _teacher(self, task: Task) -> PreTrainedModel:
        if task.name not in self._teachers:
            # One at a time: cells come task by task.
            folder = self.records.teacher(task.name)
            try:
                self._teachers = {task.name: ModelSpec.parse(str(folder)).build(task)}
            except KdzooError as error:
                raise KdzooError(f"{error}; remove {folder}, and the teacher is trained again") from None
        return self._teachers[task.name]

    def _record(self, configuration: dict[str, Any], outcome: Outcome, started: str) -> dict[str, Any]:
        names = ("task", "method", "seed")
        found = asdict(outcome)
        name, trial = parted(configuration["method"])
        task = self.tasks[configuration["task"]]
        rows = self.rows.loaded[task.name]
        if trial is not None:
            rows = self.rows.in_two(task)
            found["tried"] = self.proposals(task.name, name)[trial]
        elif name != TEACHER:
            for field in ("references", "guess", "sources"):
                del found[field]  # the teacher's record holds them for the whole task
            if self.settings.keep == "best":
                rows = DatasetDict({**rows, "train": self.rows.in_two(task)["train"]})
        elif own := self.settings.own_tasks.get(task.name):
            found["own_task"] = own  # beside its configuration, which says what it was trained on already
        if columns := self._text_columns[task.name]:
            found["text_columns"] = list(columns)
        if task.fold is not None:
            found["fold"] = {"of": task.fold.whole(task.name), **asdict(task.fold)}
        return new_record(
            configuration,
            **{name: configuration[name] for name in names},
            **found,
            rows={split: len(of) for split, of in rows.items()},
            started=started,
            finished=now(),
        )

    def steps(self, name: str, method: str, seed: int) -> int:
        """How many a training takes."""
        rows = self.tasks[name].rows_an_epoch(len(self.rows.loaded[name]["train"]))
        if method == TEACHER:
            return total_steps(self.settings.teacher_budget, rows)
        _, budget = self.method((name, method, seed))
        if parted(method)[1] is not None or self.settings.keep == "best":
            return total_steps(budget, rows_an_epoch(self.rows.cut(self.tasks[name])["train"]))
        return total_steps(budget, rows * (1 + self.settings.augment))
