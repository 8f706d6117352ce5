"""What a forward pass has to expose, and whether a model can."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from kdzoo.errors import KdzooError
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.heads import attends, num_layers, qkv_layers, shows_qkv, states_by_layer, unwrap, whole_states


@dataclass(frozen=True)
class Needs:
    """What a forward pass has to expose. ``a | b`` needs what either needs.

    Args:
        logits: the classification logits.
        hidden: hidden states to keep whole, numbered as in transformers: 0 is the embeddings, i the output of
            layer i.
        cls: hidden states, numbered alike, of which only what the head reads is kept (`head_positions`).
        qkv: attention layers, counted from 0.
        pooled: hidden states, numbered alike, of which a row's representation is kept (`kdzoo.models.heads.pooled`).
        decoder: the decoder's hidden states to keep, numbered alike; all others are the encoder's.
        decoder_qkv: attention layers of the decoder to its own tokens, counted from 0.
        cross_qkv: those to the source's.
        order: the logits of the head on the order of a row's two segments.
        raw_qkv: attention layers, counted from 0, whose queries, keys and values are kept even where these alone do not
            give the scores.
    """

    logits: bool = True
    hidden: frozenset[int] = frozenset()
    cls: frozenset[int] = frozenset()
    qkv: frozenset[int] = frozenset()
    pooled: frozenset[int] = frozenset()
    decoder: frozenset[int] = frozenset()
    decoder_qkv: frozenset[int] = frozenset()
    cross_qkv: frozenset[int] = frozenset()
    order: bool = False
    raw_qkv: frozenset[int] = frozenset()

    @property
    def attention(self) -> frozenset[int]:
        """The encoder's layers whose attention is looked at."""
        return self.qkv | self.raw_qkv

    @property
    def decoder_attention(self) -> frozenset[int]:
        """The decoder's layers whose attention, of either kind, is looked at."""
        return self.decoder_qkv | self.cross_qkv

    @property
    def states(self) -> frozenset[int]:
        """The hidden states that are looked at."""
        return self.hidden | self.cls | self.pooled

    def __or__(self, other: Needs) -> Needs:
        layered = [part.name for part in fields(self) if part.name != "logits"]
        joined = {name: getattr(self, name) | getattr(other, name) for name in layered}
        return Needs(self.logits or other.logits, **joined)


def check_needs(model: Any, needs: Needs) -> None:
    """Refuse needs that a model cannot meet.

    Args:
        model: a transformers model, wrapped or not.
        needs: of it.

    Raises:
        KdzooError: names the model, and what it can be asked for.
    """
    model = unwrap(model)
    layers, name = num_layers(model.config), type(model).__name__
    below = decoder_sizes(model.config)
    if (needs.decoder or needs.decoder_attention) and below is None:
        raise KdzooError(
            f"{name} has no decoder, so none of its states or attention can be taken; take hidden, cls or qkv"
        )
    if needs.decoder_attention and not shows_qkv(model):
        raise KdzooError(f"{name} hides its queries and keys, so that its decoder's attention cannot be captured")
    for what, indices, last in (
        ("hidden state", needs.states, layers),
        ("attention layer", needs.attention, layers - 1),
        ("decoder hidden state", needs.decoder, below[0] if below else -1),
        ("decoder attention layer", needs.decoder_attention, below[0] - 1 if below else -1),
    ):
        if wrong := [i for i in sorted(indices) if not 0 <= i <= last]:
            depth = below[0] if below and what.startswith("decoder") else layers
            raise KdzooError(f"{name} has {depth} layers: {what} {wrong[0]} is not in 0 to {last}")
    if needs.attention and not attends(model.config):
        raise KdzooError(f"{name} has no attention heads to compare; take a loss on logits, hidden or cls")
    if needs.raw_qkv and not shows_qkv(model) and not qkv_layers(model):
        raise KdzooError(
            f"{name} hides its queries, keys and values, which are compared; take attention_kl, or a loss on "
            "hidden states"
        )
    if needs.states and not states_by_layer(model):
        raise KdzooError(f"{name} does not show one hidden state a layer; take a loss on logits, such as kd")
    whole = whole_states(model.config)
    if whole is not None and (needs.attention or max(needs.hidden | needs.pooled, default=0) > whole):
        raise KdzooError(
            f"{name} pools tokens: after hidden state {whole} it has fewer places than tokens; take a loss on logits "
            "or cls, such as kd or pkd"
        )
