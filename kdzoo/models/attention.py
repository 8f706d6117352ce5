"""How attention is seen while a model runs: through transformers' attention interface, or at the softmax itself.

Queries, keys and values come out of the interface, so that the fast attention kernel keeps running and no (S, S) tensor
is made: https://huggingface.co/docs/transformers/attention_interface. A model that does not use it (DeBERTa, MPNet,
XLNet, XLM, SqueezeBERT) is seen at its softmax over (B, A, S, S): what goes into that are its scores, whatever the
model returns as its "attentions", which in some are taken after dropout.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from kdzoo.models.activations import Recorder

_IMPLEMENTATION = "kdzoo_capture"  # the name the recording attention is registered under
running: list[Recorder] = []  # recorders whose model is inside its forward pass, innermost last
_SOFTMAXES = (F.softmax, torch.softmax, Tensor.softmax)


@contextmanager
def recording_attention(model: nn.Module) -> Iterator[None]:
    """Attention runs as PyTorch's scaled dot product, and tells the recorder of the model that runs."""
    _register_attention()
    configs: Iterator[Any] = (getattr(module, "config", None) for module in model.modules())
    with ExitStack() as undo:
        for config in {id(c): c for c in configs if hasattr(c, "_attn_implementation_internal")}.values():
            undo.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
            config._attn_implementation_internal = _IMPLEMENTATION
        yield


@contextmanager
def unrecorded() -> Iterator[None]:
    """Attention of a model within a model, which is none of the layers that are asked for, is told to nobody."""
    kept = running[:]
    running.clear()
    try:
        yield
    finally:
        running[:] = kept


@contextmanager
def attention_kept(model: nn.Module) -> Iterator[None]:
    """A BigBird that goes over to full attention for a short batch goes back afterwards, as the next may be long.

    Args:
        model: a transformers model without wrappers.
    """
    base: Any = getattr(model, "base_model", None)
    kind = getattr(base, "attention_type", None)
    try:
        yield
    finally:
        if kind is not None and base.attention_type != kind:
            base.set_attention_type(kind)


def scaled(
    name: str,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    extra: dict[str, Any],
    *,
    cross: bool = False,
) -> tuple[Tensor, Tensor, Tensor] | Tensor:
    """Queries, keys and values whose scores are query @ key.mT / sqrt(d), each head with a key of its own.

    Args:
        name: the model's, for messages.
        query, key, value: (B, A, S, d), as the layer's attention is given them.
        mask: likewise.
        extra: its other arguments.
        cross: the keys are of another text than the queries.

    Returns:
        The three; or the scores (B, A, S, S) where a bias is added to them (T5).

    Raises:
        KdzooError: for scores that neither gives.
    """
    added = mask if mask is not None and mask.is_floating_point() else None
    if added is not None and bool(((added != 0) & (added > torch.finfo(added.dtype).min / 2)).any()):
        raise KdzooError(
            f"{name} adds a position bias to its attention scores, which queries "
            "and keys alone do not give; choose a loss that needs no attention"
        )
    if query.shape[-2] != key.shape[-2] and not cross:
        raise KdzooError(
            f"{name} has {query.shape[-2]} queries and {key.shape[-2]} keys in a layer; only attention of a text to "
            "itself can be compared"
        )
    key, value = of_each_head(query, key), of_each_head(query, value)
    width = math.sqrt(query.shape[-1])
    scaling = extra.get("scaling")
    if scaling is not None and not math.isclose(scaling * width, 1.0, rel_tol=1e-6):
        query = query * (scaling * width)
    bias = extra.get("position_bias")
    if bias is None or not bool(bias.any()):  # T5's attention to the source has one of zeros
        return query, key, value
    scores: Tensor = (query / width) @ key.mT + bias
    return scores


def of_each_head(query: Tensor, shared: Tensor) -> Tensor:
    """Keys or values (B, A, S, d), where several heads may share one."""
    groups = query.shape[1] // shared.shape[1]
    return shared.repeat_interleave(groups, dim=1) if groups > 1 else shared


def is_as_told(module: nn.Module, query: Tensor, key: Tensor, extra: dict[str, Any], sources: int | None) -> bool:
    """Whether a layer of a decoder attends to what it is taken to.

    Args:
        module: the layer.
        query, key: (B, A, T, d) and (B, A, S, d).
        extra: the other arguments of its attention.
        sources: how many tokens a source has, where it is taken to attend to that; None for the target so far.
    """
    causal = extra.get("is_causal")
    causal = getattr(module, "is_causal", None) if causal is None else causal
    return key.shape[-2] == (query.shape[-2] if sources is None else sources) and causal is (sources is None)


def visible_pairs(
    module: nn.Module, query: Tensor, mask: Tensor | None, extra: dict[str, Any], *, by_pairs: bool
) -> Tensor | None:
    """Which keys a query may see, (B, S, S), where that is not simply the real ones; else None.

    Args:
        module: the attention layer.
        query: (B, A, S, d).
        mask: what its attention was given: (B, 1, S, S), True or 0.0 where a query sees a key; or None.
        extra: its other arguments.
        by_pairs: the model itself was given a mask of pairs.
    """
    causal = extra.get("is_causal")
    causal = getattr(module, "is_causal", False) if causal is None else causal
    if mask is None:
        if not causal:
            return None
        length = query.shape[-2]
        below = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        return below.expand(len(query), length, length)
    if not causal and not by_pairs and extra.get("sliding_window") is None:
        return None
    seen = mask if mask.dtype == torch.bool else mask >= 0
    return seen[:, 0].expand(len(query), *seen.shape[2:])


class AtSoftmax(TorchFunctionMode):
    """Tells what goes into each softmax over (B, A, S, S)."""

    def __init__(self, told: Callable[[Tensor], None]) -> None:
        super().__init__()
        self._told = torch.compiler.disable(told)  # traced, the layers are counted wrong

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in _SOFTMAXES:
            scores = args[0] if args else (kwargs or {})["input"]
            if scores.dim() == 4 and scores.shape[2] == scores.shape[3]:
                self._told(scores)
        return func(*args, **(kwargs or {}))


@functools.cache
def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    attend: Callable[..., Any] = AttentionInterface()["sdpa"]

    @torch.compiler.disable
    def record(
        module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extra: dict[str, Any]
    ) -> None:
        # outside a captured forward pass (a recomputation in the backward pass) there is nothing to record
        if running:
            running[-1].attended(module, query, key, value, mask, extra)

    def record_and_attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **extra: Any,
    ) -> Any:
        record(module, query, key, value, attention_mask, extra)
        return attend(module, query, key, value, attention_mask, **extra)

    AttentionInterface.register(_IMPLEMENTATION, record_and_attend)
    AttentionMaskInterface.register(_IMPLEMENTATION, AttentionMaskInterface()["sdpa"])
