"""Distiller: a student and its objective as one module, and what a forward pass of both does."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from kdzoo.models.activations import Activations, capture
from kdzoo.models.attention import attention_kept
from kdzoo.models.decoders import teacher_forced
from kdzoo.models.embedding import embedding_output
from kdzoo.models.heads import is_peft, positions, savable, unwrap
from kdzoo.objectives.objective import Objective, ObjectiveOutput
from kdzoo.objectives.recipe import Perturbation
from kdzoo.training.agreement import accepted_inputs, check_length
from kdzoo.training.labels import Labels, label_names
from kdzoo.training.perturbation import gradient_perturbation
from kdzoo.training.stopwatch import Stopwatch


class Distiller(nn.Module):
    """A student and the objective it is trained on, as one module, so that both are optimised and synchronised.

    In training mode a forward pass gives the objective's output; in evaluation mode the student's own.
    """

    accepts_loss_kwargs = False

    def __init__(
        self,
        student: PreTrainedModel,
        objective: Objective,
        perturbation: Perturbation | None = None,
        stopwatch: Stopwatch | None = None,
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.perturbation = perturbation
        self.stopwatch = stopwatch or Stopwatch(torch.device("cpu"))
        self.loss_scaler: Any = None  # the GradScaler, in half precision that has one
        self._inputs = accepted_inputs(student)
        self._most = positions(student)
        # PEFT's adapters are inside of what it wraps, whose inputs its own forward function need not name.
        self._runs = (unwrap(student) if is_peft(savable(student)) else student,)  # in a tuple: not a second child

    @property
    def config(self) -> Any:
        """The student's config; the Trainer looks for one."""
        return unwrap(self.student).config

    def get_input_embeddings(self) -> nn.Module:
        """The student's; NEFTune puts its noise there."""
        return unwrap(self.student).get_input_embeddings()

    def activation_checkpointing_enable(self, **options: Any) -> None:
        """Pass on to the student what the Trainer asks of a model."""
        unwrap(self.student).activation_checkpointing_enable(**options)

    def gradient_checkpointing_enable(self, **options: Any) -> None:
        """The same by the name that the Trainer used before transformers 5.23."""
        unwrap(self.student).gradient_checkpointing_enable(**options)

    def forward(
        self,
        *,
        teacher: Activations | None = None,
        progress: float = 0.0,
        epoch: int | None = None,
        sample_ids: Tensor | None = None,
        measure: bool = False,
        shares: dict[str, Tensor] | None = None,
        micro_batches: int = 1,
        **inputs: Any,
    ) -> Any:
        """The objective's output on a batch when training, else the student's.

        Args:
            teacher: what the teacher exposed of this batch.
            progress: fraction of the training done.
            epoch: which pass over the rows this is, from 0.
            sample_ids: (B,) indices in the training set.
            measure: measure the terms' gradients too.
            shares: what this micro-batch weighs in its step (`kdzoo.training.accumulation`).
            micro_batches: how many batches the update is made of.
            inputs: the batch, with its labels; the student is given what it takes.
        """
        taken = {name: value for name, value in inputs.items() if name in self._inputs}
        if not self.training:
            own = {name: inputs[name] for name in label_names(self.student) if name in inputs}
            with attention_kept(unwrap(self.student)):
                return self._runs[0](**taken, **own)
        check_length("the student", self._most, taken)
        labels = Labels.of(self.student, inputs)
        taken = teacher_forced(self.student, taken, labels.values)
        context = {"labels": labels, "sample_ids": sample_ids, "progress": progress, "epoch": epoch, "shares": shares}
        measured = {"parameters": [p for p in self.student.parameters() if p.requires_grad]} if measure else {}
        if self.perturbation is None:
            return self._pass(taken, teacher, context | measured)
        with embedding_output(self.student) as embedded:
            first = self._pass(taken, teacher, context)
        assert embedded.value is not None
        loss = first.total if self.loss_scaler is None else self.loss_scaler.scale(first.total)
        # One norm over the micro-batches of an update: each gets an equal share of its square.
        share = micro_batches**-0.5 if self.perturbation.norm == "tensor" else 1.0
        perturbation = gradient_perturbation(
            loss, embedded.value, norm=self.perturbation.norm, epsilon=self.perturbation.epsilon * share
        )
        self.stopwatch.lap("backward")
        with embedding_output(self.student, perturbation):
            return self._pass(taken, teacher, context | measured)

    def _pass(self, inputs: dict[str, Any], teacher: Activations | None, context: dict[str, Any]) -> ObjectiveOutput:
        needs, _ = self.objective.needs(context["progress"])
        with capture(self._runs[0], needs) as recorder:
            outputs = self._runs[0](**inputs)
            activations = recorder.activations(outputs, mask=inputs.get("attention_mask"))
        self.stopwatch.lap("forward")
        labels = context["labels"]
        told = context | {
            "labels": labels.values,
            "counted": labels.counted,
            "order": labels.order,
            "lists": labels.lists,
        }
        output = self.objective(labels.read(activations), labels.read(teacher), **told)
        self.stopwatch.lap("loss")
        return output
