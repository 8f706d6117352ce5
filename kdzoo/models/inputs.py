"""What a model is given beside tokens: soft positions, pairs, another model's layers mixed with learnt weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from kdzoo.errors import KdzooError
from kdzoo.models.heads import unwrap

EPSILON = 1e-5
# Of transformers' families those that are known to take an input as it is meant. In others it has no effect, or as in
# RoBERTa positions are counted from another number.
_COUNTED_FROM_0 = ("bert", "albert", "electra", "distilbert")
ABILITIES = {
    "position_ids": ("soft positions", _COUNTED_FROM_0),
    "pairs": ("a visible matrix", (*_COUNTED_FROM_0, "roberta", "xlm-roberta", "camembert")),
}


def check_abilities(model: Any, needed: Iterable[str], task: str) -> None:
    """Refuse a model that would not honour what a task gives it beside tokens.

    Args:
        model: a transformers model.
        needed: keys of `ABILITIES`.
        task: its name, for messages.

    Raises:
        KdzooError: names the model's family and those that can.
    """
    family = str(unwrap(model).config.model_type)
    for name in needed:
        what, families = ABILITIES[name]
        if family not in families:
            raise KdzooError(f"{task} gives a model {what}, which {family} does not take; take {', '.join(families)}")


class LayerMix(nn.Module):
    """A learnt mean of a model's layers, γ · Σ softmax(weight)_l · LN(h_l), the embedding layer included.

    Args:
        num_layers: L, how many hidden states come in.
        width: D, of each.
        layer_norm: whether each state is layer-normalised first, over D.
        affine: whether that norm, one for all layers, has a learnt scale and shift.
        dropout: of the softmaxed weights, in training; the released code has 0.2.

    Attributes:
        weight: (L,) before the softmax; equal at first.
        gamma: scalar; 1 at first.

    Raises:
        KdzooError: a size under 1, or an affine norm where there is none.

    Source: Edunov et al. (2019), section 3, after Peters et al. (2018), ELMo, equation 1.
    """

    def __init__(
        self, num_layers: int, width: int, layer_norm: bool = True, *, affine: bool = False, dropout: float = 0.0
    ) -> None:
        super().__init__()
        for name, value in (("num_layers", num_layers), ("width", width)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise KdzooError(f"{name} must be a whole number of 1 or more, got {value!r}")
        if affine and not layer_norm:
            raise KdzooError("affine=True has no effect without layer_norm=True")
        if not 0 <= dropout < 1:
            raise KdzooError(f"dropout must be at least 0 and under 1, got {dropout!r}")
        self.num_layers, self.width, self.dropout = num_layers, width, dropout
        self.weight = nn.Parameter(torch.zeros(num_layers))
        self.gamma = nn.Parameter(torch.ones(()))
        self.norm = nn.LayerNorm(width, eps=EPSILON, elementwise_affine=affine) if layer_norm else None

    def forward(self, hidden: Tensor | Sequence[Tensor]) -> Tensor:
        """Mix.

        Args:
            hidden: (L, B, S, D), or L tensors (B, S, D) as transformers gives them.

        Returns:
            (B, S, D).

        Raises:
            KdzooError: another number of layers or another width.
        """
        layers = list(hidden)
        if len(layers) != self.num_layers or any(layer.shape[-1:] != (self.width,) for layer in layers):
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else [tuple(layer.shape) for layer in layers]
            raise KdzooError(f"expected {self.num_layers} layers (B, S, {self.width}), got {shape}")
        shares = functional.dropout(self.weight.softmax(0), self.dropout, self.training)
        # Layer by layer, so that no second copy of all of them is made; half precision is summed in float32.
        kind = torch.promote_types(layers[0].dtype, torch.float32)
        mixed = torch.zeros_like(layers[0], dtype=kind)
        for share, layer in zip(shares, layers, strict=True):
            mixed = mixed + share * (layer if self.norm is None else self.norm(layer)).to(kind)
        return (self.gamma * mixed).to(layers[0].dtype)

    def extra_repr(self) -> str:
        return f"num_layers={self.num_layers}, width={self.width}, layer_norm={self.norm is not None}"
