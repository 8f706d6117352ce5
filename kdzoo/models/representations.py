"""Encoder-decoders that read pretrained models' states in place of word embeddings; importing this registers them.

Source: Edunov, Baevski and Auli (2019), Pre-trained Language Model Representations for Language Generation, section 3.
"""

from __future__ import annotations

from contextvars import Context
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSeq2SeqLM,
    BartConfig,
    BartForConditionalGeneration,
    DynamicCache,
)
from transformers.models.bart.modeling_bart import BartDecoder, BartEncoder

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.attention import unrecorded
from kdzoo.models.heads import hidden_size, is_causal, num_layers
from kdzoo.models.inputs import LayerMix
from kdzoo.models.pretrained import ARMS, FROZEN

MIX_DROPOUT = 0.2  # of a frozen model's softmaxed layer weights, as in the released code


class RepresentedConfig(BartConfig):
    """A BART with a stack, or both, that reads a pretrained model.

    Args:
        source: the configuration of the pretrained model that the encoder reads, as a mapping; None for none.
        arm: ``"frozen"``, its layers mixed with learnt weights, or ``"tuned"``, its top layer, trained along.
        decoder_source, decoder_arm: of the decoder.
        separate_targets: targets have a vocabulary of their own, which is the one that this configuration tells of.
    """

    model_type = "kdzoo-represented"
    source: dict[str, Any] | None = None
    arm: str = FROZEN
    decoder_source: dict[str, Any] | None = None
    decoder_arm: str = FROZEN
    separate_targets: bool = False

    def read_by(self, stack: str) -> tuple[Any, str] | None:
        """The configuration of the pretrained model that a stack reads, and the arm; None where it reads words.

        Raises:
            KdzooError: the arm is unknown, or neither stack reads one.
        """
        if not self.source and not self.decoder_source:
            raise KdzooError("the configuration of a model that reads a pretrained one has neither source")
        told = {"encoder": (self.source, self.arm), "decoder": (self.decoder_source, self.decoder_arm)}
        source, arm = told[stack]
        if arm not in ARMS:
            raise unknown("arm", arm, ARMS)
        return (AutoConfig.for_model(**source), arm) if source else None


class _NoPositions(nn.Module):
    """The pretrained states know their places: nothing is added to them."""

    def forward(self, *arguments: Any, **options: Any) -> Tensor:
        return torch.zeros(())  # which goes with tensors of any device


class _Reading(nn.Module):
    """A stack over a pretrained model, whose states are mixed, or taken from its top, and projected without bias.

    The factor √d of the released code is left out: the layer norm that follows would undo it.
    """

    config: Any

    def _read(self, own: Any, arm: str) -> None:
        """Take the place of the word embeddings.

        Args:
            own: the pretrained model's configuration.
            arm: how it is read.
        """
        self.arm = arm
        # The word embeddings stay, for they are one table with the output layer, and are not read.
        self.embed_positions: Any = _NoPositions()
        self.source = AutoModel.from_config(own, trust_remote_code=False)
        self.mix = LayerMix(num_layers(own) + 1, hidden_size(own), dropout=MIX_DROPOUT) if self._frozen else None
        self.project = nn.Linear(hidden_size(own), hidden_size(self.config), bias=False)
        self.post_init()  # type: ignore[operator]  # of the stack that this is mixed into
        self._layers()  # there has to be such a list
        self.source.requires_grad_(not self._frozen)

    @property
    def _frozen(self) -> bool:
        return self.arm == FROZEN

    def train(self, mode: bool = True) -> Any:
        """A frozen model stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.source.eval()
        return self

    def embedded(self, input_ids: Tensor | None, attention_mask: Tensor | None, **options: Any) -> Tensor:
        """What stands in place of the tokens' embeddings, (B, S, D).

        Args:
            input_ids: (B, S).
            attention_mask: (B, S), or with what a cache holds before it.
            options: what else the pretrained model is given.
        """
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen), unrecorded():
            states = self._states(input_ids, attention_mask, **options)
        read: Tensor = self.project(states[-1] if self.mix is None else self.mix(states))
        return read

    def _states(self, input_ids: Tensor | None, attention_mask: Tensor | None, **options: Any) -> list[Tensor]:
        """The pretrained model's hidden states, the embeddings' output first.

        Taken by hooks of our own: transformers would collect them twice where those of the layers around are asked for.
        """
        found: list[Tensor] = []
        layers = self._layers()

        def before(_: Any, args: Any, named: dict[str, Any]) -> None:
            found.append(args[0] if args else named["hidden_states"])

        hooks = [
            layers[0].register_forward_pre_hook(before, with_kwargs=True),
            *(
                layer.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
                for layer in layers[:-1]
            ),
        ]
        # What transformers collects of the layers around it is none of these layers either.
        try:
            output = Context().run(self.source, input_ids, attention_mask=attention_mask, **options)
        finally:
            for hook in hooks:
                hook.remove()
        return [*found, output.last_hidden_state]

    def _layers(self) -> nn.ModuleList:
        depth = num_layers(self.source.config)
        lists = [part for part in self.source.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
        if not lists:
            raise KdzooError(f"{type(self.source).__name__} keeps its {depth} layers in no list, so none can be read")
        return lists[0]


class RepresentedEncoder(_Reading, BartEncoder):
    """BART's encoder over a pretrained model."""

    def __init__(self, config: RepresentedConfig, own: Any, arm: str) -> None:
        super().__init__(config)
        self._read(own, arm)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """BART's, on states of the tokens' pretrained encoding."""
        if inputs_embeds is None:
            inputs_embeds = self.embedded(input_ids, attention_mask)
        return super().forward(attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)


class RepresentedDecoder(_Reading, BartDecoder):
    """BART's decoder over a causal pretrained model, whose states of the words so far know none of those to come.

    Raises:
        KdzooError: the pretrained model is not causal.
    """

    def __init__(self, config: RepresentedConfig, own: Any, arm: str) -> None:
        super().__init__(config)
        self._read(own, arm)
        if not is_causal(self.source):
            raise KdzooError(
                f"a decoder cannot read a {type(self.source).__name__}, which is not causal: it would see the words "
                "that are to be written; take a causal model such as GPT-2, or read it on the encoder's side (frozen=, "
                "tuned=)"
            )

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        **kwargs: Any,
    ) -> Any:
        """BART's, on the pretrained model's states of the words so far.

        The pretrained model's own keys and values are kept with the decoder's, so that a beam reorders them alike.
        """
        given = past_key_values
        if inputs_embeds is not None:
            raise KdzooError("a decoder that reads a pretrained model is given token ids; leave out inputs_embeds")
        kept: Any = None
        if given is not None or (self.config.use_cache if use_cache is None else use_cache):
            kept = getattr(given, "represented", None)
            if kept is None and given is not None and given.get_seq_length():
                raise KdzooError("these past_key_values lack the pretrained model's; start from those that it gave")
            kept = DynamicCache() if kept is None else kept
        output = super().forward(
            attention_mask=attention_mask,
            inputs_embeds=self.embedded(input_ids, attention_mask, past_key_values=kept, use_cache=kept is not None),
            past_key_values=given,
            use_cache=use_cache,
            **kwargs,
        )
        after = getattr(output, "past_key_values", None) if given is None else given
        if after is not None and getattr(after, "represented", None) is None:
            after.represented = kept
            after.self_attention_cache.layers.extend(kept.layers)  # the same layers: both see what a beam makes of them
        return output


class RepresentedForConditionalGeneration(BartForConditionalGeneration):
    """A BART with a `RepresentedEncoder`, a `RepresentedDecoder` or both; output layer and words are one table."""

    config_class = RepresentedConfig

    def __init__(self, config: RepresentedConfig) -> None:
        super().__init__(config)
        for stack, kind in (("encoder", RepresentedEncoder), ("decoder", RepresentedDecoder)):
            if (read := config.read_by(stack)) is not None:
                setattr(self.model, stack, kind(config, *read))
        self.post_init()

    def take_source(self, stack: str, pretrained: nn.Module) -> None:
        """Take the weights of the pretrained model that a stack, ``"encoder"`` or ``"decoder"``, reads."""
        getattr(self.model, stack).source.load_state_dict(pretrained.state_dict())


AutoConfig.register(RepresentedConfig.model_type, RepresentedConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(RepresentedConfig, RepresentedForConditionalGeneration, exist_ok=True)
