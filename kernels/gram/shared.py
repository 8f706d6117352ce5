"""What the relations of rows share: prepared rows, their squared distances, norms and gradients."""

from __future__ import annotations

from typing import TypeAlias

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import EPSILON, accumulator, exact_product, in_tf32

BLOCK = 65536  # elements of a temporary that the CPU keeps in its cache, for each thread
NEAR = 1 / 32  # of two rows' squared sizes: a squared distance below it is not taken from products on a CPU

Result: TypeAlias = tuple[Tensor, "Tensor | None"]  # the value, and its gradient where that is wanted


def prepared(vectors: Tensor, real: Tensor) -> Tensor:
    """In the type of sums; zeros where a row is not real, or of infinite length."""
    vectors = vectors.to(accumulator(vectors.dtype))
    none = ~real | (torch.linalg.vector_norm(vectors.detach(), dim=-1) == torch.inf)
    return vectors.masked_fill(none.unsqueeze(-1), 0.0)


def both_real(real: Tensor) -> Tensor:
    """(slots, N, N) bool: both rows are real."""
    return real.unsqueeze(1) & real.unsqueeze(2)


def centred_roughly(vectors: Tensor, real: Tensor) -> Tensor:
    """The rows less their mean: their products have smaller rounding errors, and their differences are the same."""
    return vectors - vectors.sum(1, keepdim=True) / real.sum(1).clamp_min(1)[:, None, None]


def squares_and_products(moved: Tensor) -> tuple[Tensor, Tensor]:
    """The squared distance of each two rows, from their products, and the squared lengths (slots, N)."""
    products = exact_product(moved, moved.mT)
    squares = products.diagonal(dim1=1, dim2=2)
    return torch.add(squares.unsqueeze(1) + squares.unsqueeze(2), products, alpha=-2), squares


def refine(apart: Tensor, squares: Tensor, moved: Tensor, none: Tensor) -> None:
    """In place, take close rows' squared distances, in which the products cancel out, from their differences."""
    near = apart <= NEAR * (squares.unsqueeze(1) + squares.unsqueeze(2))
    # As many at once as the cache holds.
    for part in near.masked_fill_(none, False).triu_(1).nonzero().split(max(1, BLOCK // max(1, moved.shape[-1]))):
        slot, i, j = part.unbind(1)
        apart[slot, i, j] = apart[slot, j, i] = (moved[slot, i] - moved[slot, j]).square_().sum(-1)


def squared_distances(vectors: Tensor, real: Tensor, exact: bool = False) -> tuple[Tensor, Tensor]:
    """Rows (slots, N, D) less their mean, and their squared distances (slots, N, N).

    A distance is 0 where a row is not real, and where two rows coincide: are no further apart than what the rounding of
    the rows, or of their products, leaves to see, which would be noise with a huge gradient at the angles.

    Args:
        vectors: (slots, N, D), zero where not real.
        real: (slots, N) bool.
        exact: on a CPU, compute the distances of close rows again, from their differences; neither autograd nor a
            compiler passes through this.
    """
    moved = centred_roughly(vectors, real)
    apart, squares = squares_and_products(moved)
    none, eps = ~both_real(real), torch.finfo(apart.dtype).eps
    blurred = (4 * eps) ** 2 * vectors.square().sum(-1)
    if exact and backend.on_host(vectors.device):
        refine(apart, squares, moved, none)
    else:
        blurred = blurred + 64 * eps * squares
    # Not the opposite comparison: a NaN is seen, and stays.
    unseen = apart <= blurred.unsqueeze(1) + blurred.unsqueeze(2)
    return moved, apart.masked_fill(unseen | none, 0.0)


def weighed(vectors: Tensor, weights: Tensor) -> Tensor:
    """Σ_j w_ij (x_i - x_j) for symmetric weights (slots, N, N)."""
    own = vectors * weights.sum(-1, keepdim=True)
    if in_tf32(weights):
        return own.sub_(exact_product(weights, vectors))
    return torch.baddbmm(own, weights, vectors, alpha=-1)


def symmetric(matrix: Tensor) -> Tensor:
    return matrix + matrix.mT


def others_zeroed(matrix: Tensor, own: slice) -> Tensor:
    """In place, zeros in the rows (second axis) that are not own."""
    matrix[:, : own.start] = 0
    matrix[:, own.stop :] = 0
    return matrix


def norms_and_inverses(vectors: Tensor, added: float = 0.0) -> tuple[Tensor, Tensor]:
    """The norms on the last axis, and 1 / (norm + added); 0 for a norm of 0."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return norm, (norm + added).clamp_min_(EPSILON).reciprocal_().masked_fill_(norm == 0, 0.0)


def centred(vectors: Tensor, real: Tensor) -> Tensor:
    """The rows less their mean, zero where not real; rows that are all equal are exactly zero."""
    if real.shape[1] == 0:
        return vectors
    counted = real.unsqueeze(-1)
    first = real.int().argmax(1)[:, None, None].expand(-1, 1, vectors.shape[-1])
    return centred_roughly((vectors - vectors.gather(1, first)) * counted, real) * counted


def slot_shares(real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
    """The share of each slot's rows that is own; 0 for a slot of less than two rows."""
    rows = real.sum(1)
    return torch.where(rows > 1, real[:, own].sum(1).to(dtype) / rows.clamp_min(1), 0.0)
