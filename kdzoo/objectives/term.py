"""A term of an objective: a loss, what it is taken on, and how much it weighs."""

from __future__ import annotations

import inspect
import math
from typing import Any

from torch import nn

from kdzoo.errors import KdzooError, unknown
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.models.features import CROSS_QKV, DECODER_QKV, LOGITS, ORDER, QKV_OF_LAYER, RAW_QKV, Feature, features_of
from kdzoo.models.layers import LayerMap
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.schedule import Schedule, Weight, fractions_of

LAYER_REDUCTIONS = ("sum", "mean")
LAYER_SCHEDULES = ("together", "progressive", "stacked")


class Term:
    """One loss of an objective: what it is taken on, over which layers, with which weight.

    Args:
        loss: a registered name, or a loss of your own.
        feature: what the loss is taken on, one of its ``features``; its first one when not given.
        layers: a layer map (`kdzoo.models.layers.layer_map`); ``"uniform"``, the top layer for a loss meant for it, or
            ``"all"`` for a loss that pairs layers itself.
        weight: a number, or a `Schedule` over the fraction of training done.
        layer_reduction: ``"sum"`` over the mapped layers, or ``"mean"``.
        layer_schedule: ``"together"``; ``"progressive"``, one layer after the other from the lowest up, each for an
            equal share of the time that the term has a weight; or ``"stacked"``, each layer added to those below it.
        shared: one projection for all mapped layers, instead of one a layer.
        name: how the term is called in logs; the loss's name when not given.
        options: the loss's own options, such as ``temperature``.

    Raises:
        KdzooError: for an unknown loss, feature or option.
    """

    def __init__(
        self,
        loss: str | DistillationLoss,
        *,
        feature: str | None = None,
        layers: LayerMap | None = None,
        weight: Weight = 1.0,
        layer_reduction: str = "sum",
        layer_schedule: str = "together",
        shared: bool = False,
        name: str | None = None,
        **options: Any,
    ) -> None:
        kind = loss_class(loss) if isinstance(loss, str) else type(loss)
        self.module = None if isinstance(loss, str) else loss
        self.loss_class = kind
        label = loss if isinstance(loss, str) else loss.label
        if self.module is not None and options:
            raise KdzooError(f"{label} is an object already; give its options ({', '.join(options)}) when making it")
        known = options_of(kind)
        for option in options:
            if option not in known:
                raise unknown(f"option of {label}", option, [*known, *OWN_OPTIONS])
        possible = features_of(kind.features, kind.extras, cross_attention=kind.cross_attention)
        if feature == CROSS_QKV and DECODER_QKV in possible and feature not in possible:
            raise KdzooError(
                f"{label} relates the tokens of one text, and {CROSS_QKV} is of a target's tokens to a source's; "
                "attention_mse, attention_kl and attention_ce take it"
            )
        if feature is not None and feature not in possible:
            raise unknown(f"feature of {label}", feature, possible)
        self.feature: Feature = possible[feature or kind.features[0]]
        if layers is not None and not self.feature.by_layer:
            raise KdzooError(f"{label} is taken on the {self.feature}, which has no layers to map")
        if layer_reduction not in LAYER_REDUCTIONS:
            raise unknown("layer_reduction", layer_reduction, LAYER_REDUCTIONS)
        if layer_schedule not in LAYER_SCHEDULES:
            raise unknown("layer_schedule", layer_schedule, LAYER_SCHEDULES)
        one_by_one = self.feature.by_layer and not kind.stacked and not kind.many_to_many
        of_layers = {"layer_schedule": layer_schedule != "together", "layer_reduction": layer_reduction != "sum"}
        for option, given in (of_layers | {"shared": shared}).items():
            if given and not one_by_one:
                raise KdzooError(f"{label} on the {self.feature} does not go layer by layer; leave out {option}")
        default = "all" if kind.many_to_many else "uniform[-1]" if kind.top_only else "uniform"
        weights = [value for _, value in weight.points] if isinstance(weight, Schedule) else [weight]
        try:
            finite = all(math.isfinite(value) for value in weights)
        except TypeError:
            raise KdzooError(f"the weight of {label} is {weight!r}; it is a number or a schedule") from None
        if not finite:
            raise KdzooError(f"the weight of {label} is {weight}; it must be finite")
        self.layers: LayerMap = layers if layers is not None else default
        self.weight = weight
        self.layer_reduction = layer_reduction
        self.layer_schedule = layer_schedule
        self.shared = shared
        self.name = name or label
        if "." in self.name or hasattr(nn.ModuleDict, self.name):
            raise KdzooError(f"a term cannot be called {self.name!r}, which PyTorch has another use for; give name=")
        self.options = options

    def __repr__(self) -> str:
        """Its parts: the loss, and what was chosen of the rest."""
        loss = self.loss_class.name or self.loss_class.__name__
        shown = [repr(loss) if self.module is None else repr(self.module)]
        if str(self.feature) != self.loss_class.features[0]:
            shown.append(f"feature={str(self.feature)!r}")
        if self.feature.by_layer:
            shown.append(f"layers={self.layers!r}")
        own = {"weight": 1.0, "layer_reduction": "sum", "layer_schedule": "together", "shared": False}
        shown += [f"{name}={getattr(self, name)!r}" for name, plain in own.items() if getattr(self, name) != plain]
        if self.name != (loss if self.module is None else self.module.label):
            shown.append(f"name={self.name!r}")
        return f"Term({', '.join([*shown, *(f'{name}={value!r}' for name, value in self.options.items())])})"

    def taken_of(self, model: ModelShape) -> Feature:
        """The feature of a model that the loss is given: raw queries and keys where these do not give the scores."""
        more = model.position_bias or not model.shows_qkv
        return RAW_QKV if self.feature == QKV_OF_LAYER and self.loss_class.raw_qkv and more else self.feature

    def weight_at(self, progress: float) -> float:
        """The weight when ``progress`` (0 to 1) of the training is done."""
        return self.weight(progress) if isinstance(self.weight, Schedule) else float(self.weight)

    @property
    def moves(self) -> bool:
        """Whether it changes in the course of a training: its weight, the layers that take part, or the loss."""
        weighs = {self.weight_at(fraction) for fraction in (0.0, *fractions_of(self.weight), 1.0)}
        return len(weighs) > 1 or self.layer_schedule != "together" or "progress" in self.loss_class.extras

    def mean_over(self, by_token: bool = False, *, labelled: bool = False) -> str:
        """What the value is a mean over: ``"rows"``, ``"tokens"``, ``"pairs"`` of tokens, ``"labels"`` or ``"orders"``.

        Of a decoder, whose tokens are those that have a label, ``"target_pairs"`` of a token and one up to it, and
        ``"cross_pairs"`` with those of the source.

        Args:
            by_token: the logits are those of tokens.
            labelled: those that have a label count, and no others.
        """
        if self.loss_class.text_labels is not None:
            return "orders" if self.feature == ORDER else "labels"
        if self.feature == LOGITS:
            # A loss on labels alone leaves out what has none.
            if not self.loss_class.needs_teacher:
                return "labels"
            return "rows" if not by_token else "labels" if labelled else "tokens"
        padded = self.options.get("variant") in self.loss_class.counts_padding  # over padding too
        over = "rows" if padded or not self.feature.by_token else self.loss_class.mean_over or "tokens"
        if not self.feature.of_decoder:
            return over
        return {"tokens": "labels", "pairs": "cross_pairs" if self.feature.cross else "target_pairs"}.get(over, over)

    def progress_at(self, progress: float) -> float:
        """The fraction done of the time that the term has a weight, when ``progress`` of the training is done."""
        start, end = self.weight.span if isinstance(self.weight, Schedule) else (0.0, 1.0)
        return min(max((progress - start) / (end - start), 0.0), 1.0) if end > start else 1.0

    def layers_at(self, progress: float, count: int) -> range:
        """Which of ``count`` mapped layers take part when ``progress`` of the training is done."""
        if self.layer_schedule == "together":
            return range(count)
        current = min(int(self.progress_at(progress) * count), count - 1)
        return range(0 if self.layer_schedule == "stacked" else current, current + 1)


# What any term takes, whatever its loss: the signature is where these stand.
OWN_OPTIONS = tuple(
    name for name, parameter in inspect.signature(Term).parameters.items() if parameter.kind is parameter.KEYWORD_ONLY
)
