"""What of two models' tokens and attention is compared: what is real, and may be seen, on both sides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.models.activations import QKV, Activations
from kdzoo.models.features import Feature

if TYPE_CHECKING:
    from kdzoo.objectives.term import Term


def real_of(feature: Feature, student: Activations, teacher: Activations) -> Tensor | None:
    """Which of a feature's tokens are compared: (B, S), of a decoder's (B, T); None for all."""
    return student.target_mask if feature.of_decoder else both_real(student.mask, teacher)


def both_real(mask: Tensor | None, teacher: Activations | None) -> Tensor | None:
    """A student's mask (B, S) without the tokens that an aligned teacher did not read."""
    if teacher is None or not teacher.aligned or teacher.mask is None:
        return mask
    return teacher.mask if mask is None else mask & teacher.mask


def seen_of(feature: Feature, student: Activations, teacher: Activations, i: int, j: int) -> Tensor | None:
    """What both attention layers may look at, as a mask for their comparison.

    Args:
        feature: which attention.
        student, teacher: what was taken of both.
        i, j: the student's layer and the teacher's.

    Returns:
        The mask (B, S); (B, S, S) where one layer has a window of its own; of attention to the source the pairs
        (B, T, S) of real tokens; None for all.
    """
    if feature.cross:
        return _across(student.get(feature, i), student.target_mask, both_real(student.mask, teacher))
    real = real_of(feature, student, teacher)
    sides = ((student, i), (teacher, j))
    visible = [(side.decoder_visible if feature.of_decoder else side.visible, layer) for side, layer in sides]
    windows = [of[layer] for of, layer in visible if layer in of]
    if not windows:
        return real
    seen = windows[0] & windows[-1]
    return seen if real is None else seen & real.unsqueeze(1) & real.unsqueeze(2)


def seen_by_all(
    term: Term, student: Activations, teacher: Activations, own: Sequence[int], other: Sequence[int]
) -> Tensor | None:
    """What all of several attention layers may look at, where it is the same for each.

    Raises:
        KdzooError: where one layer may look at more than another.
    """
    seen = [seen_of(term.feature, student, teacher, i, j) for i in own for j in other]
    first = seen[0]
    for mask in seen[1:]:
        if mask is not first and (mask is None or first is None or not torch.equal(mask, first)):
            raise KdzooError(
                f"the term {term.name!r} takes all layers at once, and these do not all see the same tokens (windows, "
                "causal attention); take a loss that goes layer by layer"
            )
    return first


def _across(attention: QKV | Tensor, targets: Tensor | None, sources: Tensor | None) -> Tensor | None:
    """The pairs (B, T, S) of a real token of the target and one of the source; None for all."""
    if targets is None and sources is None:
        return None
    tensors = (attention, attention.mT) if isinstance(attention, Tensor) else (attention.query, attention.key)
    targets, sources = (
        torch.ones(of.shape[0], of.shape[-2], dtype=torch.bool, device=of.device) if real is None else real
        for real, of in zip((targets, sources), tensors, strict=True)
    )
    return targets.unsqueeze(2) & sources.unsqueeze(1)
