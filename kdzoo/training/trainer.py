"""DistillationTrainer: transformers' Trainer with a teacher and an objective."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments, set_seed
from transformers.trainer_utils import get_last_checkpoint

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning
from kdzoo.models.activations import Activations, capture
from kdzoo.models.decoders import use_cache
from kdzoo.models.heads import check_transformers, positions, savable, unwrap
from kdzoo.objectives.checks import check_separate_tokens
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.candidates import LIST
from kdzoo.tasks.encoding import INDEX
from kdzoo.training import agreement, checkpoints
from kdzoo.training.accumulation import say_micro_batches, shares
from kdzoo.training.agreement import accepted_inputs as accepted_inputs
from kdzoo.training.arguments import check_arguments, check_kinds, check_optimizer, resume_from
from kdzoo.training.cache import TEACHER_PREFIX, TeacherCache
from kdzoo.training.card import model_card
from kdzoo.training.collated import given, with_added_mask
from kdzoo.training.distiller import Distiller
from kdzoo.training.failure import Step, check_finite
from kdzoo.training.kept import TeacherRows, say_left_out
from kdzoo.training.labels import COUNTED, check_spans, label_names
from kdzoo.training.order import by_length, check_order, staged
from kdzoo.training.stopwatch import Stopwatch
from kdzoo.training.topk import looks_at_all

MEASURED_EVERY = 10  # steps between two looks at the terms' gradients, where weights depend on them


class DistillationTrainer(Trainer):
    """Trains a student from a teacher by a recipe or an objective; all else is ``transformers.Trainer``.

    The training set's rows hold the models' inputs, ``labels`` and, for losses that keep a bank, ``sample_ids`` (the
    row's index). Columns that one of the models does not take are kept for the other, and those that neither takes are
    left out unless ``remove_unused_columns=False``. What the losses learn starts from ``seed``. With
    ``train_sampling_strategy="group_by_length"`` the order of the rows depends on ``data_seed`` (or ``seed``) and
    the epoch alone, so that it is the same for every method and after a resume.

    ``save_model`` writes the student as a plain transformers model; checkpoints hold the objective beside it.

    Args:
        model: the student.
        teacher: a model for the same task; None when nothing of the objective needs one.
        recipe: a `Recipe`, or the name of one or a YAML file.
        objective: an `Objective` instead of a recipe, or an expression of one, ``"kd(temperature=2)*0.5 + ce"``.
        log_gradients: log the norm of each term's gradient at the student's parameters (``gradient/TERM``) and the
            cosine of each two (``gradient/TERM~TERM``) with every log, at the cost of a backward pass a term for the
            step they are taken from.
        cache: where the teacher's activations of the training rows are kept, so that the teacher runs once for them
            and not in every epoch of every training; it needs ``sample_ids`` 0, 1, 2, ... in the training set.
        args: ``transformers.TrainingArguments``.
        arguments: everything else that ``transformers.Trainer`` takes.

    Raises:
        KdzooError: for models, data and objective that do not go together; before any training.
        DistillationFailure: from ``train``, when loss or weights become NaN or infinite; the last checkpoint is kept.
    """

    model: Any  # a Distiller; the Trainer declares a PreTrainedModel
    _signature_columns: Any

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | None = None,
        *,
        recipe: Recipe | str | None = None,
        objective: Objective | str | None = None,
        log_gradients: bool = False,
        cache: TeacherCache | None = None,
        args: TrainingArguments,
        **arguments: Any,
    ) -> None:
        if (recipe is None) == (objective is None):
            raise KdzooError("give the DistillationTrainer either a recipe or an objective")
        check_kinds(model=(model, nn.Module), teacher=(teacher, nn.Module))
        check_transformers(model)
        if isinstance(objective, str):
            objective = Objective(objective)
        check_kinds(objective=(objective, Objective), cache=(cache, TeacherCache))
        if isinstance(recipe, str):
            recipe = Recipe.load(recipe)
        self.recipe = recipe
        if recipe is not None and recipe.targets is not None:
            warnings.warn(
                f"{recipe.name} trains on texts that the teacher writes, taking the training set's targets for them; "
                "kdzoo.training.decoded.decoded_rows makes them",
                KdzooWarning,
                stacklevel=2,
            )
        self.log_gradients = log_gradients
        if objective is None:
            assert recipe is not None
            objective = recipe.objective()
        needs_teacher = any(term.loss_class.needs_teacher for term in objective.terms)
        self.teacher = None if teacher is None or not needs_teacher else unwrap(teacher)
        train_dataset: Any = arguments.get("train_dataset")
        check_arguments(args, arguments)
        check_order(train_dataset, args)
        while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module  # the Trainer wraps it itself
        self._prefix, self._aligned = "", False
        if self.teacher is not None:
            agreement.check_sharing(model, self.teacher)
            self._prefix = TEACHER_PREFIX if agreement.has_own_columns(self.teacher, train_dataset) else ""
            self._aligned = bool(self._prefix) and TEACHER_PREFIX + INDEX in agreement.columns_of(train_dataset)
            if self._prefix and not self._aligned:
                same_targets = getattr(arguments.get("data_collator"), "same_targets", False)
                check_separate_tokens(objective, model, same_targets=same_targets)
            else:
                agreement.check_vocabularies(model, self.teacher)
        # The Trainer seeds too late for projections and banks.
        set_seed(args.seed)
        num_samples = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        objective.bind(model, self.teacher, num_samples=num_samples)
        agreement.check_heads(objective, model, self.teacher)
        agreement.check_columns(objective, train_dataset)
        check_spans(model, agreement.columns_of(train_dataset))
        check_optimizer(arguments.get("optimizers", (None, None))[0], objective)
        say_micro_batches(objective, args.gradient_accumulation_steps, args.per_device_train_batch_size)
        if args.label_names is None:
            args.label_names = label_names(model)
        if args.ddp_broadcast_buffers is None:
            # Banks are updated alike in every process; sending them in each step would cost more than the step.
            args.ddp_broadcast_buffers = False
        perturbation = recipe.perturbation if recipe is not None else None
        self.stopwatch = Stopwatch(args.device)
        self._use_cache = getattr(getattr(savable(model), "config", None), "use_cache", None)
        super().__init__(model=Distiller(model, objective, perturbation, self.stopwatch), args=args, **arguments)
        self.model.loss_scaler = self.accelerator.scaler
        self._laps = _Laps(self.stopwatch)
        self.add_callback(self._laps)
        # The columns that the Trainer keeps.
        others = (*self.label_names, "label", "label_ids", "sample_ids", COUNTED, LIST, args.length_column_name)
        makes = getattr(arguments.get("data_collator"), "columns", ())  # what batches are made of, and no model takes
        own = [name for name in makes if not name.startswith(TEACHER_PREFIX)]
        self._signature_columns = [*accepted_inputs(model), *others, *own]
        if self.teacher is not None:
            self.teacher.to(self.args.device)
            self._teacher_inputs = accepted_inputs(self.teacher)
            self._teacher_most = positions(self.teacher)
            self._signature_columns += [self._prefix + name for name in self._teacher_inputs]
            self._signature_columns += [name for name in makes if name.startswith(TEACHER_PREFIX)]
        self._cache = cache
        self.outputs: Callable[[Any, Mapping[str, Any]], Any] | None = None  # what is predicted, unless by one pass
        self.teacher_rows: TeacherRows | None = None  # what the cache holds, from `train` on
        self.teacher_progress: Callable[[int, int], None] | None = None  # in place of a bar, while the cache is filled
        self.kept: dict[str, Any] = {}  # whose weights the student has, where they are not the last: see `model_card`
        self._steps: list[Step] = []
        self._gradients: list[dict[str, Tensor]] = []
        self._shares: list[dict[str, Tensor]] = []  # of the micro-batches that are left of a step

    @property
    def student(self) -> PreTrainedModel:
        """The student, without what was wrapped around it."""
        return savable(self.model.student)

    @property
    def progress(self) -> float:
        """The fraction of the training steps done."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def train(self, resume_from_checkpoint: str | bool | None = None, *arguments: Any, **options: Any) -> Any:
        """Train; with a cache, the teacher runs over the training rows first, where it has not yet."""
        start = resume_from(self.args, resume_from_checkpoint)
        start = get_last_checkpoint(str(self.args.output_dir)) or True if start is True else start
        if isinstance(start, str):
            checkpoints.check(Path(start), self.args.max_steps)
        self._steps.clear()
        self._shares.clear()
        self.kept = {}
        with ExitStack() as undo:
            if self.teacher is not None:
                undo.enter_context(agreement.frozen(self.teacher))
            self._check_lengths()
            self._open_cache()
            trained = super().train(start, *arguments, **options)
        use_cache(self.student, self._use_cache)
        # A loss shows what the step before it made of the weights, and nothing follows the last.
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise DistillationFailure("the weights are not finite after the last step; take a lower learning rate")
        return trained

    def _check_lengths(self) -> None:
        rows: Any = self.train_dataset
        if rows is None or not isinstance(getattr(rows, "column_names", None), list):
            return
        rows = self._remove_unused_columns(rows, description="training")
        agreement.check_longest("the student", self.model.student, rows, self.data_collator)
        if self.teacher is not None:
            agreement.check_longest("the teacher", self.teacher, rows, self.data_collator, self._prefix)

    def _open_cache(self) -> None:
        needs = self.model.objective.teacher_needs()
        if self._cache is None or self.teacher is None or needs is None:
            return
        why = looks_at_all(self.model.objective) if self._cache.top_of(self.teacher) is not None else None
        if why is not None:
            warnings.warn(f"no cache of the teacher: {why}; it runs live", KdzooWarning, stacklevel=2)
            return
        with self._teacher_bar() as progress, agreement.evaluating(self.teacher):
            self.teacher_rows = self._cache.open(
                self.teacher,
                self._remove_unused_columns(self.train_dataset, description="training"),
                needs,
                inputs=self._teacher_inputs,
                collate=self.data_collator,
                prefix=self._prefix,
                batch_size=self.args.eval_batch_size,
                autocast=self.accelerator.autocast,
                autocast_dtype=self.accelerator.mixed_precision.replace("no", ""),
                progress=progress,
            )
        if self.teacher_rows is not None:
            self.teacher.to("cpu")  # which makes room: it has said all it is asked for
            say_left_out(self.teacher_rows)

    def get_batch_samples(self, *arguments: Any, **options: Any) -> Any:
        """A step's micro-batches, and what each weighs in it."""
        batches, count = super().get_batch_samples(*arguments, **options)
        self._shares = shares(batches, self.args.device) if len(batches) > 1 else []
        return batches, count

    @contextmanager
    def _teacher_bar(self) -> Iterator[Callable[[int, int], None]]:
        """Who is told how far the teacher is: a bar as the Trainer's own, where nobody else asked."""
        if self.teacher_progress is not None:
            yield self.teacher_progress
            return
        with tqdm(desc="teacher", unit="rows", delay=1, disable=self.args.disable_tqdm) as bar:

            def progress(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield progress

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The objective's total when training; the student's own loss when evaluating."""
        if not model.training:
            outputs = model(**inputs)
            return (outputs.loss, outputs) if return_outputs else outputs.loss
        self.stopwatch.lap("other")
        teacher = self._run_teacher(inputs)
        self.stopwatch.lap("teacher")
        weights = self._shares.pop(0) if self._shares else None
        output = model(
            **inputs,
            teacher=teacher,
            progress=self.progress,
            epoch=int(self.state.epoch or 0),
            measure=self._measures(),
            shares=weights,
            micro_batches=getattr(self, "current_gradient_accumulation_steps", 1),  # set by `train`
        )
        ids = inputs.get("sample_ids")
        self._steps.append((self.state.global_step + 1, output._replace(total=output.total.detach()), ids))
        if self.log_gradients:
            self._gradients.append(self.model.objective.gradients)
        if output.total.device.type == "cpu":
            self._check_finite(self._steps[-1:])
        return (output.total, output) if return_outputs else output.total

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """A forward and a backward pass."""
        loss = super().training_step(*arguments, **options)
        self.stopwatch.lap("backward")
        return loss

    def _prepare_inputs(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """On the device; a visible matrix as the student takes it (the teacher's own is in `given`)."""
        return with_added_mask(super()._prepare_inputs(inputs))

    def prediction_step(self, model: nn.Module, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        """The student's outputs on a batch; with ``outputs`` set those that it gives, and no loss."""
        if self.outputs is None:
            return super().prediction_step(model, inputs, *arguments, **options)
        taken = self._prepare_inputs(inputs)
        with torch.no_grad(), self.accelerator.autocast():
            return None, self.outputs(self.student, taken), None

    def _measures(self) -> bool:
        """Whether this step's gradients are measured, term by term."""
        step = self.state.global_step
        if self.model.objective.balance == "gradient_norm" and step % MEASURED_EVERY == 0:
            return True
        return self.log_gradients and (step + 1) % max(int(self.state.logging_steps), 1) == 0

    def _run_teacher(self, inputs: Mapping[str, Any]) -> Activations | None:
        _, needs = self.model.objective.needs(self.progress)
        if self.teacher is None or needs is None:
            return None
        taken = given(self.teacher, inputs, self._teacher_inputs, self._prefix)
        if self._prefix and "input_ids" not in taken:
            raise KdzooError(
                f"the training set has columns of the teacher's own ({TEACHER_PREFIX}input_ids, ...) and the batch has "
                f"none: it has {', '.join(inputs)}; the collator has to make tensors of them"
            )
        index = inputs[TEACHER_PREFIX + INDEX] if self._aligned else None
        if self.teacher_rows is not None:
            if self.teacher_rows.holds(inputs["sample_ids"], taken):
                masks = taken.get("attention_mask"), taken.get("decoder_attention_mask")
                found = self.teacher_rows.activations
                return found(inputs["sample_ids"], masks[0], needs, targets=masks[1], index=index)
            warnings.warn(
                "the collator makes other inputs of these rows than those that the teacher's cache was made from; the "
                "teacher runs live from here on",
                KdzooWarning,
                stacklevel=2,
            )
            self.teacher_rows = None
            self.teacher.to(self.args.device)
        # no_grad and not inference_mode: losses save what they compare for their backward pass, which inference
        # tensors refuse.
        agreement.check_length("the teacher", self._teacher_most, taken)
        watching = capture(self.teacher, needs)
        with torch.no_grad(), self.accelerator.autocast(), agreement.evaluating(self.teacher), watching as recorder:
            return recorder.activations(self.teacher(**taken), mask=taken.get("attention_mask"), index=index)

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Add each term's mean since the last log."""
        if self._steps and ("loss" in logs or "train_loss" in logs):
            self._check_finite(self._steps)
            sums: dict[str, list[Tensor]] = {}
            terms = [output.terms for _, output, _ in self._steps]
            for kind, measured in (("loss", terms), ("gradient", self._gradients)):
                for values in measured:
                    for name, value in values.items():
                        sums.setdefault(f"{kind}/{name}", []).append(value)
            means = {name: mean_over_processes(torch.stack(values).mean()) for name, values in sums.items()}
            logs = logs | {name: mean.item() for name, mean in means.items()}
            self._steps.clear()
            self._gradients.clear()
        super().log(logs, *arguments, **options)

    def _check_finite(self, steps: list[Step]) -> None:
        check_finite(steps, Path(str(self.args.output_dir)))

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A recipe's own learning-rate course where its stages name one."""
        own = self.lr_scheduler is None and self.recipe is not None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        if own and self.recipe is not None:
            self.lr_scheduler = staged(scheduler, self.recipe.spans(), num_training_steps, self.args)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        return by_length(dataset, self.args, self.train_dataset)  # what is given here has fewer columns

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # In the rows' order, so that predictions come back in it, however the training rows are grouped.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        self._check_finite(self._steps)
        super()._save_checkpoint(*arguments, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the student as a plain transformers model (or PEFT's adapters), with its tokenizer and a model card.

        The objective (projections, banks) goes into checkpoints alone.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:
            return
        use_cache(self.student, self._use_cache)
        checkpoints.save_student(self.model.student, folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if _internal_call:
            checkpoints.save_objective(self.model.objective, folder)
        else:
            card = model_card(self.model.student, self.recipe, self.state, self.args, self.kept)
            (folder / "README.md").write_text(card, encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        checkpoints.load(self.model.student, self.model.objective, Path(resume_from_checkpoint))

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        resume_from_checkpoint: Any = None,
        trial: Any = None,
    ) -> tuple[int, int]:
        found: tuple[int, int] = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, resume_from_checkpoint, trial
        )
        if self.state.global_step > max_steps:
            raise KdzooError(f"the checkpoint is of step {self.state.global_step}, and training ends after {max_steps}")
        # One that has ended has no epoch left; in the midst of one the Trainer would take another step.
        return (num_train_epochs, 0) if self.state.global_step == max_steps else found

    def _finalize_training(self, trial: Any, num_train_samples: Any, start_time: float) -> Any:
        # The Trainer takes the time by a clock that may be set back meanwhile.
        return super()._finalize_training(trial, num_train_samples, time.time() - self._laps.seconds)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with checkpoints.resuming(Path(checkpoint or ""), "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))
        self.kept = {"step": self.state.best_global_step, "logged": len(self.state.log_history)}


class _Laps(TrainerCallback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._began = 0.0

    @property
    def seconds(self) -> float:
        """Since the training began, by a clock that nobody sets."""
        return time.perf_counter() - self._began

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._began = time.perf_counter()
        self._stopwatch.start()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._stopwatch.lap("optimizer")
