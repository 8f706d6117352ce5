"""The shape of a model, as far as a loss depends on it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.heads import (
    adds_position_bias,
    attends,
    check_transformers,
    hidden_size,
    num_heads,
    num_layers,
    says_words,
    shows_qkv,
    unwrap,
    vocabulary_size,
)

# Of a configuration's problem_type: one class a row, several labels a row, one or more numbers.
CLASSES, LABELS, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


@dataclass(frozen=True)
class ModelShape:
    """What a loss has to know of a model to fit it.

    ``num_heads`` is None for a model without attention (FNet).
    ``num_labels`` is the width of its logits: of a masked language model, the size of the vocabulary.
    ``problem_type`` is what the logits are, as transformers' configurations call it, None where they do not say.
    ``shows_qkv`` is False for a model whose attention shows its scores alone (DeBERTa), and ``position_bias`` is True
    for one that adds a bias to the scores of queries and keys (T5).
    ``decoder`` is the layers, width and heads of a decoder beside the encoder, whose the others are; None without one.
    """

    num_layers: int
    hidden_size: int
    num_heads: int | None
    num_labels: int
    shows_qkv: bool = True
    problem_type: str | None = None
    decoder: tuple[int, int, int] | None = None
    position_bias: bool = False

    def of_decoder(self) -> ModelShape:
        """The same with the decoder's layers, width and heads.

        Raises:
            KdzooError: it has none.
        """
        if self.decoder is None:
            raise KdzooError("there is no decoder to compare; both models have to be encoder-decoders")
        layers, width, heads = self.decoder
        return replace(self, num_layers=layers, hidden_size=width, num_heads=heads)

    @classmethod
    def of(cls, model: nn.Module | ModelShape) -> ModelShape:
        """The shape of a transformers model, read from its config; a shape is its own.

        Raises:
            KdzooError: for a model without such a config.
        """
        if isinstance(model, ModelShape):
            return model
        check_transformers(model)
        inner: Any = unwrap(model)
        config: Any = inner.config
        words = says_words(inner)
        return cls(
            num_layers=num_layers(config),
            hidden_size=hidden_size(config),
            num_heads=num_heads(config) if attends(config) else None,
            num_labels=vocabulary_size(config) if words else config.num_labels,
            problem_type=None if words else getattr(config, "problem_type", None),
            shows_qkv=shows_qkv(inner),
            decoder=decoder_sizes(config),
            position_bias=adds_position_bias(inner),
        )
