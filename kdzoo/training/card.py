"""The model card of a distilled student."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdzoo.models.heads import is_peft, savable, unwrap
from kdzoo.models.loading import auto_class
from kdzoo.objectives.recipe import Recipe, Training
from kdzoo.tasks.source_target import FOLDER

# Of a recipe's file, what is advice to whoever trains; what was done is said apart.
ADVICE: dict[str, Any] = {"training": Training(), "student": None, "general": None, "tunable": {}}


def model_card(student: Any, recipe: Recipe | None, state: Any, args: Any, kept: Mapping[str, Any]) -> str:
    """What a student is, how it was made and how well it does, in Markdown with the hub's header.

    Args:
        student: wrapped or not.
        recipe: the method, or None for an objective of one's own.
        state: the ``TrainerState``.
        args: the ``TrainingArguments``, which say what it was trained with.
        kept: of which ``step`` its weights are, where they are not the last, and of how many ``evaluations`` on how
            many ``held_out_rows`` they were the best; ``logged`` is how long the history was when they were put back.
    """
    from huggingface_hub import ModelCard, ModelCardData

    inner = unwrap(student)
    loads = f"It loads with `{auto_class(inner).__name__}`"
    if inner.config.model_type.startswith("kdzoo"):
        loads += " after `import kdzoo.models.representations`"
    if getattr(inner.config, "separate_targets", False):
        loads += f". What it writes is decoded by the tokenizer in `{FOLDER}`"
    if is_peft(savable(student)):
        loads = "It is a PEFT adapter: load the base model, and this with `peft.PeftModel.from_pretrained`"
    title = recipe.name if recipe is not None else "an objective of its own"
    last = f"; the weights are those of step {kept['step']}" if kept.get("step") is not None else ""
    if "held_out_rows" in kept:
        last += f", the best of {kept['evaluations']} on {kept['held_out_rows']} held-out training rows"
    metrics = [
        entry
        for place, entry in enumerate(state.log_history)
        if any(key.startswith("eval_") for key in entry)
        and (place >= kept.get("logged", 0) or entry.get("step") == kept["step"])
    ]
    lines = [
        f"# {inner.config.model_type} student distilled with {title}",
        f"{sum(p.numel() for p in inner.parameters()) / 1e6:.1f} M parameters, {state.global_step} training "
        f"steps{last}. {loads}.",
    ]
    if recipe is not None:
        citation = f"{recipe.citation}\n\n" if recipe.citation else ""
        done = recipe.model_copy(update=ADVICE).with_sources_of(recipe)
        lines.append(f"## Method\n\n{citation}```yaml\n{done.to_yaml()}```")
    if state.global_step:
        lines.append(_table("Training", _training(recipe, state, args)))
    if metrics:
        found = metrics[-1].items()
        scores = {key: f"{of:.4f}" for key, of in found if key.startswith("eval_") and isinstance(of, float)}
        lines.append(_table("Evaluation", scores))
    data = ModelCardData(library_name="transformers", tags=["knowledge-distillation", "kdzoo"])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"))


def _training(recipe: Recipe | None, state: Any, args: Any) -> dict[str, str]:
    """What it was trained with, by name."""
    staged = recipe is not None and any(stage.lr_scheduler for stage in recipe.stages)
    told: dict[str, Any] = {
        "learning rate": args.learning_rate,
        "schedule": args.lr_scheduler_type.value + (" where a stage has none of its own" if staged else ""),
        "warm-up steps": args.get_warmup_steps(state.max_steps),
        "epochs": state.epoch,
        "batch size": args.per_device_train_batch_size,
        "gradient accumulation": args.gradient_accumulation_steps,
        "processes": args.world_size,
        "weight decay": args.weight_decay,
        "largest gradient norm": args.max_grad_norm,
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "seed": args.seed,
    }
    usual = {"epochs": None, "gradient accumulation": 1, "processes": 1}
    left = {name: value for name, value in told.items() if name not in usual or value != usual[name]}
    return {name: f"{value:.6g}" if isinstance(value, float) else str(value) for name, value in left.items()}


def _table(title: str, rows: Mapping[str, str]) -> str:
    return f"## {title}\n\n| | |\n|---|---|\n" + "\n".join(f"| {name} | {told} |" for name, told in rows.items())
