"""The teachers of a comparison and their tokenizers: loaded from a folder or the hub, or fresh from a size."""

from __future__ import annotations

from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from kdzoo.errors import KdzooError
from kdzoo.models.heads import num_layers
from kdzoo.models.students import load_model, parse_student, why_not
from kdzoo.tasks import Task

POSITIONS = 128  # of a teacher made from a size; its synthetic sentences are far shorter


def is_size(teacher: str) -> bool:
    """Whether a teacher is named by a size such as ``4x128``, to be trained from scratch."""
    return parse_student(teacher).layers is not None


def model_of_size(size: str, *, positions: int, num_labels: int, vocabulary: int = 30522) -> Any:
    """A BERT with fresh weights in evaluation mode, to measure with.

    Raises:
        KdzooError: when ``size`` is none.
    """
    spec = parse_student(size)
    if spec.layers is None or spec.width is None:
        raise KdzooError(f"{size!r} is no size; give one such as 4x312 or 4x312,heads=12,ffn=1200")
    head: dict[str, Any] = {"num_labels": num_labels}  # a field of the base class, which the type checker does not see
    config = BertConfig(
        vocab_size=vocabulary,
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=spec.heads or 12,
        intermediate_size=spec.feed_forward or 4 * spec.width,
        max_position_embeddings=max(positions, 8),
        **head,
    )
    return BertForSequenceClassification(config).eval()


def load_tokenizer(teacher: str, data: str) -> PreTrainedTokenizerBase:
    """The tokenizer of a teacher; for one from a size, that of the synthetic sentences.

    Raises:
        KdzooError: when there is none.
    """
    if is_size(teacher):
        if data != "synthetic":
            raise KdzooError(
                f"a teacher from a size ({teacher}) reads the synthetic sentences only; for --data {data} name a "
                "pretrained model's folder or hub name as the --teacher"
            )
        from kdzoo.tasks.synthetic.grammar import synthetic_tokenizer

        return synthetic_tokenizer()
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(teacher)
    except (OSError, ValueError) as error:
        raise KdzooError(f"no tokenizer at {teacher!r}: {why_not(teacher, error)}") from None
    return tokenizer


def make_teacher(teacher: str, tokenizer: PreTrainedTokenizerBase, task: Task, seed: int = 0) -> PreTrainedModel:
    """A teacher with a head for a task, its weights loaded, or drawn where it is a size.

    Raises:
        KdzooError: when it cannot be loaded.
    """
    if is_size(teacher):
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(seed)
            return BertForSequenceClassification(_fresh_config(teacher, tokenizer, task))
    model: PreTrainedModel = load_model(teacher, task.num_labels, seed=seed)
    for name, value in task.head().items():
        setattr(model.config, name, value)
    return model


def build_on_meta(teacher: str, tokenizer: PreTrainedTokenizerBase, task: Task) -> PreTrainedModel:
    """The same teacher without weights, for checks.

    Raises:
        KdzooError: when its configuration cannot be loaded, or its head is for another number of labels.
    """
    if is_size(teacher):
        config: Any = _fresh_config(teacher, tokenizer, task)
    else:
        config = _config(teacher)
        if _has_head(config) and config.num_labels != task.num_labels:
            raise KdzooError(
                f"the teacher {teacher!r} has a head for {config.num_labels} labels and {task.name} has "
                f"{task.num_labels}; take one fine-tuned on {task.name}, or a pretrained one without a head"
            )
        config.num_labels = task.num_labels
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForSequenceClassification.from_config(config)
    return model


def check_head(teacher: str) -> None:
    """Refuse a teacher without a classification head, which would teach the noise of a new one.

    Raises:
        KdzooError: says how to fine-tune one.
    """
    if is_size(teacher):
        raise KdzooError(f"a teacher of size {teacher} has learned nothing yet; train it with: kdzoo finetune")
    config = _config(teacher)
    if not _has_head(config):
        architecture = ", ".join(config.architectures or []) or "unknown architecture"
        raise KdzooError(
            f"the teacher {teacher!r} ({architecture}) has no classification "
            "head to learn from; fine-tune it on the task first: kdzoo finetune"
        )


def labels_of_head(model: str) -> int | None:
    """How many labels a model's head is for; None where it has no head.

    Raises:
        KdzooError: when its configuration cannot be loaded.
    """
    config = _config(model)
    return int(config.num_labels) if _has_head(config) else None


def check_length(max_length: int, tokenizer: PreTrainedTokenizerBase, *models: PreTrainedModel) -> None:
    """Refuse rows longer than a model has positions for.

    Raises:
        KdzooError: names both numbers.
    """
    positions = [getattr(model.config, "max_position_embeddings", max_length) for model in models]
    most = min(tokenizer.model_max_length, *positions)
    if max_length > most:
        raise KdzooError(f"max_length is {max_length}; the model takes at most {most} tokens")


def every_other_layer(teacher: str) -> str:
    """The student made of every other layer of a teacher, its top one among them, as DistilBERT starts.

    Raises:
        KdzooError: when the teacher's configuration cannot be loaded.
    """
    depth = parse_student(teacher).layers if is_size(teacher) else num_layers(_config(teacher))
    assert depth is not None
    return "teacher:" + ",".join(str(layer) for layer in range((depth - 1) % 2, depth, 2))


def _config(teacher: str) -> Any:
    try:
        return AutoConfig.from_pretrained(teacher)
    except (OSError, ValueError) as error:
        raise KdzooError(f"no model at {teacher!r}: {why_not(teacher, error)}") from None


def _fresh_config(teacher: str, tokenizer: PreTrainedTokenizerBase, task: Task) -> BertConfig:
    spec = parse_student(teacher)
    assert spec.layers is not None and spec.width is not None
    heads = spec.heads or max(h for h in range(1, 5) if spec.width % h == 0)
    return BertConfig(
        vocab_size=len(tokenizer),
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=heads,
        intermediate_size=spec.feed_forward or 4 * spec.width,
        max_position_embeddings=POSITIONS,
        pad_token_id=tokenizer.pad_token_id,
        # A model this narrow learns the grammar from scratch in a few hundred steps only with larger first weights
        # and without dropout; its students inherit both.
        initializer_range=0.1,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        **task.head(),
    )


def _has_head(config: Any) -> bool:
    return any(name.endswith("ForSequenceClassification") for name in config.architectures or [])
