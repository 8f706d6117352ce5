"""Where a transformers model keeps its parts: layers, widths, embeddings and the classification head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from kdzoo.errors import KdzooError


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside DistributedDataParallel and ``torch.compile`` wrappers.

    Raises:
        KdzooError: one of the wrappers is DataParallel, whose replicas cannot be followed.
    """
    while True:
        if isinstance(model, nn.DataParallel):
            raise KdzooError("activations cannot be captured under DataParallel; start one process a device: torchrun")
        if isinstance(model, nn.parallel.DistributedDataParallel):
            model = model.module
        elif isinstance(inner := getattr(model, "_orig_mod", None), nn.Module):
            model = inner
        else:
            return model


def num_layers(config: Any) -> int:
    """How many layers a transformers configuration has; hidden states go from 0 to this number."""
    return int(config.num_hidden_layers)


def hidden_size(config: Any) -> int:
    """The width D of the hidden states under a transformers configuration."""
    return int(config.hidden_size)


def num_heads(config: Any) -> int:
    """The number of attention heads A under a transformers configuration."""
    return int(config.num_attention_heads)


def embeddings_module(model: nn.Module) -> nn.Module:
    """The module whose output is the embedding output: words, positions and types summed and normalised.

    Its width is the embedding size, which is not the hidden size in ALBERT and ELECTRA.
    """
    inner = unwrap(model)
    embeddings = getattr(inner.base_model, "embeddings", None)
    return embeddings if isinstance(embeddings, nn.Module) else inner.get_input_embeddings()


def classification_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a model makes of the CLS state of its last layer, as a function of such states.

    Args:
        model: a transformers sequence classifier whose head looks at the first position.

    Returns:
        A function of (B, D) states that gives (B, C) logits, without dropout. Gradients flow through it.

    Raises:
        KdzooError: for a model that pools otherwise, or has no such head.
    """
    inner = unwrap(model)
    base, name = inner.base_model, type(inner).__name__
    classifier = getattr(inner, "classifier", None)
    if classifier is None or getattr(inner.config, "classifier_pooling", "cls") != "cls":
        raise KdzooError(f"{name} has no classification head on its first position")

    def head(states: Tensor) -> Tensor:
        given, states = states.dtype, states.to(next(classifier.parameters()).dtype)
        if not isinstance(classifier, nn.Linear):  # RoBERTa and ELECTRA keep all of it in one module
            return classifier(states.unsqueeze(1)).to(given)
        if hasattr(inner, "pre_classifier"):
            states = inner.pre_classifier(states).relu()
        elif hasattr(inner, "head"):
            states = inner.head(states)
        elif hasattr(base, "pooler_activation"):
            states = base.pooler_activation(base.pooler(states))
        elif pooler := getattr(inner, "pooler", None) or getattr(base, "pooler", None):
            states = pooler(states.unsqueeze(1))
        return classifier(states).to(given)

    return head
