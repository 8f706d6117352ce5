"""What of a teacher's activations is a file of its cache, and how the rows of a training set are found in it."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.kernels.linear_divergence import spread_rest
from kdzoo.models.activations import QKV, Activations, Needs
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.features import FEATURES, LOGITS, Feature
from kdzoo.models.heads import (
    adds_position_bias,
    batch_dependence,
    hidden_size,
    is_causal,
    logits_by_token,
    num_heads,
    shows_qkv,
    unwrap,
    vocabulary_size,
    writes_targets,
)
from kdzoo.models.masks import real_tokens, seen_pairs
from kdzoo.training.collated import Rows, fingerprints

ROW, TOKEN, TARGET = "row", "token", "target"  # what a feature is kept by
MOST_LEFT_OUT = 0.01  # of a teacher's probability, before it is said


@dataclass(frozen=True)
class Kept:
    """One file: a feature, of a layer where it has layers; of logits the ``top`` ones, or the ``places`` of these."""

    feature: Feature
    layer: int | None = None
    top: int | None = None
    places: bool = False

    def __str__(self) -> str:
        if self.top is not None:
            return f"{self.feature}-{'places' if self.places else 'top'}-{self.top}"
        return str(self.feature) if self.layer is None else f"{self.feature}-{self.layer}"

    def by(self, teacher: Any) -> str:
        """What it is kept by: ``"row"``, ``"token"``, or the token of a ``"target"``."""
        if self.feature.of_decoder or (self.feature == LOGITS and writes_targets(teacher)):
            return TARGET
        by_token = logits_by_token(teacher) if self.feature == LOGITS else self.feature.by_token
        return TOKEN if by_token else ROW

    def width(self, teacher: Any) -> int:
        """Numbers a row or token."""
        config = getattr(teacher, "config", teacher)
        if self.top is not None:
            return self.top + (not self.places)
        if self.feature == LOGITS:
            return logits_width(teacher)
        if self.feature.of_decoder:
            sizes = decoder_sizes(config)
            assert sizes is not None
            return sizes[1]
        if self.feature.attention:
            own = getattr(config, "head_dim", None) or getattr(config, "d_kv", None)  # the latter is T5's
            return 3 * num_heads(config) * int(own or hidden_size(config) // num_heads(config))
        return hidden_size(config)


def logits_width(teacher: Any) -> int:
    """How many logits a model, or a configuration's, has a row or token."""
    config = getattr(teacher, "config", teacher)
    output = teacher.get_output_embeddings() if hasattr(teacher, "get_output_embeddings") else None
    return vocabulary_size(config) if output is not None or writes_targets(config) else int(config.num_labels)


def why_not_kept(teacher: nn.Module, needs: Needs) -> str | None:
    """Why a teacher's numbers, or something that is needed of it, cannot be kept, so that it runs live; else None."""
    if needs.decoder_attention:
        return "the attention of its decoder is not kept"
    if needs.qkv and not shows_qkv(teacher):
        return f"{type(unwrap(teacher)).__name__} does not show its queries and keys"
    if needs.qkv and adds_position_bias(teacher):
        return "its attention adds a bias to the scores of queries and keys"
    if needs.attention and is_causal(teacher):
        return "its attention is causal"
    return batch_dependence(teacher)


def kept_of(needs: Needs, top: int | None = None) -> list[Kept]:
    layered = (f for f in FEATURES.values() if f.by_layer and not (f.attention and f.of_decoder))
    logits = [Kept(LOGITS)] if top is None else [Kept(LOGITS, top=top), Kept(LOGITS, top=top, places=True)]
    logits = logits if needs.logits else []
    return [*logits, *(Kept(f, layer) for f in layered for layer in sorted(getattr(needs, f.kept)))]


class Axis:
    """Where the rows' parts are in a file: a part a row, or as many as the row is long."""

    def __init__(self, lengths: np.ndarray[Any, Any]) -> None:
        self.lengths = lengths
        self._starts = np.concatenate([[0], np.cumsum(lengths)])
        self.total = int(self._starts[-1])

    def places(self, rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Those of some rows, row by row."""
        return np.concatenate([np.arange(self._starts[row], self._starts[row] + self.lengths[row]) for row in rows])


def axes_of(rows: Rows) -> dict[str, Axis]:
    return {ROW: Axis(np.ones_like(rows.lengths)), TOKEN: Axis(rows.lengths), TARGET: Axis(rows.targets)}


class TeacherRows:
    """What a cache holds of a training set; `activations` are those of some of its rows."""

    def __init__(
        self,
        values: dict[Kept, tuple[Tensor, str]],
        rows: Rows,
        vocabulary: int,
        computed_in: torch.dtype | None = None,
    ) -> None:
        """
        Args:
            values: what is kept, and what by.
            rows: their lengths, and the prints of their inputs.
            vocabulary: how many logits there are, of which some may be kept.
            computed_in: the half precision that matrix products were computed in, if they were.
        """
        self._values, self._vocabulary, self._computed_in = values, vocabulary, computed_in
        self._prints, self._axes = torch.from_numpy(rows.prints), axes_of(rows)
        self._top = next((kept.top for kept in values if kept.top is not None), None)

    @property
    def left_out(self) -> tuple[int, float] | None:
        """How many logits are kept, and what share of the teacher's probability the others have, on average over some
        rows; None where all are kept."""
        for kept, (values, _) in self._values.items():
            if kept.top is not None and not kept.places:
                some = values[:: max(len(values) // 4096, 1), -1]
                return kept.top, float(some.double().exp().mean()) if len(some) else 0.0
        return None

    def holds(self, sample_ids: Tensor, taken: dict[str, Tensor]) -> bool:
        """Whether a batch is what the teacher was given of these rows, (B,)."""
        prints = fingerprints(taken).numbers
        return torch.equal(prints, self._prints[sample_ids.cpu()].to(prints.device))

    def activations(
        self,
        sample_ids: Tensor,
        mask: Tensor | None,
        needs: Needs,
        *,
        targets: Tensor | None = None,
        index: Tensor | None = None,
    ) -> Activations:
        """The teacher's activations of a batch, in float32; queries, keys and values in the type that they came in.

        Those the live teacher gives in half precision under autocast, in which their products are several times faster.

        Args:
            sample_ids: (B,).
            mask: (B, S) or of pairs (B, 1, S, S), the batch's attention mask; None where no row is padded.
            needs: which of them.
            targets: (B, T) the mask of the targets; None where none is padded.
            index: of each of the student's tokens its place among the teacher's; those that have one are kept.

        Raises:
            KdzooError: when the mask's rows are not as long as those that the cache was made from.
        """
        device = sample_ids.device
        rows = sample_ids.cpu().numpy()
        masks = {TOKEN: real_tokens(mask) if index is None else index >= 0, TARGET: real_tokens(targets)}
        found = Activations(mask=masks[TOKEN], target_mask=masks[TARGET], aligned=index is not None)
        places: dict[str, Tensor] = {}
        logs: Tensor | None = None
        for kept in kept_of(needs, self._top):
            values, by = self._values[kept]
            if by not in places:
                places[by] = torch.from_numpy(self._axes[by].places(rows))
                if by != ROW:
                    masks[by] = self._checked(by, masks[by], rows, device)
            in_half = kept.feature.attention and self._computed_in is not None
            kind = torch.int32 if kept.places else self._computed_in if in_half else torch.float32
            value = values[places[by]].to(device, kind)
            if kept.places:
                assert logs is not None
                value = spread_rest(logs, value, self._vocabulary)
            elif kept.top is not None:
                logs = value  # of which the places come next
                continue
            if by != ROW:
                real = masks[by]
                assert real is not None
                padded = value.new_zeros(*real.shape, *value.shape[1:])
                padded[real] = value
                value = padded
            if kept.layer is None:
                found.logits = value
            elif kept.feature.attention:
                query, key, value = (part.transpose(1, 2) for part in value.unbind(2))
                getattr(found, kept.feature)[kept.layer] = QKV(query, key, value)
                if index is None and mask is not None and mask.dim() > 2:
                    found.visible[kept.layer] = seen_pairs(mask)
            else:
                getattr(found, kept.feature.kept)[kept.layer] = value
        return found

    def _checked(self, by: str, real: Tensor | None, rows: np.ndarray[Any, Any], device: torch.device) -> Tensor:
        lengths = torch.from_numpy(self._axes[by].lengths[rows]).to(device)
        if real is None:
            real = torch.ones(len(rows), int(lengths.max()), dtype=torch.bool, device=device)
        if not torch.equal(real.sum(1), lengths):
            raise KdzooError(
                f"the batch's rows have {real.sum(1).tolist()} tokens and the cached ones {lengths.tolist()}; "
                "sample_ids must be the rows' places in the training set that the cache was made from"
            )
        return real


def say_left_out(rows: TeacherRows) -> None:
    """Warn of a cache that leaves out so much of the teacher's probability that losses show it."""
    kept, rest = rows.left_out or (0, 0.0)
    if rest > MOST_LEFT_OUT:
        warnings.warn(
            f"the teacher's cache keeps {kept} logits, and the others have {rest:.1%} of its probability, by which "
            "losses are off; keep more of them, or all",
            KdzooWarning,
            stacklevel=2,
        )
