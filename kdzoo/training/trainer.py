"""DistillationTrainer: transformers' Trainer with a teacher and an objective."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_model, save_model
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerState, TrainingArguments, set_seed
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_pt_utils import LengthGroupedSampler
from transformers.trainer_utils import get_last_checkpoint

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import DistillationFailure, KdzooError
from kdzoo.models.activations import Activations, capture, embedding_output
from kdzoo.models.heads import unwrap
from kdzoo.models.loading import auto_class
from kdzoo.objectives.objective import Objective, ObjectiveOutput
from kdzoo.objectives.recipe import Recipe, Stage
from kdzoo.training.cache import TeacherCache, TeacherRows
from kdzoo.training.perturbation import gradient_perturbation
from kdzoo.training.stopwatch import Stopwatch

OBJECTIVE_FILE = "objective.safetensors"
STUDENT_FILE = "model.safetensors"
MEASURED_EVERY = 10  # steps between two looks at the terms' gradients, where weights depend on them


class Distiller(nn.Module):
    """A student and the objective it is trained on, as one module, so that both are optimised and synchronised.

    In training mode a forward pass gives the objective's output; in evaluation mode the student's own.
    """

    accepts_loss_kwargs = False

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        perturbation: str | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.perturbation = perturbation
        self.stopwatch = stopwatch or Stopwatch(torch.device("cpu"))
        self._inputs = accepted_inputs(student)

    @property
    def config(self) -> Any:
        """The student's config; the Trainer looks for one."""
        return self.student.config

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Pass on to the student what the Trainer asks of a model."""
        self.student.activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same by the name that the Trainer used before transformers 5.23."""
        self.student.gradient_checkpointing_enable(**options)

    def forward(
        self,
        *,
        teacher: Activations | None = None,
        progress: float = 0.0,
        labels: Tensor | None = None,
        sample_ids: Tensor | None = None,
        measure: bool = False,
        **inputs: Any,
    ) -> Any:
        """The objective's output on a batch when training, else the student's.

        Args:
            teacher: what the teacher exposed of this batch.
            progress: fraction of the training done.
            labels: (B,).
            sample_ids: (B,) indices in the training set.
            measure: measure the terms' gradients too.
            inputs: the batch; the student is given what it takes.
        """
        taken = {name: value for name, value in inputs.items() if name in self._inputs}
        if not self.training:
            return self.student(**taken, labels=labels)
        context = {"labels": labels, "sample_ids": sample_ids, "progress": progress}
        measured = {"parameters": [p for p in self.student.parameters() if p.requires_grad]} if measure else {}
        if self.perturbation is None:
            return self._pass(taken, teacher, context | measured)
        with embedding_output(self.student) as embedded:
            first = self._pass(taken, teacher, context)
        assert embedded.value is not None
        perturbation = gradient_perturbation(first.total, embedded.value)
        self.stopwatch.lap("backward")
        with embedding_output(self.student, perturbation):
            return self._pass(taken, teacher, context | measured)

    def _pass(self, inputs: dict[str, Any], teacher: Activations | None, context: dict[str, Any]) -> ObjectiveOutput:
        needs, _ = self.objective.needs(context["progress"])
        with capture(self.student, needs) as recorder:
            outputs = self.student(**inputs)
            activations = recorder.activations(outputs, mask=inputs.get("attention_mask"))
        self.stopwatch.lap("forward")
        output = self.objective(activations, teacher, **context)
        self.stopwatch.lap("loss")
        return output


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
        objective: an `Objective` instead of a recipe.
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
        objective: Objective | None = None,
        log_gradients: bool = False,
        cache: TeacherCache | None = None,
        args: TrainingArguments,
        **arguments: Any,
    ) -> None:
        if (recipe is None) == (objective is None):
            raise KdzooError("give the DistillationTrainer a recipe or an objective, one of them")
        for name, value, kind in (
            ("model", model, nn.Module),
            ("teacher", teacher, nn.Module),
            ("objective", objective, Objective),
            ("cache", cache, TeacherCache),
        ):
            if value is not None and not isinstance(value, kind):
                wanted = "a model" if kind is nn.Module else f"a kdzoo {kind.__name__}"
                raise KdzooError(f"{name}= is {wanted}, got {type(value).__name__}")
        if isinstance(recipe, str):
            recipe = Recipe.load(recipe)
        self.recipe = recipe
        self.log_gradients = log_gradients
        if objective is None:
            assert recipe is not None
            objective = recipe.objective()
        needs_teacher = any(term.kind.needs_teacher for term in objective.terms)
        self.teacher = None if teacher is None or not needs_teacher else unwrap(teacher)
        train_dataset: Any = arguments.get("train_dataset")
        if args.n_gpu > 1:
            raise KdzooError(
                f"one process cannot distil on {args.n_gpu} GPUs; start one process a GPU with torchrun, or choose one "
                "with CUDA_VISIBLE_DEVICES"
            )
        if self.teacher is not None:
            _check_vocabularies(model, self.teacher)
        # The Trainer seeds too late for projections and banks.
        set_seed(args.seed)
        num_samples = len(train_dataset) if hasattr(train_dataset, "__len__") else None
        objective.bind(model, self.teacher, num_samples=num_samples)
        _check_columns(objective, train_dataset)
        if args.label_names is None:
            args.label_names = ["labels"]
        if args.ddp_broadcast_buffers is None:
            # Banks are updated alike in every process; sending them in each step would cost more than the step.
            args.ddp_broadcast_buffers = False
        perturbation = recipe.perturbation if recipe is not None else None
        self.stopwatch = Stopwatch(args.device)
        super().__init__(model=Distiller(model, objective, perturbation, self.stopwatch), args=args, **arguments)
        self.add_callback(_Laps(self.stopwatch))
        # The columns that the Trainer keeps.
        others = (*self.label_names, "label", "label_ids", "sample_ids", args.length_column_name)
        self._signature_columns = [*accepted_inputs(model), *others]
        if self.teacher is not None:
            self.teacher.requires_grad_(False).eval().to(self.args.device)
            self._teacher_inputs = accepted_inputs(self.teacher)
            self._signature_columns = [*self._signature_columns, *self._teacher_inputs]
        self._cache = cache
        self.teacher_rows: TeacherRows | None = None  # what the cache holds, from `train` on
        self.teacher_progress: Callable[[int, int], None] | None = None  # in place of a bar, while the cache is filled
        self._steps: list[tuple[int, ObjectiveOutput, Tensor | None]] = []
        self._gradients: list[dict[str, Tensor]] = []

    @property
    def student(self) -> PreTrainedModel:
        """The student, without what was wrapped around it."""
        return self.model.student

    @property
    def progress(self) -> float:
        """The fraction of the training steps done."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

    def train(self, *arguments: Any, **options: Any) -> Any:
        """Train; with a cache, the teacher runs over the training rows first, where it has not yet."""
        needs = self.model.objective.teacher_needs()
        if self._cache is not None and self.teacher is not None and needs is not None:
            with self._teacher_bar() as progress:
                self.teacher_rows = self._cache.open(
                    self.teacher,
                    self.train_dataset,
                    needs,
                    inputs=self._teacher_inputs,
                    collate=self.data_collator,
                    batch_size=self.args.eval_batch_size,
                    autocast=self.accelerator.autocast,
                    autocast_dtype=self.accelerator.mixed_precision.replace("no", ""),
                    progress=progress,
                )
            if self.teacher_rows is not None:
                self.teacher.to("cpu")  # which makes room: it has said all it is asked for
        trained = super().train(*arguments, **options)
        # A loss shows what the step before it made of the weights, and nothing follows the last.
        if not all(bool(parameter.isfinite().all()) for parameter in self.model.parameters()):
            raise DistillationFailure("the weights are not finite after the last step; take a lower learning rate")
        return trained

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
        output = model(**inputs, teacher=teacher, progress=self.progress, measure=self._measures())
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
        if self.teacher_rows is not None:
            return self.teacher_rows.activations(inputs["sample_ids"], inputs.get("attention_mask"), needs)
        taken = {name: value for name, value in inputs.items() if name in self._teacher_inputs}
        # no_grad and not inference_mode: losses save what they compare for their backward pass, which inference
        # tensors refuse.
        with torch.no_grad(), self.accelerator.autocast(), capture(self.teacher, needs) as recorder:
            return recorder.activations(self.teacher(**taken), mask=taken.get("attention_mask"))

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

    def _check_finite(self, steps: list[tuple[int, ObjectiveOutput, Tensor | None]]) -> None:
        if not steps or torch.stack([output.total for _, output, _ in steps]).isfinite().all():
            return
        step, output, ids = next(entry for entry in steps if not entry[1].total.isfinite())
        bad = {name: value.item() for name, value in output.terms.items() if not value.isfinite()}
        what = ", ".join(f"the term {name!r} is {value}" for name, value in bad.items()) or f"it is {output.total}"
        rows = "unknown rows" if ids is None else f"training rows {', '.join(str(row) for row in ids.tolist())}"
        folder = Path(str(self.args.output_dir))
        kept = get_last_checkpoint(folder) if folder.is_dir() else None
        checkpoint = f"the last checkpoint is {kept}" if kept else "no checkpoint had been written yet"
        raise DistillationFailure(f"the loss is not finite at step {step}: {what}; the batch held {rows}; {checkpoint}")

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A recipe's own learning-rate course where its stages name one."""
        own = self.lr_scheduler is None and self.recipe is not None
        scheduler = super().create_scheduler(num_training_steps, optimizer)
        spans = self.recipe.spans() if own and self.recipe is not None else []
        if any(stage.lr_scheduler for _, _, stage in spans):
            if not isinstance(scheduler, LambdaLR):
                raise KdzooError(
                    f"the recipe's stages set the learning rate, which lr_scheduler_type={self.args.lr_scheduler_type} "
                    "does not go with; take 'linear'"
                )
            warmup = self.args.get_warmup_steps(num_training_steps)
            course = _staged_rate(spans, num_training_steps, warmup, scheduler.lr_lambdas[0])
            self.lr_scheduler = LambdaLR(scheduler.optimizer, course)
        return self.lr_scheduler

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.args.train_sampling_strategy != "group_by_length" or not hasattr(dataset, "__len__"):
            return super()._get_train_sampler(train_dataset)
        names = getattr(dataset, "column_names", ())
        lengths = dataset[self.args.length_column_name] if self.args.length_column_name in names else None
        seed = self.args.data_seed if self.args.data_seed is not None else self.args.seed
        batch_size = self.args.train_batch_size * self.args.gradient_accumulation_steps
        lengths = None if lengths is None else list(lengths)
        return _SeededLengthSampler(batch_size, dataset, lengths=lengths, generator=torch.Generator(), seed=seed)

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        # In the rows' order, so that predictions come back in it, however the training rows are grouped.
        return SequentialSampler(eval_dataset) if self.args.world_size <= 1 else None

    def _save_checkpoint(self, *arguments: Any, **options: Any) -> None:
        self._check_finite(self._steps)
        super()._save_checkpoint(*arguments, **options)

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the student as a plain transformers model, with its tokenizer and a model card.

        The objective (projections, banks) goes into checkpoints alone.
        """
        folder = Path(str(output_dir or self.args.output_dir))
        if not self.args.should_save:
            return
        self.student.save_pretrained(folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if _internal_call:
            save_model(self.model.objective, str(folder / OBJECTIVE_FILE))
        else:
            (folder / "README.md").write_text(self._model_card(), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        with _resuming(folder, STUDENT_FILE):
            load_model(self.student, folder / STUDENT_FILE)
        with _resuming(folder, OBJECTIVE_FILE):
            load_model(self.model.objective, folder / OBJECTIVE_FILE)
        with _resuming(folder, TRAINER_STATE_NAME):
            TrainerState.load_from_json(str(folder / TRAINER_STATE_NAME))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        with _resuming(Path(checkpoint or ""), "optimizer.pt"):
            super()._load_optimizer_and_scheduler(checkpoint)

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _model_card(self) -> str:
        from huggingface_hub import ModelCard, ModelCardData

        title = self.recipe.name if self.recipe is not None else "an objective of its own"
        metrics = [entry for entry in self.state.log_history if any(key.startswith("eval_") for key in entry)]
        lines = [
            f"# {self.student.config.model_type} student distilled with {title}",
            f"{sum(p.numel() for p in self.student.parameters()) / 1e6:.1f} M parameters, "
            f"{self.state.global_step} training steps. It loads with `{auto_class(self.student).__name__}`.",
        ]
        if self.recipe is not None:
            citation = f"{self.recipe.citation}\n\n" if self.recipe.citation else ""
            lines.append(f"## Method\n\n{citation}```yaml\n{self.recipe.to_yaml()}```")
        if metrics:
            rows = [f"| {key} | {value:.4f} |" for key, value in metrics[-1].items() if isinstance(value, float)]
            lines.append("## Evaluation\n\n| | |\n|---|---|\n" + "\n".join(rows))
        data = ModelCardData(library_name="transformers", tags=["knowledge-distillation", "kdzoo"])
        return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"))


class _Laps(TrainerCallback):
    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._stopwatch.start()

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        self._stopwatch.lap("optimizer")


def _staged_rate(
    spans: list[tuple[float, float, Stage]], steps: int, warmup: int, course: Callable[[int], float]
) -> Callable[[int], float]:
    """The factor on the learning rate at a step: each stage's own course within its span, or the arguments'."""

    # A function and not an object: checkpoints would hold the object, and refuse to load it.
    def factor(step: int) -> float:
        if step < warmup:
            return step / warmup
        progress = step / max(steps, 1)
        start, end, stage = next((span for span in spans if progress < span[1]), spans[-1])
        if stage.lr_scheduler is None:
            return course(step)
        return 1.0 if stage.lr_scheduler == "constant" else max(0.0, (end - progress) / (end - start))

    return factor


class _SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that depends on the seed and the epoch alone."""

    def __init__(self, *arguments: Any, seed: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Any:
        self.generator.manual_seed(self._seed * 1_000_003 + self._epoch)
        return super().__iter__()


@contextmanager
def _resuming(folder: Path, name: str) -> Iterator[None]:
    """What goes wrong while a checkpoint's file is read, on one line that names it."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())
        raise KdzooError(f"checkpoint {folder} cannot be resumed: {name}: {reason}") from error


def accepted_inputs(model: PreTrainedModel) -> frozenset[str]:
    """The names of a model's tensor inputs, its labels left out."""
    return frozenset(inspect.signature(model.forward).parameters) - {"labels", "kwargs"}


def _check_vocabularies(student: PreTrainedModel, teacher: PreTrainedModel) -> None:
    sizes = student.config.vocab_size, teacher.config.vocab_size
    if sizes[0] != sizes[1]:
        raise KdzooError(
            f"the student's vocabulary has {sizes[0]} entries and the teacher's {sizes[1]}; both read the same tokens, "
            "so take a student made for the teacher's vocabulary (such as 4x312 or teacher:0,2)"
        )


def _check_columns(objective: Objective, dataset: Any) -> None:
    names = getattr(dataset, "column_names", None)
    if names is None:
        return
    for term in objective.terms:
        loss: Any = next(objective.losses[term.name].children())
        for need in sorted(loss.needs):
            if need not in names and not (need == "labels" and loss.token_labels):  # which the collator makes
                raise KdzooError(
                    f"the term {term.name!r} needs the column {need!r}; the training set has {', '.join(names)}"
                )
