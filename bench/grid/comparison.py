"""A comparison: checked whole before anything is trained, then its grid run, with what fails and what is left."""

from __future__ import annotations

import shutil
import warnings
from collections.abc import Iterator, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from rich.console import Console

from kdzoo.bench.contents import contents_of
from kdzoo.bench.files import read_json
from kdzoo.bench.folder import Records
from kdzoo.bench.grid.cells import Cells
from kdzoo.bench.grid.launchers.base import Job, Launcher
from kdzoo.bench.grid.launchers.local import InProcess
from kdzoo.bench.grid.running import Grid, Running
from kdzoo.bench.grid.settings import Settings
from kdzoo.bench.grid.tracking import check_trackers
from kdzoo.bench.grid.tuning import RATE, SEED, chosen_of, set_to, space_of
from kdzoo.bench.progress import progress
from kdzoo.bench.record import TEACHER, differences
from kdzoo.bench.runs.augmentation import augmented_rows, check_augmentation, check_augmented
from kdzoo.bench.runs.budget import check_precision
from kdzoo.bench.runs.encoders import encoder_for
from kdzoo.bench.runs.tasks import load_rows
from kdzoo.bench.runs.train import quiet
from kdzoo.bench.timing import times_the_work
from kdzoo.bench.training_words import training_in_words
from kdzoo.bench.trials import trial_name, without_trials
from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.decoders import check_decoder
from kdzoo.models.inputs import check_abilities
from kdzoo.models.loading import check_weights
from kdzoo.models.teachers import check_length, every_other_layer
from kdzoo.objectives.checks import check_labels, check_separate_tokens
from kdzoo.objectives.overrides import ALL, check_told_once, load_recipes, settings_without_effect
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks import Task, get_task
from kdzoo.training.accumulation import say_micro_batches
from kdzoo.training.cache import megabytes
from kdzoo.training.decoded import check_targets
from kdzoo.training.kept import why_not_kept
from kdzoo.training.order import check_together
from kdzoo.training.topk import looks_at_all


class Printer(Protocol):
    """Shows what records say; handed to a comparison, which knows no report."""

    def table(
        self, records: Sequence[dict[str, Any]], title: str, *, failed: Sequence[Job] = (), running: bool = False
    ) -> Any:
        """The table on the terminal."""

    def write(self, folder: Path) -> list[Path]:
        """Write the report and the tables of a folder's records; the files."""


class Comparison:
    """A comparison in a folder. Making one checks everything that can be checked before training.

    Args:
        settings: what to run.
        folder: where its records go, and where those of an interrupted run are found.
        console: where progress is shown.
        trackers: ``"tensorboard"`` and ``"wandb"``, to log each training to; into ``logs`` in the folder.
        printer: makes the table and the report of its records; without one there is neither.
        leave_out: leave cells out that cannot work, instead of refusing; so it is where all recipes are asked for.

    Attributes:
        failed: why trainings failed, by task, method and seed, once it has run.

    Raises:
        KdzooError: for anything that would make a cell impossible.
    """

    def __init__(
        self,
        settings: Settings,
        folder: Path,
        console: Console,
        trackers: tuple[str, ...] = (),
        *,
        leave_out: bool = False,
        printer: Printer | None = None,
    ) -> None:
        quiet()
        check_trackers(trackers)
        self.failed: dict[Job, str] = {}
        self.printer = printer
        teacher = settings.teacher
        teacher.check_teacher()
        student = settings.student or every_other_layer(teacher)
        settings = settings.model_copy(update={"student": student})
        check_weights(str(teacher))
        self.settings = settings
        self.console = console
        check_precision(settings.budget)
        check_precision(settings.teacher_budget)
        self.tasks: list[Task] = [get_task(name) for name in settings.tasks]
        if not settings.finetune_teacher:
            for task in self.tasks:
                teacher.check_head(task)
                if (line := teacher.about_labels(task)) is not None:
                    self._say(line)
        twice = [name for index, name in enumerate(settings.tasks) if name in settings.tasks[:index]]
        if twice:
            raise KdzooError(f"the task {twice[0]!r} is named twice; name each task once")
        if settings.recipe_training:  # elsewhere a number of the training is one method's
            check_told_once(settings.first, settings.overrides)
        own: Literal["own", "one budget"] = "own" if settings.recipe_training else "one budget"
        self.recipes = load_recipes(settings.methods, settings.overrides, training=own, tuned=bool(settings.tune))
        for recipe in self.recipes.values() if settings.tune else ():
            space_of(recipe, settings.budget_of(recipe), settings.fixed_for(recipe))  # refuses where nothing is left
        self._wide = max(map(len, self.recipes))  # so that the lines of all methods stand in columns
        self.impossible: dict[tuple[str, str], str] = {}
        order = {"tasks": list(settings.tasks), "methods": list(self.recipes)}
        self.records = Records(folder, settings.shared(), order)
        if settings.augment:
            check_augmentation(teacher, settings.augment_model, settings.glove)
            for task in self.tasks:
                check_augmented(task)
        data = load_rows(self.tasks, settings)
        budgets = [settings.teacher_budget, *map(settings.budget_of, self.recipes.values())]
        encoder = encoder_for(
            teacher,
            student,
            self.tasks,
            data,
            settings.data,
            settings.budget.max_length,
            folder,
            max(budget.epochs for budget in budgets),
        )
        self.work = Cells(settings, self.records, self.recipes, (teacher, student), self.tasks, encoder, trackers)
        self.work.rows.loaded = data
        for task in self.tasks if settings.tune else ():
            self.work.rows.in_two(task)  # refuses too few rows
        self.check(leave_out=leave_out or ALL in settings.methods)
        cells = [(task, self.recipes[name], idle) for (task, name), idle in self.work.idle.items()]
        for of, name, line in settings_without_effect(settings.overrides, cells):
            self._say(f"{of:<6} {name:<{self._wide}} {line}")
        if settings.keep == "best":
            self._check_choice()
        self.records.check_contents(contents_of(teacher, student, self.work.rows.loaded))

    def check(self, *, leave_out: bool) -> None:
        """Refuse what cannot work, on models without weights; warn of what does less than its name says.

        Args:
            leave_out: leave such cells out instead, and keep the reason in ``impossible`` by task and method.

        Raises:
            KdzooError: names the method, the task and the reason.
        """
        copies = 1 + self.settings.augment
        for task in self.tasks:
            encoder, length = self.work.encoder, self.settings.budget.max_length
            teacher = self.work.teacher.build_on_meta(task, tokenizer=encoder.teacher, positions=length)
            with nullcontext() if self.work.student.path is not None else torch.device("meta"):
                student = self.work.student.build(task, teacher=teacher)
            check_together(task.rows_together, self.settings.budget.batch_size)
            check_length(length, encoder.student, student)
            check_length(length, encoder.teacher, teacher)
            # The teacher first: what it lacks, a student made of it lacks too.
            check_decoder(teacher, f"the teacher {self.work.teacher}", task.longest_target, encoder.teacher)
            check_decoder(student, f"the student {self.work.student}", task.longest_target, encoder.student)
            for split, of in self.work.rows.loaded[task.name].items():
                for tokenizer in {id(one): one for one in (encoder.teacher, encoder.student)}.values():
                    task.check_rows(split, of, tokenizer)
            if cut := task.about_length(self.work.rows.loaded[task.name]["train"], encoder.student, length):
                self._say(f"{task.name:<6} {cut}")
            check_abilities(teacher, task.abilities(teacher=True), task.name)
            check_abilities(student, task.abilities(teacher=False), task.name)
            if self.settings.finetune_teacher:
                self.work.weights[task.name] = times_the_work(teacher, student, length)
            for name, recipe in self.recipes.items():
                try:
                    with torch.device("meta"), warnings.catch_warnings(record=True) as caught:
                        warnings.simplefilter("always", KdzooWarning)
                        check_targets(recipe, task)
                        objective = recipe.objective()
                        if encoder.separate:
                            check_separate_tokens(objective, student, same_targets=encoder.same_targets)
                        rows = len(self.work.rows.loaded[task.name]["train"]) * copies
                        check_labels(objective)
                        objective.bind(student, teacher, num_samples=rows)
                        budget = self.settings.budget_of(recipe)
                        check_together(task.rows_together, budget.batch_size)
                        say_micro_batches(objective, budget.gradient_accumulation, budget.batch_size)
                except KdzooError as error:
                    if not leave_out:
                        raise KdzooError(f"{name} on {task.name}: {error}") from None
                    self.impossible[task.name, name] = str(error)
                    self._say(f"{task.name:<6} {name:<{self._wide}} left out: {error}")
                    continue
                self.work.idle[task.name, name] = objective.idle(student)
                if self.settings.tune:
                    self._check_ends(task, recipe, student, teacher)
                needs = objective.teacher_needs()
                some = self.work.new_cache().top_of(teacher) is not None
                why = (
                    None
                    if needs is None
                    else why_not_kept(teacher, needs) or (looks_at_all(objective) if some else None)
                )
                if why is not None:
                    self._say(f"{task.name:<6} {name:<{self._wide}} the teacher runs live: {why}")
                elif needs is not None:
                    teacher.config.architectures = [type(teacher).__name__]  # by which the cache knows its logits
                    self.work.teacher_needs[task.name, name] = teacher.config, needs
                for warning in caught:
                    if issubclass(warning.category, KdzooWarning):
                        self._say(f"{task.name:<6} {name:<{self._wide}} warning: {warning.message}")

    def _check_ends(self, task: Task, recipe: Recipe, student: Any, teacher: Any) -> None:
        """Refuse what would be sought of a recipe up to where a loss does not take it; and a search for nothing."""
        budget, fixed = self.settings.budget_of(recipe), self.settings.fixed_for(recipe)
        try:
            space = space_of(recipe, budget, fixed, self.work.idle[task.name, recipe.name])
        except KdzooError as error:
            raise KdzooError(f"{task.name}: {error}") from None
        for key, end in ((key, end) for key, ends in space.items() for end in ends if key != RATE):
            try:
                with torch.device("meta"), warnings.catch_warnings():
                    warnings.simplefilter("ignore", KdzooWarning)
                    objective = set_to(recipe, budget, {key: end})[0].objective()
                    objective.bind(student, teacher, num_samples=len(self.work.rows.loaded[task.name]["train"]))
            except KdzooError as error:
                low, high = space[key]
                raise KdzooError(
                    f"{recipe.name} on {task.name}: --tune would seek {key} from {low:g} to {high:g}, and {end:g} does "
                    f"not work: {error}"
                ) from None

    def _check_choice(self) -> None:
        """Refuse trainings of one step, of which there are no weights to choose among."""
        for task, method, seed in self.cells():
            if (steps := self.work.steps(task.name, method, seed)) < 2:
                raise KdzooError(
                    f"{method} on {task.name}: --keep best has nothing to choose among in {steps} step; train longer, "
                    "or leave it out"
                )

    def cells(self) -> Iterator[tuple[Task, str, int]]:
        """The grid, task by task, seed by seed, so that the first rows of the table fill early."""
        for task in self.tasks:
            for seed in self.settings.seeds:
                for method in self.recipes:
                    if (task.name, method) not in self.impossible:
                        yield task, method, seed

    @property
    def title(self) -> str:
        """Of its table."""
        count = len(self.settings.seeds)
        seeds = "one seed" if count == 1 else f"mean ± std over {count} seeds"
        budgets = [(name, self.settings.budget_of(recipe).model_dump()) for name, recipe in self.recipes.items()]
        trained = training_in_words(self.settings.shared(), budgets)
        models = f"teacher {self.settings.teacher}, student {self.settings.student}"
        return f"Validation scores, {seeds}; {models}; {trained}"

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
        self.failed = {}
        with self.records.claimed(command) as damaged:
            for line in damaged:
                self._say(f"warning: {line}")
            teachers: Grid = {(task.name, TEACHER, 0): [] for task in self.tasks}
            if self.settings.tune:
                for job in self._trials():
                    teachers[job[0], TEACHER, 0].append(job)
                self._run_grid(teachers, launcher, retry_failed)
                self.work.chosen = chosen_of(self.work, self.recipes, self.tasks, self._say)
                self._set_aside_other_choices()
            grid: Grid = {teacher: [] for teacher in teachers}
            for task, method, seed in self.cells():
                grid[task.name, TEACHER, 0].append((task.name, method, seed))
            done = self._run_grid(grid, launcher, retry_failed)
            if self.settings.save_students != "none":
                self._keep_students(done)
            if done and self.printer is not None:
                self.printer.write(self.records.folder)
        return [done[job] for teacher, cells in grid.items() for job in (teacher, *cells) if job in done]

    def _set_aside_other_choices(self) -> None:
        """Put away the cells that were trained with what another trial than the best one now tried."""
        for task, method, seed in self.cells():
            job = (task.name, method, seed)
            path = self.work.place(job)
            if not path.exists():
                continue
            there = read_json(path).get("configuration", {})
            if differences(there, self.work.configuration(job)) and self._tried(job, there):
                aside = self.records.set_aside(path, "before")
                self._say(
                    f"{task.name:<6} {method} seed {seed} is trained again, as another trial is the best now; what it "
                    f"was is in {aside}"
                )

    def _tried(self, job: Job, configuration: dict[str, Any]) -> bool:
        """Whether a cell's configuration is that of one of its method's trials, but for who it is."""
        name, method, seed = job
        trials = (self.work.configuration((name, trial_name(method, at), SEED)) for at in range(self.settings.tune))
        return any(not differences(trial | {"method": method, "seed": seed}, configuration) for trial in trials)

    def _keep_students(self, done: dict[Job, dict[str, Any]]) -> None:
        """Keep the students that are asked for, and name the cells that were done without theirs."""
        best_alone = self.settings.save_students == "best"
        without: list[Job] = []
        for task, method in dict.fromkeys(job[:2] for job in done if job[1] != TEACHER):
            scores = self._scores(task, method, done, others=best_alone)
            ranked = sorted(scores, key=lambda job: (-scores[job], job[2]))
            kept = [job for job in ranked if self.work.path(self.work.student_part(job)).is_dir()]
            without += [job for job in ranked[: 1 if best_alone else None] if job not in kept]
            for job in kept[1:] if best_alone else []:
                shutil.rmtree(self.work.path(self.work.student_part(job)), ignore_errors=True)
        if without:
            first = self.work.place(without[0])
            what = "the best student" if best_alone else "the student"
            more = f" and of {len(without) - 1} more" if len(without) > 1 else ""
            also = "" if without[0] in done else f" with the seed {without[0][2]} too"
            self._say(
                f"warning: {what} is not kept of {' '.join(map(str, without[0]))}{more}, done before it was asked for "
                f"or removed since{'; the best of the others stays' if best_alone else ''}; remove {first}"
                f"{' and the others' if more else ''}, and run this again{also}"
            )

    def _scores(self, task: str, method: str, done: dict[Job, dict[str, Any]], *, others: bool) -> dict[Job, float]:
        """The scores of a method's cells that are done, with the others that earlier runs made of the same."""
        scores: dict[Job, float] = {job: found["score"] for job, found in done.items() if job[:2] == (task, method)}
        for seed in self.records.seeds(task, method) if others else []:
            job = (task, method, seed)
            if job not in scores:
                with suppress(KdzooError):  # of another configuration, or damaged: none that it could be compared with
                    if found := self.work.find(job):
                        scores[job] = found["score"]
        return scores

    def _trials(self) -> Iterator[Job]:
        """The trials of all methods, those of one task together."""
        for task in self.tasks:
            for trial in range(self.settings.tune):
                for method in self.recipes:
                    if (task.name, method) not in self.impossible:
                        yield task.name, trial_name(method, trial), SEED

    def _run_grid(self, grid: Grid, launcher: Launcher | None, retry_failed: bool) -> dict[Job, dict[str, Any]]:
        """Run what is missing of a grid; the records of what is done."""
        for task in self.tasks:
            cells = grid[task.name, TEACHER, 0]
            if any(self.work.find(job) is None for job in ((task.name, TEACHER, 0), *cells)) and cells:
                self._augment(task)
                self._announce_cache(task)
        running = Running(self.work, grid, retry_failed=retry_failed)
        done = running.run(launcher or InProcess(), self.console, self._table, self._wide)
        self.failed |= running.failed
        return done

    @property
    def failed_cells(self) -> list[Job]:
        """The teachers and cells that failed, without the trials."""
        return without_trials(self.failed)

    def summary_of_failures(self) -> str:
        """One line about the trainings that failed."""
        (job, why), *others = self.failed.items()
        more = f", and {len(others)} more" if others else ""
        return (
            f"{' '.join(map(str, job))} failed{more}: {why}; {self.records.folder / 'failed'} has what went wrong, and "
            "--retry-failed runs it again"
        )

    def _augment(self, task: Task) -> None:
        """Add the students' training rows, ``augmented``, where they are others than the teacher's."""
        settings, splits = self.settings, self.work.rows.loaded[task.name]
        if settings.augment and "augmented" not in splits:
            with progress(self.console, f"{task.name} augmentation", len(splits["train"]), "rows") as progressed:
                splits["augmented"] = augmented_rows(
                    splits["train"],
                    task,
                    settings.augment,
                    teacher=self.work.teacher,
                    model=settings.augment_model,
                    glove=settings.glove,
                    folder=self.records.folder / "augmented",
                    say=self._say,
                    progress=progressed,
                )

    def _announce_cache(self, task: Task) -> None:
        _, methods, size = self.work.cache(task)
        if methods:
            names = ", ".join(name for name in self.recipes if name in methods)
            self._say(f"{task.name:<6} the teacher's activations are kept for {names}: {megabytes(size)}")
        live = [m for t, m in self.work.teacher_needs if t == task.name and m not in methods]
        if live and self.settings.cache_limit:
            limit = megabytes(self.settings.cache_limit * 1e9)
            self._say(f"{task.name:<6} the teacher runs live for {', '.join(live)}: over --cache-limit, {limit}")

    def _table(self, records: Sequence[dict[str, Any]], failed: Sequence[Job]) -> Any:
        if self.printer is None:
            return ""
        return self.printer.table(records, self.title, failed=without_trials(failed), running=True)

    def _say(self, line: str) -> None:
        self.console.print(line, highlight=False, markup=False, soft_wrap=True)
