"""DistillationTrainer: transformers' Trainer with a teacher and an objective."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import SequentialSampler
from transformers import PreTrainedModel, Trainer, TrainingArguments
from transformers.trainer_pt_utils import LengthGroupedSampler

from kdzoo.activations import Activations, capture, embedding_output, unwrap
from kdzoo.errors import DistillationFailure, KdzooError
from kdzoo.lrc import gradient_perturbation
from kdzoo.objective import Objective, ObjectiveOutput
from kdzoo.recipe import Recipe, Stage

OBJECTIVE_FILE = "objective.safetensors"
STUDENT_FILE = "model.safetensors"


class Distiller(nn.Module):
    """A student and the objective it is trained on, as one module, so that both are optimised and synchronised.

    In training mode a forward pass gives the objective's output; in evaluation mode the student's own.
    """

    accepts_loss_kwargs = False

    def __init__(self, student: PreTrainedModel, objective: Objective, perturbation: str | None = None) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.perturbation = perturbation
        self._inputs = accepted_inputs(student)

    @property
    def config(self) -> Any:
        """The student's config; the Trainer looks for one."""
        return self.student.config

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """Pass on to the student what the Trainer asks of a model."""
        self.student.gradient_checkpointing_enable(**options)

    def forward(
        self,
        *,
        teacher: Activations | None = None,
        progress: float = 0.0,
        labels: Tensor | None = None,
        sample_ids: Tensor | None = None,
        **inputs: Any,
    ) -> Any:
        """The objective's output on a batch when training, else the student's.

        Args:
            teacher: what the teacher exposed of this batch.
            progress: fraction of the training done.
            labels: (B,).
            sample_ids: (B,) indices in the training set.
            inputs: the batch; the student is given what it takes.
        """
        taken = {name: value for name, value in inputs.items() if name in self._inputs}
        if not self.training:
            return self.student(**taken, labels=labels)
        context = {"labels": labels, "sample_ids": sample_ids, "progress": progress}
        if self.perturbation is None:
            return self._pass(taken, teacher, context)
        with embedding_output(self.student) as embedded:
            first = self._pass(taken, teacher, context)
        assert embedded.value is not None
        with embedding_output(self.student, gradient_perturbation(first.total, embedded.value)):
            return self._pass(taken, teacher, context)

    def _pass(self, inputs: dict[str, Any], teacher: Activations | None, context: dict[str, Any]) -> ObjectiveOutput:
        needs, _ = self.objective.needs(context["progress"])
        with capture(self.student, needs) as recorder:
            outputs = self.student(**inputs)
            activations = recorder.activations(outputs, mask=inputs.get("attention_mask"))
        return self.objective(activations, teacher, **context)


class DistillationTrainer(Trainer):
    """Trains a student from a teacher by a recipe or an objective; all else is ``transformers.Trainer``.

    The training set's rows hold the models' inputs, ``labels`` and, for losses that keep a bank, ``sample_ids`` (the
    row's index). Columns that one of the models does not take are kept for the other. With
    ``train_sampling_strategy="group_by_length"`` the order of the rows depends on ``data_seed`` (or ``seed``) and
    the epoch alone, so that it is the same for every method and after a resume.

    ``save_model`` writes the student as a plain transformers model; checkpoints hold the objective beside it.

    Args:
        model: the student.
        teacher: a model for the same task; None when nothing of the objective needs one.
        recipe: a :class:`~kdzoo.recipe.Recipe`, or the name of one or a YAML file.
        objective: an :class:`~kdzoo.objective.Objective` instead of a recipe.
        args: ``transformers.TrainingArguments``.
        arguments: everything else that ``transformers.Trainer`` takes.

    Raises:
        KdzooError: for models, data and objective that do not go together; before any training.
        DistillationFailure: from ``train``, when the loss becomes NaN or infinite; the last checkpoint is kept.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        teacher: PreTrainedModel | None = None,
        *,
        recipe: Recipe | str | None = None,
        objective: Objective | None = None,
        args: TrainingArguments,
        **arguments: Any,
    ) -> None:
        if (recipe is None) == (objective is None):
            raise KdzooError("give the DistillationTrainer a recipe or an objective, one of them")
        if isinstance(recipe, str):
            recipe = Recipe.load(recipe)
        self.recipe = recipe
        if objective is None:
            assert recipe is not None
            objective = recipe.objective()
        needs_teacher = any(term.kind.needs_teacher for term in objective.terms)
        self.teacher = None if teacher is None or not needs_teacher else unwrap(teacher)
        train_dataset = arguments.get("train_dataset")
        if self.teacher is not None:
            _check_vocabularies(model, self.teacher)
        objective.bind(model, self.teacher, num_samples=None if train_dataset is None else len(train_dataset))
        _check_columns(objective, train_dataset)
        args.remove_unused_columns = False
        if args.label_names is None:
            args.label_names = ["labels"]
        if args.ddp_broadcast_buffers is None:
            # Banks are updated alike in every process; sending them in each step would cost more than the step.
            args.ddp_broadcast_buffers = False
        perturbation = recipe.perturbation if recipe is not None else None
        super().__init__(model=Distiller(model, objective, perturbation), args=args, **arguments)
        if self.teacher is not None:
            self.teacher.requires_grad_(False).eval().to(self.args.device)
            self._teacher_inputs = accepted_inputs(self.teacher)
        self.seconds = {"teacher": 0.0, "student": 0.0}
        self._steps: list[tuple[int, ObjectiveOutput, Tensor | None]] = []

    @property
    def student(self) -> PreTrainedModel:
        """The student, without what was wrapped around it."""
        return self.model.student

    @property
    def progress(self) -> float:
        """The fraction of the training steps done."""
        return self.state.global_step / self.state.max_steps if self.state.max_steps > 0 else 0.0

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
        start = time.perf_counter()
        teacher = self._run_teacher(inputs)
        between = time.perf_counter()
        output = model(**inputs, teacher=teacher, progress=self.progress)
        self.seconds["teacher"] += between - start
        self.seconds["student"] += time.perf_counter() - between
        ids = inputs.get("sample_ids")
        self._steps.append((self.state.global_step + 1, ObjectiveOutput(output.total.detach(), output.terms), ids))
        if output.total.device.type == "cpu":
            self._check_finite(self._steps[-1:])
        return (output.total, output) if return_outputs else output.total

    def _run_teacher(self, inputs: Mapping[str, Any]) -> Activations | None:
        _, needs = self.model.objective.needs(self.progress)
        if self.teacher is None or needs is None:
            return None
        taken = {name: value for name, value in inputs.items() if name in self._teacher_inputs}
        # no_grad and not inference_mode: losses save what they compare for their backward pass, which inference
        # tensors refuse.
        with torch.no_grad(), self.accelerator.autocast(), capture(self.teacher, needs) as recorder:
            return recorder.activations(self.teacher(**taken), mask=taken.get("attention_mask"))

    def log(self, logs: dict[str, float], *arguments: Any, **options: Any) -> None:
        """Add each term's mean since the last log."""
        if "loss" in logs and self._steps:
            self._check_finite(self._steps)
            sums: dict[str, list[Tensor]] = {}
            for _, output, _ in self._steps:
                for name, value in output.terms.items():
                    sums.setdefault(name, []).append(value)
            logs = logs | {f"loss/{name}": torch.stack(values).mean().item() for name, values in sums.items()}
            self._steps.clear()
        super().log(logs, *arguments, **options)

    def _check_finite(self, steps: list[tuple[int, ObjectiveOutput, Tensor | None]]) -> None:
        if not steps or torch.stack([output.total for _, output, _ in steps]).isfinite().all():
            return
        step, output, ids = next(entry for entry in steps if not entry[1].total.isfinite())
        bad = {name: value.item() for name, value in output.terms.items() if not value.isfinite()}
        what = ", ".join(f"the term {name!r} is {value}" for name, value in bad.items()) or f"it is {output.total}"
        rows = "unknown rows" if ids is None else f"training rows {', '.join(str(row) for row in ids.tolist())}"
        kept = sorted(Path(self.args.output_dir).glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[-1]))
        checkpoint = f"the last checkpoint is {kept[-1]}" if kept else "no checkpoint had been written yet"
        raise DistillationFailure(
            f"the loss is not finite at step {step}: {what}; the batch held {rows}; {checkpoint}"
        )

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """A recipe's own learning-rate course where its stages name one."""
        spans = self.recipe.spans() if self.recipe is not None else []
        if self.lr_scheduler is None and any(stage.lr_scheduler for _, _, stage in spans):
            warmup = self.args.get_warmup_steps(num_training_steps)
            factor = _StagedRate(spans, num_training_steps, warmup)
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, factor)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset = self.train_dataset if train_dataset is None else train_dataset
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
        folder = Path(output_dir or self.args.output_dir)
        if not self.args.should_save:
            return
        self.student.save_pretrained(folder)
        if self.processing_class is not None:
            self.processing_class.save_pretrained(folder)
        if _internal_call:
            state = {name: value.contiguous() for name, value in self.model.objective.state_dict().items()}
            save_file(state, folder / OBJECTIVE_FILE)
        else:
            (folder / "README.md").write_text(self._model_card(), encoding="utf-8")

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        folder = Path(resume_from_checkpoint)
        for name, module in ((STUDENT_FILE, self.student), (OBJECTIVE_FILE, self.model.objective)):
            try:
                module.load_state_dict(load_file(folder / name))
            except Exception as error:
                reason = " ".join(str(error).split())
                raise KdzooError(f"checkpoint {folder} cannot be resumed: {name}: {reason}") from error

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))

    def _model_card(self) -> str:
        from huggingface_hub import ModelCard, ModelCardData

        title = self.recipe.name if self.recipe is not None else "an objective of its own"
        metrics = [entry for entry in self.state.log_history if any(key.startswith("eval_") for key in entry)]
        lines = [
            f"# {self.student.config.model_type} student distilled with {title}",
            f"{sum(p.numel() for p in self.student.parameters()) / 1e6:.1f} M parameters, "
            f"{self.state.global_step} training steps. It loads with `AutoModelForSequenceClassification`.",
        ]
        if self.recipe is not None:
            citation = f"{self.recipe.citation}\n\n" if self.recipe.citation else ""
            lines.append(f"## Method\n\n{citation}```yaml\n{self.recipe.to_yaml()}```")
        if metrics:
            rows = [f"| {key} | {value:.4f} |" for key, value in metrics[-1].items() if isinstance(value, float)]
            lines.append("## Evaluation\n\n| | |\n|---|---|\n" + "\n".join(rows))
        data = ModelCardData(library_name="transformers", tags=["knowledge-distillation", "kdzoo"])
        return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"))


class _StagedRate:
    """The factor on the learning rate at a step: each stage's own course within its span."""

    def __init__(self, spans: list[tuple[float, float, Stage]], steps: int, warmup: int) -> None:
        self._spans = spans
        self._steps = steps
        self._warmup = warmup

    def __call__(self, step: int) -> float:
        if step < self._warmup:
            return step / self._warmup
        progress = step / max(self._steps, 1)
        start, end, stage = next((span for span in self._spans if progress < span[1]), self._spans[-1])
        if stage.lr_scheduler == "constant":
            return 1.0
        if stage.lr_scheduler is None:
            start, end = 0.0, 1.0
        return max(0.0, (end - progress) / (end - start))


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
        for need in sorted(objective.losses[term.name][0].needs):
            if need not in names:
                raise KdzooError(
                    f"the term {term.name!r} needs the column {need!r}; the training set has {', '.join(names)}"
                )
