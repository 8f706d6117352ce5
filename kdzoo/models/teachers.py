"""The teachers of a comparison: loaded from a folder or the hub, or fresh from a size."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import BertConfig, BertForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from kdzoo.errors import KdzooError
from kdzoo.models.building import POSITIONS, most_heads
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.heads import longest_row
from kdzoo.models.spec import ModelSpec

if TYPE_CHECKING:
    from kdzoo.tasks import Task


def model_of_size(size: str | ModelSpec, *, positions: int, num_labels: int, vocabulary: int = 30522) -> Any:
    """A BERT with fresh weights in evaluation mode, to measure with, by default of 12 heads or the next fewer that fit.

    Raises:
        KdzooError: when ``size`` is none.
    """
    spec = ModelSpec.parse(size)
    if spec.layers is None or spec.width is None:
        raise KdzooError(f"{spec.text!r} is no size; give one such as 4x312 or 4x312,heads=12,ffn=1200")
    head: dict[str, Any] = {"num_labels": num_labels}  # a field of the base class, which the type checker does not see
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=spec.heads or most_heads(spec.width, 12),
        intermediate_size=spec.feed_forward or 4 * spec.width,
        max_position_embeddings=max(positions, 8),
        **head,
    )
    return BertForSequenceClassification(config).eval()


def make_teacher(
    teacher: str | ModelSpec,
    tokenizer: PreTrainedTokenizerBase | None,
    task: Task,
    seed: int = 0,
    *,
    positions: int = POSITIONS,
) -> PreTrainedModel:
    """A teacher with a head for a task, its weights loaded, or drawn where it is a size.

    A head whose labels have the task's names in another order (its ``id2label``) is put into the task's.

    Args:
        teacher: see `kdzoo.models.spec.ModelSpec.parse`.
        tokenizer: whose tokens a teacher of a size reads; of no account for others.
        task: whose head it has.
        seed: for new weights.
        positions: the most tokens a row of a teacher of a size has.

    Raises:
        KdzooError: it cannot be loaded, or its labels have other names than the task's.
    """
    model: PreTrainedModel = ModelSpec.parse(teacher).build(task, tokenizer=tokenizer, seed=seed, positions=positions)
    return model


def check_length(max_length: int, tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel) -> None:
    """Refuse rows longer than a model has positions for.

    Raises:
        KdzooError: names both numbers.
    """
    most = min(tokenizer.model_max_length, *(longest_row(model) or max_length for model in models))
    if max_length > most:
        raise KdzooError(f"max_length is {max_length}; the model takes at most {most} tokens")


def every_other_layer(teacher: ModelSpec) -> ModelSpec:
    """The student made of every other layer of a teacher, its top one among them, as DistilBERT starts.

    Raises:
        KdzooError: when the teacher's configuration cannot be loaded.
    """
    chosen = _every_other(teacher.num_layers)
    sizes = decoder_sizes(teacher.config) if teacher.path is not None else None
    below = teacher.decoder if sizes is None else sizes[0]
    return ModelSpec.parse(f"teacher:{chosen}" + (f"/{_every_other(below)}" if below is not None else ""))


def _every_other(depth: int) -> str:
    return ",".join(str(layer) for layer in range((depth - 1) % 2, depth, 2))
