"""Encoder-decoders that read a pretrained encoder's states in place of word embeddings; importing this registers them.

Source: Edunov, Baevski and Auli (2019), Pre-trained Language Model Representations for Language Generation, section 3.
"""

from __future__ import annotations

from contextvars import Context
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM, BartConfig, BartForConditionalGeneration
from transformers.models.bart.modeling_bart import BartEncoder

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.attention import unrecorded
from kdzoo.models.heads import hidden_size, num_layers
from kdzoo.models.inputs import LayerMix

FROZEN, TUNED = "frozen", "tuned"
ARMS = (FROZEN, TUNED)
MIX_DROPOUT = 0.2  # of the frozen encoder's softmaxed layer weights, as in the released code


class RepresentedConfig(BartConfig):
    """A BART whose encoder reads a pretrained one.

    Args:
        source: the pretrained encoder's configuration, as a mapping.
        arm: ``"frozen"``, its layers mixed with learnt weights, or ``"tuned"``, its top layer, trained along.
    """

    model_type = "kdzoo-represented"
    source: dict[str, Any] | None = None
    arm: str = FROZEN

    @property
    def source_config(self) -> Any:
        """The pretrained encoder's configuration.

        Raises:
            KdzooError: there is none, or the arm is unknown.
        """
        if not self.source:
            raise KdzooError("the configuration of a model with a pretrained encoder has no source")
        if self.arm not in ARMS:
            raise unknown("arm", self.arm, ARMS)
        return AutoConfig.for_model(**self.source)


class _NoPositions(nn.Module):
    """The pretrained states know their places: nothing is added to them."""

    def forward(self, tokens: Tensor, *arguments: Any, **options: Any) -> Tensor:
        return torch.zeros((), device=tokens.device)


class RepresentedEncoder(BartEncoder):
    """BART's encoder over a pretrained one, whose states are mixed, or taken from its top, and projected without bias.

    The factor √d of the released code is left out: the layer norm that follows would undo it.
    """

    def __init__(self, config: RepresentedConfig) -> None:
        super().__init__(config)
        own = config.source_config
        self.arm = config.arm
        # The word embeddings stay, for they are one table with the decoder's, and are not read.
        own_positions: Any = _NoPositions()
        self.embed_positions = own_positions
        self.source = AutoModel.from_config(own, trust_remote_code=False)
        self.mix = LayerMix(num_layers(own) + 1, hidden_size(own), dropout=MIX_DROPOUT) if self._frozen else None
        self.project = nn.Linear(hidden_size(own), hidden_size(config), bias=False)
        self.post_init()
        self._layers()  # there has to be such a list
        self.source.requires_grad_(not self._frozen)

    @property
    def _frozen(self) -> bool:
        return self.arm == FROZEN

    def train(self, mode: bool = True) -> RepresentedEncoder:
        """A frozen encoder stays in evaluation mode."""
        super().train(mode)
        if self._frozen:
            self.source.eval()
        return self

    def _states(self, input_ids: Tensor | None, attention_mask: Tensor | None) -> list[Tensor]:
        """The pretrained encoder's hidden states, the embeddings' output first.

        Taken by hooks of our own: transformers would collect them twice where those of the layers around are asked for.
        """
        found: list[Tensor] = []
        layers = self._layers()
        hooks = [
            layers[0].register_forward_pre_hook(lambda _, args: found.append(args[0])),
            *(
                layer.register_forward_hook(lambda _, __, out: found.append(out[0] if isinstance(out, tuple) else out))
                for layer in layers[:-1]
            ),
        ]
        # What transformers collects of the layers around it is none of these layers either.
        try:
            output = Context().run(self.source, input_ids, attention_mask=attention_mask)
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

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        **kwargs: Any,
    ) -> Any:
        """BART's, on states of the tokens' pretrained encoding."""
        if inputs_embeds is None:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not self._frozen), unrecorded():
                states = self._states(input_ids, attention_mask)
            inputs_embeds = self.project(states[-1] if self.mix is None else self.mix(states))
        return super().forward(attention_mask=attention_mask, inputs_embeds=inputs_embeds, **kwargs)


class RepresentedForConditionalGeneration(BartForConditionalGeneration):
    """A BART with a `RepresentedEncoder`; its decoder's input and output embeddings are one table."""

    config_class = RepresentedConfig

    def __init__(self, config: RepresentedConfig) -> None:
        super().__init__(config)
        self.model.encoder = RepresentedEncoder(config)
        self.post_init()

    def take_source(self, encoder: nn.Module) -> None:
        """Take the weights of the pretrained encoder that it reads."""
        self.model.encoder.source.load_state_dict(encoder.state_dict())


AutoConfig.register(RepresentedConfig.model_type, RepresentedConfig, exist_ok=True)
AutoModelForSeq2SeqLM.register(RepresentedConfig, RepresentedForConditionalGeneration, exist_ok=True)
