"""General distillation: a pretrained encoder distilled on unlabelled text, before any task; ``kdzoo pretrain``."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import (
    DataCollatorForLanguageModeling,
    DataCollatorWithPadding,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    TrainerCallback,
)

from kdzoo.bench.folder import Records
from kdzoo.bench.progress import progress
from kdzoo.bench.record import new_record
from kdzoo.bench.runs.budget import Budget, check_precision, total_steps, training_arguments
from kdzoo.bench.runs.train import last_checkpoint, quiet, silent_trainer
from kdzoo.bench.timing import peak_memory, reset_peak_memory
from kdzoo.distributed import launched
from kdzoo.errors import KdzooError
from kdzoo.models.activations import Activations, capture
from kdzoo.models.loading import MissingHead, load_model
from kdzoo.models.spec import ModelSpec
from kdzoo.models.students import make_student
from kdzoo.models.teachers import check_length
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.text import Text, packed
from kdzoo.training.agreement import accepted_inputs, check_vocabularies
from kdzoo.training.trainer import DistillationTrainer

CHECKPOINTS = 10  # a run


class TextCollator:
    """Makes a padded batch of rows of text, with words masked where asked.

    Which words are masked depends on the seed, the epoch and the batch's rows alone, so that a resumed run masks the
    same ones.

    Args:
        tokenizer: the models'.
        mlm_probability: the share of tokens to predict, of which BERT masks 80 %, exchanges 10 % and leaves 10 %; None
            masks nothing.
        seed: of the masks.

    Raises:
        KdzooError: for a tokenizer without a mask token.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, mlm_probability: float | None, seed: int) -> None:
        self.seed = seed
        self.epoch = 0
        self._masking: DataCollatorForLanguageModeling | None = None
        self._collate: Callable[[list[dict[str, Any]]], Any] = DataCollatorWithPadding(tokenizer)
        if mlm_probability is not None:
            if tokenizer.mask_token is None:
                raise KdzooError("the teacher's tokenizer has no mask token, so no words can be masked for mlm")
            self._masking = DataCollatorForLanguageModeling(tokenizer, mlm_probability=mlm_probability, seed=seed)
            self._collate = self._masking

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """``input_ids``, ``attention_mask`` and ``labels`` (B, S), ``sample_ids`` (B,)."""
        if self._masking is not None:
            place = f"{self.seed} {self.epoch} {rows[0]['sample_ids']}".encode()
            seed = int.from_bytes(hashlib.sha256(place).digest()[:7], "little")
            self._masking.generator = torch.Generator().manual_seed(seed)
        return dict(self._collate([{name: row[name] for name in ("input_ids", "sample_ids")} for row in rows]))


class _Watch(TrainerCallback):
    """Tells the collator the epoch, and the progress bar the step."""

    def __init__(self, collator: TextCollator, progress: Callable[[int, int], None]) -> None:
        self._collator, self._progress = collator, progress

    def on_epoch_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._collator.epoch = int((state.epoch or 0) + 1e-6)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._progress(state.global_step, state.max_steps)


def pretrain(
    *,
    recipe: Recipe,
    text: Sequence[str | Path],
    teacher: str,
    student: str,
    budget: Budget,
    folder: Path,
    console: Console,
    steps: int | None = None,
    pack: bool = True,
    text_column: str = "text",
    mlm_probability: float = 0.15,
    seed: int = 0,
) -> dict[str, Any]:
    """Distil an encoder on text, with ten checkpoints a run; the same call goes on from the last one.

    Of several processes, as ``torchrun`` starts them, the first one writes.

    The folder then holds the student as a plain encoder (with a masked-language-model head where the recipe needs
    one), its tokenizer and ``record.json``.

    Args:
        recipe: how to train; none of its losses may need a task's labels.
        text: see `kdzoo.tasks.text.Text`.
        teacher: a pretrained model's folder or hub name.
        student: see `kdzoo.models.spec.ModelSpec.parse`.
        budget: how long and how fast.
        folder: where the student goes.
        console: where progress is shown.
        steps: updates, instead of the budget's epochs.
        pack: fill rows with several lines; see `kdzoo.tasks.text.packed`.
        text_column: of a datasets folder.
        mlm_probability: the share of tokens to predict, where a loss does that.
        seed: of the student's new weights, of dropout, of the masks and of the order of the rows.

    Returns:
        The record.

    Raises:
        KdzooError: for anything that cannot work, before training.
        DistillationFailure: when the loss becomes NaN or infinite.
    """
    quiet()
    check_precision(budget)
    above, below = ModelSpec.parse(teacher), ModelSpec.parse(student)
    if above.is_size:
        raise KdzooError(f"a teacher of size {teacher} has learned nothing yet; name a pretrained model")
    if not 0 < mlm_probability < 1:
        raise KdzooError(f"mlm_probability is {mlm_probability}; it lies between 0 and 1")
    source = Text(text, column=text_column)
    configuration = {
        "recipe": recipe.model_dump(mode="json", exclude_defaults=True, exclude={"sources"}),
        "text": source.sha256(),
        "teacher": teacher,
        "student": student,
        "budget": budget.model_dump(mode="json"),
        "steps": steps,
        "pack": pack,
        "mlm_probability": mlm_probability,
        "seed": seed,
    }
    records, old = Records.of_model(folder, configuration)
    if old is not None:
        return old
    tokenizer = above.tokenizer
    guide, model = _models(recipe, above, below, seed)
    check_vocabularies(model, guide)
    check_length(budget.max_length, tokenizer, guide, model)
    masked = any(term.loss_class.token_labels for term in recipe.objective().terms)
    collator = TextCollator(tokenizer, mlm_probability if masked else None, seed)
    rows = packed(source, tokenizer, budget.max_length, folder / "text", pack=pack)
    check_on_text(recipe, model, guide, collator([rows[at] for at in range(min(2, len(rows)))]), len(rows))
    total = steps or total_steps(budget, len(rows))
    arguments = training_arguments(
        budget, total, seed, folder, max_steps=total, save_strategy="steps", save_steps=max(1, total // CHECKPOINTS)
    )
    first = launched()[0] == 0
    claim = records.claimed() if first else nullcontext()
    with claim, progress(console, f"{recipe.name} on text", total) as progressed:
        trainer = silent_trainer(
            model=model,
            teacher=guide,
            recipe=recipe,
            args=arguments,
            train_dataset=rows,
            data_collator=collator,
            processing_class=tokenizer,
            callbacks=[_Watch(collator, progressed)],
        )
        reset_peak_memory()
        checkpoint, resumed = last_checkpoint(folder)
        ran = trainer.train(resume_from_checkpoint=checkpoint).metrics
        trainer.save_model(str(folder))
        outcome = _outcome(trainer, rows, trainer.state.global_step - resumed, float(ran["train_runtime"]))
        record = new_record(configuration, **outcome)
        if first:
            records.write(records.model, record)
            shutil.rmtree(folder / "text", ignore_errors=True)
    return record


def _outcome(trainer: DistillationTrainer, rows: Dataset, done: int, seconds: float) -> dict[str, Any]:
    """What a training gave that took so many steps and seconds in this process."""
    args, history, tokens = trainer.args, trainer.state.log_history, int(sum(rows["length"]))
    seen = done * args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
    return {
        "rows": len(rows),
        "tokens": tokens,
        "steps": trainer.state.global_step,
        "losses": _last_losses(history),
        "samples_per_second": seen / seconds,
        "tokens_per_second": seen / seconds * tokens / len(rows),
        "train_seconds": seconds,
        "step_seconds": {part: spent / max(done, 1) for part, spent in trainer.stopwatch.seconds.items()},
        "parameters": sum(parameter.numel() for parameter in trainer.student.parameters()),
        "loss_parameters": sum(parameter.numel() for parameter in trainer.model.objective.parameters()),
        "peak_memory": peak_memory(),
        "history": history,
    }


def check_on_text(
    recipe: Recipe, student: PreTrainedModel, teacher: PreTrainedModel, batch: dict[str, torch.Tensor], rows: int
) -> None:
    """Refuse a recipe that cannot work on text, by trying it on a batch.

    Args:
        recipe: how to train.
        student, teacher: the models.
        batch: of `TextCollator`.
        rows: how many there are in all.

    Raises:
        KdzooError: names the term and the reason.
    """
    objective = recipe.objective().bind(student, teacher, num_samples=rows)
    for term in objective.terms:
        loss: Any = next(objective.losses[term.name].children())
        if "labels" in loss.needs and not loss.token_labels:
            raise KdzooError(
                f"{recipe.name} on text: the term {term.name!r} needs a task's labels, which text has not; take a "
                "recipe with a general stage, or name losses that do without (such as hidden_mse + attention_mse + mlm)"
            )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for progress, _, _ in recipe.spans():
            taken: list[Activations | None] = []
            for model, needs in zip((student, teacher), objective.needs(progress), strict=True):
                if needs is None:
                    taken.append(None)
                    continue
                inputs = {name: value for name, value in batch.items() if name in accepted_inputs(model)}
                with capture(model, needs) as recorder:
                    taken.append(recorder.activations(model(**inputs), mask=batch["attention_mask"]))
            assert taken[0] is not None
            labels, ids = batch.get("labels"), batch["sample_ids"]
            try:
                objective(taken[0], taken[1], labels=labels, sample_ids=ids, progress=progress)
            except KdzooError as error:
                raise KdzooError(f"{recipe.name} on text: {error}") from None


def _models(
    recipe: Recipe, teacher: ModelSpec, student: ModelSpec, seed: int
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Teacher and student, with a masked-language-model head where a loss compares or predicts words."""
    on_words = [term for term in recipe.objective().terms if term.feature == "logits"]
    head = "masked_lm" if on_words else "none"
    compared = ", ".join(term.name for term in on_words if term.loss_class.needs_teacher)
    try:
        assert teacher.path is not None
        guide = load_model(teacher.path, head=head, new_head=not compared, seed=seed)
    except MissingHead as error:
        raise KdzooError(f"{error}, whose words {compared} would compare; leave that out") from None
    return guide, make_student(student, guide, head=head, seed=seed)


def _last_losses(history: list[dict[str, Any]]) -> dict[str, float]:
    """The last logged value of each term, and of their total."""
    found: dict[str, float] = {}
    for entry in history:
        found |= {name: value for name, value in entry.items() if name == "loss" or name.startswith("loss/")}
    return found
