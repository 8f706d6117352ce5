"""The model card of a distilled student."""

from __future__ import annotations

from typing import Any

from kdzoo.models.heads import is_peft, savable, unwrap
from kdzoo.models.loading import auto_class
from kdzoo.objectives.recipe import Recipe
from kdzoo.tasks.source_target import FOLDER


def model_card(student: Any, recipe: Recipe | None, state: Any) -> str:
    """What a student is, how it was made and how well it does, in Markdown with the hub's header.

    Args:
        student: wrapped or not.
        recipe: the method, or None for an objective of one's own.
        state: the ``TrainerState``.
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
    metrics = [entry for entry in state.log_history if any(key.startswith("eval_") for key in entry)]
    lines = [
        f"# {inner.config.model_type} student distilled with {title}",
        f"{sum(p.numel() for p in inner.parameters()) / 1e6:.1f} M parameters, {state.global_step} training steps. "
        f"{loads}.",
    ]
    if recipe is not None:
        citation = f"{recipe.citation}\n\n" if recipe.citation else ""
        lines.append(f"## Method\n\n{citation}```yaml\n{recipe.to_yaml()}```")
    if metrics:
        rows = [f"| {key} | {value:.4f} |" for key, value in metrics[-1].items() if isinstance(value, float)]
        lines.append("## Evaluation\n\n| | |\n|---|---|\n" + "\n".join(rows))
    data = ModelCardData(library_name="transformers", tags=["knowledge-distillation", "kdzoo"])
    return str(ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n\n".join(lines) + "\n"))
