"""What one forward pass exposes to the losses, and how it is taken from a model.

`capture` wraps a transformers encoder for the length of a ``with`` block and takes exactly what
`Needs` names. Queries, keys and values come out of transformers' attention interface, so that the fast
attention kernel keeps running and no (S, S) tensor is made:
https://huggingface.co/docs/transformers/attention_interface.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.heads import embeddings_module, num_layers, unwrap

_IMPLEMENTATION = "kdzoo_capture"  # the name the recording attention is registered under
_running: list[Recorder] = []  # recorders whose model is inside its forward pass, innermost last


@functools.cache
def _states_by_index() -> bool:
    """Whether transformers takes the indices of hidden states and keeps those alone.

    It does from 5.23 on. Before, it kept all of them (to 5.11), or took the indices to be of layers and left out the
    embeddings' output (5.17 to 5.22).
    """
    from packaging.version import Version  # transformers brings it

    return Version(version("transformers")) >= Version("5.23")


class QKV(NamedTuple):
    """One layer's attention inputs, each (B, A, S, d); its scores are ``query @ key.mT / sqrt(d)``."""

    query: Tensor
    key: Tensor
    value: Tensor


@dataclass(frozen=True)
class Needs:
    """What a forward pass has to expose. ``a | b`` needs what either needs.

    Args:
        logits: the classification logits.
        hidden: hidden states to keep whole, numbered as in transformers: 0 is the embeddings, i the output of
            layer i.
        cls: hidden states, numbered alike, of which only position 0 is kept.
        qkv: attention layers, counted from 0.
    """

    logits: bool = True
    hidden: frozenset[int] = frozenset()
    cls: frozenset[int] = frozenset()
    qkv: frozenset[int] = frozenset()

    def __or__(self, other: Needs) -> Needs:
        return Needs(
            self.logits or other.logits,
            self.hidden | other.hidden,
            self.cls | other.cls,
            self.qkv | other.qkv,
        )


@dataclass
class Activations:
    """What was taken from one forward pass; B rows, S positions, D width, C classes, A heads of width d.

    Attributes:
        logits: (B, C), or None where they are not needed.
        hidden: (B, S, D) by hidden-state index.
        cls: (B, D) by hidden-state index: position 0, where padding on the right leaves the first token.
        qkv: `QKV` by attention layer, after rotary embeddings where the model has them.
        scores: (B, A, S, S) by attention layer, only for models that hide their queries and keys (DeBERTa):
            the logarithms of the attention probabilities. They equal the scores up to a constant a row, so a
            softmax over them is exact while their values are not.
        exact_scores: False where ``scores`` stands in for ``qkv``.
        visible: (B, S, S), True where a query may see a key, by attention layer. Only layers with a window of
            their own (ModernBERT's local attention) have an entry, and only where the window cuts something
            off; to a softmax over keys with ``mask`` alone such a layer looks as if it saw the whole
            sentence.
        mask: (B, S), True where a token is real, or None.
    """

    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    cls: dict[int, Tensor] = field(default_factory=dict)
    qkv: dict[int, QKV] = field(default_factory=dict)
    scores: dict[int, Tensor] = field(default_factory=dict)
    exact_scores: bool = True
    visible: dict[int, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None

    def get(self, feature: str, layer: int | None = None) -> Tensor | QKV:
        """One feature: ``"logits"``, or ``"hidden"``, ``"cls"`` or ``"qkv"`` of a layer.

        For ``"qkv"`` of a model that hides its queries and keys this is the ``scores`` tensor.

        Raises:
            KdzooError: the feature does not exist or was not captured for this layer.
        """
        if feature == "logits":
            if self.logits is None:
                raise KdzooError("logits were not captured; ask for them with Needs(logits=True)")
            return self.logits
        stores: dict[str, dict[int, Any]] = {
            "hidden": self.hidden,
            "cls": self.cls,
            "qkv": self.qkv or self.scores,
        }
        if feature not in stores:
            raise unknown("feature", feature, ["logits", *stores])
        if layer not in stores[feature]:
            raise KdzooError(f"{feature} of layer {layer} was not captured; captured: {sorted(stores[feature])}")
        return stores[feature][layer]


class Recorder:
    """What `capture` yields: collects one forward pass at a time."""

    def __init__(self, model: Any, needs: Needs):
        self._model = model
        self._needs = needs
        self._interface = not needs.qkv or model._can_set_attn_implementation()
        self._by_index = _states_by_index()  # here, for torch.compile does not follow it in a forward pass
        self._reset()

    def activations(self, outputs: Any, *, mask: Tensor | None = None) -> Activations:
        """The activations of the latest forward pass.

        Args:
            outputs: what the model returned.
            mask: the attention mask the model was given, (B, S).

        Raises:
            KdzooError: the model has not run inside this capture, or does not expose what is needed.
        """
        needs, found = self._needs, Activations(mask=None if mask is None else mask != 0)
        if not self._ran:
            raise KdzooError("nothing was captured: run the model inside the capture's with block first")
        if needs.logits:
            found.logits = _output(outputs, "logits")
        if needs.hidden or needs.cls:
            states = _output(outputs, "hidden_states")
            found.hidden = {i: states[i] for i in sorted(needs.hidden)}
            # a copy of position 0, so that the other positions can be freed
            found.cls = {i: states[i][:, 0].contiguous() for i in sorted(needs.cls)}
        if needs.qkv and self._interface:
            if missing := needs.qkv - self._qkv.keys():
                raise KdzooError(
                    f"{type(self._model).__name__} ran {self._calls} attention layers through transformers' "
                    f"attention interface; queries and keys are missing for {sorted(missing)}"
                )
            found.qkv, found.visible = self._qkv, self._visible
        elif needs.qkv:
            probabilities = _output(outputs, "attentions")
            found.scores = {i: _log(probabilities[i]) for i in sorted(needs.qkv)}
            found.exact_scores = False
        return found

    def _reset(self) -> None:
        self._calls = 0
        self._ran = False
        self._qkv: dict[int, QKV] = {}
        self._visible: dict[int, Tensor] = {}

    def _start(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._reset()
        self._ran = True
        self._grad = torch.is_grad_enabled()
        _running.append(self)
        if self._needs.hidden or self._needs.cls:
            wanted = sorted(self._needs.hidden | self._needs.cls)
            kwargs = kwargs | {"output_hidden_states": wanted if self._by_index else True}
        if not self._interface:
            kwargs = kwargs | {"output_attentions": True}
        return args, kwargs

    def _stop(self, *_: Any) -> None:
        if self in _running:
            _running.remove(self)

    def _record(self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extra: dict[str, Any]) -> None:
        # calls are numbered because ALBERT runs one module as all of its layers
        layer, self._calls = self._calls, self._calls + 1
        if layer not in self._needs.qkv:
            return
        if self._grad and not torch.is_grad_enabled():
            raise KdzooError(
                "attention cannot be captured under reentrant gradient checkpointing, which would cut its "
                "gradient; set gradient_checkpointing_kwargs={'use_reentrant': False}"
            )
        if extra.get("position_bias") is not None:
            raise KdzooError(
                f"{type(self._model).__name__} adds a position bias to its attention scores, which queries "
                "and keys alone do not give; choose a loss that needs no attention"
            )
        if (groups := query.shape[1] // key.shape[1]) > 1:
            key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
        width = math.sqrt(query.shape[-1])
        scaling = extra.get("scaling")
        if scaling is not None and not math.isclose(scaling * width, 1.0, rel_tol=1e-6):
            query = query * (scaling * width)
        self._qkv[layer] = QKV(query, key, value)
        if extra.get("sliding_window") is not None and mask is not None:
            self._visible[layer] = mask[:, 0]


@contextmanager
def capture(model: nn.Module, needs: Needs) -> Iterator[Recorder]:
    """Take from a model's forward passes what ``needs`` names, and leave the model as it was.

    While queries, keys and values are captured, attention runs as PyTorch's scaled dot product, whatever it
    was set to; without them the model's attention is not touched. Models that do not use transformers'
    attention interface (DeBERTa) fall back to their attention probabilities: see `Activations.scores`.

    Args:
        model: a transformers model, or a DistributedDataParallel or ``torch.compile`` wrapper of one. In
            training mode gradients flow through everything captured. Captures of different models may be
            nested.
        needs: what to take.

    Raises:
        KdzooError: an index is out of the model's range; the model is wrapped in DataParallel; attention
            dropout would corrupt the probabilities of a fallback model in training mode.

    Example::

        with capture(model, Needs(cls=frozenset({0, 6}), qkv=frozenset({5}))) as recorder:
            outputs = model(**inputs)
        taken = recorder.activations(outputs, mask=inputs["attention_mask"])
        taken.cls[6], taken.qkv[5].query
    """
    inner = unwrap(model)
    if needs is None:
        raise KdzooError("there is nothing to capture: the needs are None, so this model need not run")
    _check(inner, needs)
    recorder = Recorder(inner, needs)
    with ExitStack() as undo:
        if needs.qkv and recorder._interface:
            _register_attention()
            for config in {id(c): c for m in inner.modules() if (c := _attention_config(m))}.values():
                undo.callback(setattr, config, "_attn_implementation_internal", config._attn_implementation_internal)
                config._attn_implementation_internal = _IMPLEMENTATION
        elif needs.qkv:
            _refuse_attention_dropout(inner)
        undo.callback(recorder._stop)  # an interrupted forward pass skips its hook
        undo.callback(inner.register_forward_pre_hook(recorder._start, with_kwargs=True).remove)
        undo.callback(inner.register_forward_hook(recorder._stop, always_call=True).remove)
        yield recorder


@dataclass
class EmbeddingOutput:
    """What `embedding_output` yields: the recorded output, (B, S, E), before any perturbation."""

    value: Tensor | None = None


@contextmanager
def embedding_output(model: nn.Module, perturbation: Tensor | None = None) -> Iterator[EmbeddingOutput]:
    """Record the output of a model's embeddings, and add a perturbation to it.

    LRC-BERT's gradient perturbation (Fu et al. 2021) is two of these: one forward pass to get
    the gradient of the loss with respect to ``value``, a second one with the normalised gradient added. The
    recorded tensor always takes part in autograd, frozen embeddings included.

    Args:
        model: a transformers model, wrapped or not.
        perturbation: added to the output, of its shape; nothing by default.

    Raises:
        KdzooError: the perturbation has another shape than the embedding output.

    Example::

        with embedding_output(model) as embedded:
            loss = model(**inputs).loss
        (gradient,) = torch.autograd.grad(loss, embedded.value)
        with embedding_output(model, torch.nn.functional.normalize(gradient, dim=-1)):
            model(**inputs).loss.backward()
    """
    recorded = EmbeddingOutput()

    def record(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_()
        recorded.value = output
        if perturbation is None:
            return output
        if perturbation.shape != output.shape:
            raise KdzooError(
                f"the perturbation is {tuple(perturbation.shape)}, but the embedding output is {tuple(output.shape)}"
            )
        return output + perturbation.to(output.dtype)

    handle = embeddings_module(model).register_forward_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()


@functools.cache
def _register_attention() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface

    attend: Callable[..., Any] = AttentionInterface()["sdpa"]

    @torch.compiler.disable
    def record(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extra: dict[str, Any]) -> None:
        # outside a captured forward pass (a recomputation in the backward pass) there is nothing to record
        if _running:
            _running[-1]._record(query, key, value, mask, extra)

    def record_and_attend(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **extra: Any,
    ) -> Any:
        record(query, key, value, attention_mask, extra)
        return attend(module, query, key, value, attention_mask, **extra)

    AttentionInterface.register(_IMPLEMENTATION, record_and_attend)
    AttentionMaskInterface.register(_IMPLEMENTATION, AttentionMaskInterface()["sdpa"])


def _attention_config(module: nn.Module) -> Any:
    config = getattr(module, "config", None)
    return config if hasattr(config, "_attn_implementation_internal") else None


def _check(model: Any, needs: Needs) -> None:
    layers, name = num_layers(model.config), type(model).__name__
    for what, indices, last in (
        ("hidden state", needs.hidden | needs.cls, layers),
        ("attention layer", needs.qkv, layers - 1),
    ):
        if wrong := [i for i in sorted(indices) if not 0 <= i <= last]:
            raise KdzooError(f"{name} has {layers} layers: {what} {wrong[0]} is not in 0 to {last}")


def _refuse_attention_dropout(model: Any) -> None:
    rate = getattr(model.config, "attention_probs_dropout_prob", 0.0)
    if model.training and rate:
        raise KdzooError(
            f"{type(model).__name__} shows its attention only after dropout; "
            f"set attention_probs_dropout_prob from {rate} to 0 to distil its attention"
        )


def _output(outputs: Any, name: str) -> Any:
    found = getattr(outputs, name, None)
    if found is None:
        raise KdzooError(f"the model's output has no {name}; call it with return_dict=True")
    return found


def _log(probabilities: Tensor) -> Tensor:
    return probabilities.float().clamp_min(torch.finfo(torch.float32).tiny).log()
