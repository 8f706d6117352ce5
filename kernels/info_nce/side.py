"""Vectors by slot, as both ways of computing `info_nce` take them."""

from __future__ import annotations

from functools import cached_property

import torch
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, accumulator, on_host
from kdzoo.kernels.layout import by_slot, counted


class Side:
    """Vectors by slot.

    Attributes:
        vectors: (slots, B, D), as they are given.
        real: (slots, B), which of them count; None for all.
        inverse: (slots, B), their inverse norms: 0 for those whose norm is zero or infinite, or that do not count.
    """

    def __init__(self, vectors: Tensor, mask: Tensor | None) -> None:
        dtype = accumulator(vectors.dtype)
        real = counted(mask, vectors)
        self.real = None if real is None else real.T
        self.vectors = by_slot(vectors)
        norm = torch.linalg.vector_norm(self.vectors, dim=-1, dtype=dtype)
        none = (norm == 0) | (norm == torch.inf)
        if self.real is not None:
            none |= ~self.real
        self.inverse = norm.clamp_min_(EPSILON).reciprocal_().masked_fill_(none, 0.0)

    @cached_property
    def units(self) -> Tensor:
        """The vectors at length one, or zero where the inverse norm is."""
        inverse = self.inverse.unsqueeze(-1)
        units = torch.mul(self.vectors, inverse)
        # A fill costs a CPU more than a multiplication, and a look costs it nothing.
        if on_host(units.device) and bool((inverse != 0).all()):
            return units
        return units.masked_fill_(inverse == 0, 0.0)


def positive_scores(own: Side, keys: Side, start: int, temperature: float) -> Tensor:
    """The scores (slots, B) of all anchors with their own keys."""
    rows = own.vectors.shape[1]
    return (own.units * keys.units[:, start : start + rows]).sum(-1).div_(temperature)
