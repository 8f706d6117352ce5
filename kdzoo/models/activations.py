"""What one forward pass exposes to the losses, and how it is taken from a model.

`capture` wraps a transformers encoder for the length of a ``with`` block and takes exactly what `Needs` names.
"""

from __future__ import annotations

import functools
import warnings
import weakref
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, fields
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.alignment import all_seen, check_index, gathered
from kdzoo.models.attention import (
    AtSoftmax,
    attention_kept,
    is_as_told,
    of_each_head,
    recording_attention,
    running,
    scaled,
    visible_pairs,
)
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.features import (
    CROSS_QKV,
    DECODER_QKV,
    LOGITS,
    ORDER,
    QKV_OF_LAYER,
    RAW_QKV,
    Feature,
    feature_of,
)
from kdzoo.models.heads import (
    check_transformers,
    drops_out,
    has_decoder,
    head_positions,
    is_peft,
    num_heads,
    num_layers,
    pooled,
    qkv_layers,
    savable,
    sees_backwards,
    shows_qkv,
    unwrap,
)
from kdzoo.models.masks import check_self_seen, real_tokens, seen_pairs
from kdzoo.models.needs import Needs as Needs
from kdzoo.models.needs import check_needs
from kdzoo.models.outputs import logits_of, order_of, part_of, states_by_index

_told: weakref.WeakSet[nn.Module] = weakref.WeakSet()  # models that a warning was given of
HIDDEN = -5000.0  # scores that a mask has made lower than any of a query and a key: OpenAI's GPT takes -10000


class QKV(NamedTuple):
    """One layer's attention inputs, each (B, A, S, d); its scores are ``query @ key.mT / sqrt(d)``.

    Of a decoder's attention to the source the query is (B, A, T, d), of the target's tokens.
    """

    query: Tensor
    key: Tensor
    value: Tensor

    def __repr__(self) -> str:
        return f"QKV({', '.join(f'{name}={_shapes(tensor)}' for name, tensor in self._asdict().items())})"


@dataclass(repr=False)
class Activations:
    """What was taken from one forward pass; B rows, S positions, D width, C classes, A heads of width d.

    Of an encoder-decoder all but the logits and what is named after the decoder is the encoder's; T positions of the
    target. The attention's scores, (B, A, S, S), stand in place of a `QKV` where a bias is added to them (T5), and of
    a model that hides its queries and keys (DeBERTa); a pair that no query sees is far below the others there.

    Attributes:
        logits: (B, C), (B, S, C) of tokens, (B, T, C) of a target's, or (B, S, 2) of starts and ends; None where they
            are not needed.
        hidden: (B, S, D) by hidden-state index.
        cls: (B, D) by hidden-state index: the state that the model's head reads, of the first real token, or the last.
        pooled: (B, D) by hidden-state index: the mean over real tokens, or what the model itself takes for a row.
        qkv: `QKV` by attention layer, after rotary embeddings where the model has them.
        visible: (B, S, S), True where a query may see a key, by attention layer. Only layers that see less than all
            real tokens have an entry: those with a window of their own (ModernBERT's local attention), causal ones,
            and those under a mask (B, S, S) that the model was given.
        mask: (B, S), True where a token is real, or None.
        decoder: (B, T, D) by hidden-state index of the decoder.
        decoder_qkv: `QKV` by attention layer of the decoder, of T queries and keys.
        decoder_visible: (B, T, T), True where a query of these may see a key, by attention layer.
        cross_qkv: `QKV` by attention layer of the decoder, of T queries and S keys.
        target_mask: (B, T), True where a token of the target is real, or None.
        aligned: this teacher read other tokens, and what is here are those that the student read too: True in the mask.
        order: (B, 2), the logits of the order of a row's two segments; None where they are not needed.
        raw_qkv: `QKV` by attention layer, without what is added to their scores: as in ``qkv`` where the model shows
            them, and as the linear layers give them where it does not.
    """

    logits: Tensor | None = None
    hidden: dict[int, Tensor] = field(default_factory=dict)
    cls: dict[int, Tensor] = field(default_factory=dict)
    qkv: dict[int, QKV | Tensor] = field(default_factory=dict)
    pooled: dict[int, Tensor] = field(default_factory=dict)
    visible: dict[int, Tensor] = field(default_factory=dict)
    mask: Tensor | None = None
    decoder: dict[int, Tensor] = field(default_factory=dict)
    decoder_qkv: dict[int, QKV | Tensor] = field(default_factory=dict)
    decoder_visible: dict[int, Tensor] = field(default_factory=dict)
    cross_qkv: dict[int, QKV | Tensor] = field(default_factory=dict)
    target_mask: Tensor | None = None
    aligned: bool = False
    order: Tensor | None = None
    raw_qkv: dict[int, QKV] = field(default_factory=dict)

    def __repr__(self) -> str:
        """What there is, by its shapes."""
        there = {part.name: getattr(self, part.name) for part in fields(self) if part.type != "bool"}
        shown = [f"{name}={_shapes(value)}" for name, value in there.items() if value is not None and len(value)]
        return f"Activations({', '.join(shown)})"

    def get(self, feature: str, layer: int | None = None) -> Tensor | QKV:
        """One feature by its name: the logits, or another one of a layer.

        Raises:
            KdzooError: the feature does not exist or was not captured for this layer.
        """
        asked = feature_of(feature)
        if asked in (LOGITS, ORDER):
            said: Tensor | None = getattr(self, asked)
            if said is None:
                raise KdzooError(f"{asked} were not captured; ask for them with Needs({asked}=True)")
            return said
        layer = asked.layer if layer is None else layer
        store: dict[int, Any] = getattr(self, asked.kept)
        if layer not in store:
            raise KdzooError(f"{feature} of layer {layer} was not captured; captured: {sorted(store)}")
        return store[layer]


def _shapes(value: Any) -> str:
    """The shape of a tensor, or those of several by layer."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{layer}: {_shapes(of)}" for layer, of in value.items()) + "}"
    return str(tuple(value.shape)) if isinstance(value, Tensor) else repr(value)


class Recorder:
    """What `capture` yields: collects one forward pass at a time."""

    def __init__(self, model: Any, needs: Needs):
        self._model = model
        self._needs = needs
        self.by_interface = not (needs.attention or needs.decoder_attention) or shows_qkv(model)
        self._by_index = states_by_index()  # here, for torch.compile does not follow it in a forward pass
        self._watching: AtSoftmax | None = None
        self._pairs: Tensor | None = None
        self._stacks = has_decoder(model)
        self._reset()

    def activations(self, outputs: Any, *, mask: Tensor | None = None, index: Tensor | None = None) -> Activations:
        """The activations of the latest forward pass.

        Args:
            outputs: what the model returned.
            mask: the attention mask the model was given, (B, S).
            index: (B, S), of each of a student's tokens its place among this model's, -1 for none: what is returned is
                that of the student's tokens. Losses then renormalise attention over these.

        Raises:
            KdzooError: the model has not run inside this capture, or does not expose what is needed.
        """
        needs, real = self._needs, real_tokens(mask)
        own = real if index is None else index >= 0
        found = Activations(mask=own, target_mask=real_tokens(self._targets), aligned=index is not None)

        def taken(values: Tensor, *axes: int) -> Tensor:
            for axis in axes or (1,):
                values = values if index is None else gathered(values, index, axis)
            return values

        if not self._ran:
            raise KdzooError("nothing was captured: run the model inside the capture's with block first")
        self._tell_of_dropout()
        if index is not None and real is not None:
            check_index(index, real)
        if needs.logits:
            found.logits = logits_of(outputs)
            found.logits = taken(found.logits) if found.logits.dim() == 3 else found.logits
        if needs.order:
            found.order = order_of(outputs)
        if needs.states:
            states = self._states(outputs)
            for i in sorted(needs.hidden | needs.pooled):
                self._check_places(i, states[i])
            found.hidden = {i: taken(states[i]) for i in sorted(needs.hidden)}
            found.cls = {i: self._head_states(i, states[i], real) for i in sorted(needs.cls)}
            found.pooled = {i: pooled(self._model, taken(states[i]), found.mask) for i in sorted(needs.pooled)}
        if needs.decoder:
            states = part_of(outputs, "decoder_hidden_states")
            found.decoder = {i: states[i] for i in sorted(needs.decoder)}
        if needs.decoder_attention:
            sizes = decoder_sizes(self._model.config)
            if sizes is None or self._calls != num_layers(self._model.config) + 2 * sizes[0]:
                raise self._other_decoder()
            found.decoder_qkv, found.decoder_visible = self._kept[DECODER_QKV], self._seen[DECODER_QKV]
            for layer, of in self._kept[CROSS_QKV].items():
                keys = taken(of, 3) if isinstance(of, Tensor) else QKV(of.query, taken(of.key, 2), taken(of.value, 2))
                found.cross_qkv[layer] = keys
        if needs.attention:
            self._check_attended()
            for layer, of in self._kept[QKV_OF_LAYER].items():
                if isinstance(of, Tensor):
                    # A mask may be -inf, which no gradient should meet; what a loss leaves out is further down yet.
                    found.qkv[layer] = taken(of.clamp_min(torch.finfo(of.dtype).min / 4), 2, 3)
                else:
                    found.qkv[layer] = QKV(*(taken(part, 2) for part in of))
            for layer, of in self._kept[RAW_QKV].items():
                found.raw_qkv[layer] = QKV(*(taken(part, 2) for part in of))
            found.visible = {layer: taken(seen, 1, 2) for layer, seen in self._seen[QKV_OF_LAYER].items()}
        if found.aligned and found.mask is not None:  # between a student's own tokens there is no window then
            found.visible = {i: seen for i, seen in found.visible.items() if not all_seen(seen, found.mask)}
        return found

    def _tell_of_dropout(self) -> None:
        """Warn once of a model that ran as a teacher does, without gradient, and drops out at random all the same."""
        model = self._model
        if self._grad or not model.training or model in _told:
            return
        if drops_out(model):
            _told.add(model)
            warnings.warn(
                f"{type(model).__name__} ran without gradient, as a teacher does, and in training mode, so that its "
                "dropout makes other numbers of the same rows each time; call eval() on it",
                KdzooWarning,
                stacklevel=3,
            )

    def _check_attended(self) -> None:
        name, layers = type(self._model).__name__, num_layers(self._model.config)
        missing = self._needs.qkv - self._kept[QKV_OF_LAYER].keys()
        missing |= self._needs.raw_qkv - self._kept[RAW_QKV].keys()
        if not self.by_interface and self._calls != layers:
            raise KdzooError(
                f"{name} shows no attention that can be captured: {self._calls} softmaxes over (B, A, S, S) in "
                f"{layers} layers; choose a loss that needs no attention"
            )
        if missing:
            through = " through transformers' attention interface" if self.by_interface else ""
            raise KdzooError(
                f"{name} ran {self._calls} attention layers{through}; queries and keys are missing for "
                f"{sorted(missing)}; choose a loss that needs no attention"
            )

    def _states(self, outputs: Any) -> Any:
        states = part_of(outputs, "encoder_hidden_states" if self._stacks else "hidden_states")
        if len(states) != (layers := num_layers(self._model.config)) + 1:
            raise KdzooError(
                f"{type(self._model).__name__} has {layers} layers and shows {len(states)} hidden states, so that none "
                "can be told to be a layer's; take a loss on logits, such as kd"
            )
        return states

    def _check_places(self, layer: int, states: Tensor) -> None:
        if self._length is not None and states.shape[1] != self._length:
            raise KdzooError(
                f"hidden state {layer} of {type(self._model).__name__} has {states.shape[1]} places for "
                f"{self._length} tokens; take a loss on logits or cls, such as kd or pkd"
            )

    def _head_states(self, layer: int, states: Tensor, mask: Tensor | None) -> Tensor:
        """The states that the model's head reads, (B, D): a copy, so that the other positions can be freed."""
        if mask is None:
            mask = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
        places = head_positions(self._model, mask)
        if places.any():  # of fewer places than tokens the first alone stands where it stood
            self._check_places(layer, states)
        return states[torch.arange(len(states), device=states.device), places]

    def _reset(self) -> None:
        self._calls = 0
        self._ran = False
        self._length: int | None = None
        self._targets: Tensor | None = None
        attention = (QKV_OF_LAYER, RAW_QKV, DECODER_QKV, CROSS_QKV)
        self._kept: dict[Feature, dict[int, Any]] = {feature: {} for feature in attention}
        self._seen: dict[Feature, dict[int, Tensor]] = {feature: {} for feature in attention}
        self._parts: dict[int, dict[int, Tensor]] = {}  # of raw queries, keys and values, as they come in
        self._sources = 0  # the tokens of a source, as the encoder's attention saw them

    def _start(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self._reset()
        self._ran = True
        self._grad = torch.is_grad_enabled()
        self._targets = kwargs.get("decoder_attention_mask")
        read = (*args[:1], kwargs.get("input_ids"), kwargs.get("inputs_embeds"))
        self._length = next((int(value.shape[1]) for value in read if isinstance(value, Tensor)), None)
        mask = kwargs.get("attention_mask")
        self._pairs = mask if isinstance(mask, Tensor) and mask.dim() > 2 else None
        if self._pairs is not None:
            check_self_seen(self._pairs)
        running.append(self)
        if not self.by_interface:
            self._watching = AtSoftmax(self.softened)
            self._watching.__enter__()
        if self._needs.states or self._needs.decoder:
            wanted = sorted(self._needs.states)
            by_index = self._by_index and not self._stacks  # of two stacks neither has all of the other's indices
            kwargs = kwargs | {"output_hidden_states": wanted if by_index else True}
        return args, kwargs

    def _stop(self, *_: Any) -> None:
        if self in running:
            running.remove(self)
        if self._watching is not None:
            self._watching.__exit__(None, None, None)
            self._watching = None

    def attended(
        self, module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, extra: dict[str, Any]
    ) -> None:
        """Told by each layer's attention what it was given, in the layers' order."""
        # calls are numbered because ALBERT runs one module as all of its layers
        feature, layer = self._place(self._calls)
        self._calls += 1
        if not feature.of_decoder:
            self._sources = key.shape[-2]
        wanted = layer in getattr(self._needs, feature)
        raw = feature == QKV_OF_LAYER and layer in self._needs.raw_qkv
        if not wanted and not raw:
            return
        self._refuse_checkpointing()
        if feature.of_decoder and not is_as_told(module, query, key, extra, self._sources if feature.cross else None):
            raise self._other_decoder()
        if raw:
            self._kept[RAW_QKV][layer] = QKV(query, of_each_head(query, key), of_each_head(query, value))
        if wanted:
            found = scaled(type(self._model).__name__, query, key, value, mask, extra, cross=feature.cross)
            self._kept[feature][layer] = found if isinstance(found, Tensor) else QKV(*found)
        seen = visible_pairs(module, query, mask, extra, by_pairs=self._pairs is not None)
        if seen is not None and not feature.cross:  # where each real token of the source is seen
            self._seen[feature][layer] = seen

    def _place(self, call: int) -> tuple[Feature, int]:
        """What the layer of a call is: a decoder's layers attend to their own tokens, and then to the source's."""
        depth = num_layers(self._model.config)
        if not self._stacks or call < depth:
            return QKV_OF_LAYER, call
        return (DECODER_QKV, CROSS_QKV)[(call - depth) % 2], (call - depth) // 2

    def _other_decoder(self) -> KdzooError:
        return KdzooError(
            f"{type(self._model).__name__}'s decoder does not attend to its own tokens and then to the source's in "
            "each layer, so that its attention cannot be told apart; choose a loss that needs none of it"
        )

    def softened(self, scores: Tensor) -> None:
        """Told of each softmax over (B, A, S, S) in a model that hides its queries and keys, in the layers' order."""
        layer, self._calls = self._calls, self._calls + 1
        if layer in self._needs.attention:
            self._refuse_checkpointing()
            if layer in self._needs.qkv:
                self._kept[QKV_OF_LAYER][layer] = scores  # as they are: a checkpoint counts what is saved of them
            if self._pairs is not None:
                self._seen[QKV_OF_LAYER][layer] = seen_pairs(self._pairs)
            elif sees_backwards(self._model):
                self._seen[QKV_OF_LAYER][layer] = scores.amax(1) > HIDDEN

    def of_linear(self, layer: int, part: int, module: nn.Module, inputs: Any, vectors: Tensor) -> None:
        """Told what each linear layer of a model that hides its queries and keys makes of (B, S, D).

        Args:
            layer: the attention layer.
            part: 0 for queries, 1 for keys, 2 for values.
            module, inputs: the linear layer and what it was given.
            vectors: (B, S, A * d). DeBERTa's layers go on to project places, after the tokens.
        """
        if self not in running or layer not in self._needs.raw_qkv:
            return
        parts = self._parts.setdefault(layer, {})
        if part in parts:
            return
        parts[part] = vectors.unflatten(-1, (num_heads(self._model.config), -1)).transpose(1, 2)
        if len(parts) == len(QKV._fields):
            self._kept[RAW_QKV][layer] = QKV(*(parts[of] for of in sorted(parts)))

    def _refuse_checkpointing(self) -> None:
        if self._grad and not torch.is_grad_enabled():
            raise KdzooError(
                "attention cannot be captured under reentrant gradient checkpointing, which would cut its "
                "gradient; set gradient_checkpointing_kwargs={'use_reentrant': False}"
            )


@contextmanager
def capture(model: nn.Module, needs: Needs) -> Iterator[Recorder]:
    """Take from a model's forward passes what ``needs`` names, and leave the model as it was.

    While queries, keys and values are captured, attention runs as PyTorch's scaled dot product, whatever it
    was set to; without them the model's attention is not touched. Models that do not use transformers'
    attention interface (DeBERTa) show their scores, which go into the softmax: see `Activations`.

    Args:
        model: a transformers model, or a wrapper of one (PEFT, ``torch.compile``, DistributedDataParallel). In
            training mode gradients flow through everything captured; where none is wanted, of a teacher, training
            mode is warned of once, since its dropout is on. Captures of different models may be nested.
        needs: what to take.

    Raises:
        KdzooError: an index is out of the model's range; the model is wrapped in DataParallel over several devices.

    Example::

        with capture(model, Needs(cls=frozenset({0, 6}), qkv=frozenset({5}))) as recorder:
            outputs = model(**inputs)
        taken = recorder.activations(outputs, mask=inputs["attention_mask"])
        taken.cls[6], taken.qkv[5].query
    """
    if needs is None:
        raise KdzooError("there is nothing to capture: the needs are None, so this model need not run")
    check_transformers(model)
    model = savable(model)
    inner = unwrap(model)
    check_needs(inner, needs)
    recorder = Recorder(inner, needs)
    with ExitStack() as undo:
        if (needs.attention or needs.decoder_attention) and recorder.by_interface:
            undo.enter_context(recording_attention(inner))
        if needs.raw_qkv and not recorder.by_interface:
            # On all layers: torch.compile takes what it made of one without a hook for the next one, which has one.
            for layer, parts in enumerate(qkv_layers(inner)):
                for at, part in enumerate(parts):
                    undo.callback(part.register_forward_hook(functools.partial(recorder.of_linear, layer, at)).remove)
        undo.enter_context(attention_kept(inner))
        undo.callback(recorder._stop)  # an interrupted forward pass skips its hook
        # PEFT's wrapper runs the forward function of what it holds, and not its hooks; they are on its tuner then.
        called: Any = model.base_model if is_peft(model) else inner
        undo.callback(called.register_forward_pre_hook(recorder._start, with_kwargs=True).remove)
        undo.callback(called.register_forward_hook(recorder._stop, always_call=True).remove)
        yield recorder
