"""General distillation: a pretrained encoder distilled on unlabelled text, before any task; ``kdzoo pretrain``."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from rich.console import Console
from transformers import PreTrainedModel, TrainerCallback

from kdzoo.bench.contents import contents_of
from kdzoo.bench.folder import Records
from kdzoo.bench.progress import progress
from kdzoo.bench.record import new_record
from kdzoo.bench.runs.budget import Budget, check_precision, total_steps, training_arguments
from kdzoo.bench.runs.text_rows import TextCollator, held_out, order_accuracy, with_order
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
from kdzoo.tasks.segments import ORDER_LABELS, Segments
from kdzoo.tasks.text import Text, packed
from kdzoo.training.accumulation import say_micro_batches
from kdzoo.training.agreement import accepted_inputs, check_vocabularies, evaluating
from kdzoo.training.trainer import DistillationTrainer

CHECKPOINTS = 10  # a run


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

    The folder then holds the student as a plain encoder (with a masked-language-model head, or with the heads of
    ALBERT's pretraining, where the recipe needs them), its tokenizer and ``record.json``.

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
        raise KdzooError(f"mlm_probability is {mlm_probability}; it must be between 0 and 1")
    labels = text_labels(recipe)
    if "order" in labels and not pack:
        raise KdzooError(
            "sop takes rows of several lines, and --no-pack keeps each line by itself; leave one of them out"
        )
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
    records.check_contents(contents_of(above, below, {}))
    if old is not None:
        return old
    tokenizer = above.tokenizer
    guide, model = _models(recipe, above, below, seed)
    check_vocabularies(model, guide)
    check_length(budget.max_length, tokenizer, guide, model)
    segments = Segments(tokenizer, seed) if "order" in labels else None
    collator = TextCollator(tokenizer, mlm_probability if "words" in labels else None, seed, segments)
    rows = packed(source, tokenizer, budget.max_length, folder / "text", pack=pack, segments=segments)
    rows, held = (rows, None) if segments is None else held_out(rows)
    check_on_text(recipe, model, guide, collator([rows[at] for at in range(min(2, len(rows)))]), len(rows))
    say_micro_batches(recipe.objective(), budget.gradient_accumulation, budget.batch_size)
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
        if segments is not None and held is not None:
            outcome["sentence_order"] = {
                "accuracy": order_accuracy(trainer.student, held, tokenizer, segments, 2 * budget.batch_size),
                "rows": len(held),
                "training_rows": len(with_order(rows)),
            }
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


def text_labels(recipe: Recipe) -> set[str]:
    """What a recipe predicts of text: ``"words"``, the ``"order"`` of segments, both or nothing."""
    said = (term.loss_class.text_labels for term in recipe.objective().terms)
    return {labels for labels in said if labels is not None}


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
        if "labels" in loss.needs and not loss.text_labels:
            raise KdzooError(
                f"{recipe.name} on text: the term {term.name!r} needs a task's labels, which text lacks; take a "
                "recipe with a general stage, or name losses that need none (such as hidden_mse + attention_mse + mlm)"
            )
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        for progress, _, _ in recipe.spans():
            taken: list[Activations | None] = []
            for model, needs in zip((student, teacher), objective.needs(progress), strict=True):
                if needs is None:
                    taken.append(None)
                    continue
                inputs = {name: value for name, value in batch.items() if name in accepted_inputs(model)}
                with evaluating(model), capture(model, needs) as recorder:
                    taken.append(recorder.activations(model(**inputs), mask=batch["attention_mask"]))
            assert taken[0] is not None
            told = {"labels": batch.get("labels"), "order": batch.get(ORDER_LABELS), "sample_ids": batch["sample_ids"]}
            try:
                objective(taken[0], taken[1], **told, progress=progress)
            except KdzooError as error:
                raise KdzooError(f"{recipe.name} on text: {error}") from None


def _models(
    recipe: Recipe, teacher: ModelSpec, student: ModelSpec, seed: int
) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Teacher and student, with a masked-language-model head where a loss compares or predicts words.

    Of a loss on the order of segments the student has a head of that too, as ALBERT and BERT have before a task.

    Raises:
        KdzooError: words are compared with a teacher that has no head for them, or there is no head on the order.
    """
    on_words = [term for term in recipe.objective().terms if term.feature == "logits"]
    head = "masked_lm" if on_words else "none"
    ordered = "order" in text_labels(recipe)
    if ordered and not on_words:
        raise KdzooError(
            f"{recipe.name} on text: sop is learned beside a loss on words, as in ALBERT; add mlm (such as "
            "hidden_mse + mlm + sop)"
        )
    compared = ", ".join(term.name for term in on_words if term.loss_class.needs_teacher)
    try:
        assert teacher.path is not None
        of_order = 2 if ordered else None
        guide = load_model(teacher.path, of_order, head=head, new_head=not compared, seed=seed)
    except MissingHead as error:
        raise KdzooError(f"{error}, and {compared} would compare what it predicts; leave {compared} out") from None
    made = make_student(student, guide, head="pretraining" if ordered else head, seed=seed)
    if ordered and student.teacher_layers is not None:  # whose layers are copied alone where the classes differ
        words = {
            name: value for name, value in guide.state_dict().items() if not name.startswith(guide.base_model_prefix)
        }
        made.load_state_dict(words, strict=False)
    return guide, made


def _last_losses(history: list[dict[str, Any]]) -> dict[str, float]:
    """The last logged value of each term, and of their total."""
    found: dict[str, float] = {}
    for entry in history:
        found |= {name: value for name, value in entry.items() if name == "loss" or name.startswith("loss/")}
    return found
