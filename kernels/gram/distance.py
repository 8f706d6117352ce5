"""RKD's distances: each two rows' distance in units of the mean one."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import power_of_2
from kdzoo.kernels.gram.checks import SMALLEST
from kdzoo.kernels.gram.shared import (
    Result,
    both_real,
    centred_roughly,
    others_zeroed,
    refine,
    squares_and_products,
    symmetric,
    weighed,
)
from kdzoo.kernels.layout import as_bytes


def distance(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    moved = centred_roughly(ours, real)
    lengths = _triton_lengths if fused else _torch_lengths
    one, two = lengths(moved, real), lengths(centred_roughly(theirs, real), real)
    count = real.sum(1).to(one.dtype)
    count = (count * (count - 1)).clamp_min_(1)[:, None, None]
    means = [(side.sum((1, 2), keepdim=True) / count).masked_fill_(count == 1, 1.0) for side in (one, two)]
    total, weights = (_triton_distance if fused else _torch_distance)(
        one, two, means[0], means[1], count, own, with_gradient
    )
    return total, None if weights is None else weighed(moved, weights)


def _torch_lengths(vectors: Tensor, real: Tensor) -> Tensor:
    """Distances (slots, N, N); 0 on the diagonal and where a row is not real, else at least 1e-6."""
    none = ~both_real(real)
    none.diagonal(dim1=1, dim2=2).fill_(True)
    if not backend.on_host(vectors.device):
        apart = torch.cdist(vectors, vectors, compute_mode="donot_use_mm_for_euclid_dist")
    else:
        apart, squares = squares_and_products(vectors)
        refine(apart, squares, vectors, none)
        apart = apart.sqrt_()
    return apart.clamp_min_(SMALLEST).masked_fill_(none, 0.0)


def _torch_distance(
    ours: Tensor, theirs: Tensor, our_mean: Tensor, their_mean: Tensor, count: Tensor, own: slice, with_gradient: bool
) -> Result:
    """The sum over all pairs, and the weight of x_i - x_j in its gradient at x_i."""
    scaled_ours = ours / our_mean
    gap = torch.addcdiv(scaled_ours, theirs, their_mean, value=-1)
    slope = others_zeroed(gap.clamp(-1, 1), own)
    total = slope.flatten() @ gap.flatten() - slope.flatten() @ slope.flatten() / 2
    if not with_gradient:
        return total, None
    # Every distance moves the mean.
    moved = scaled_ours.mul_(slope).sum((1, 2), keepdim=True) / count
    weights = symmetric(slope).sub_(2 * moved).div_(our_mean).div_(ours)
    return total, weights.masked_fill_(ours <= SMALLEST, 0.0)


def _triton_lengths(vectors: Tensor, real: Tensor) -> Tensor:
    """As `_torch_lengths`, from the differences of the rows."""
    from kdzoo.kernels.gram import triton_kernels

    slots, rows, width = vectors.shape
    side = 16
    across = -(-rows // side)
    lengths = vectors.new_empty((slots, rows, rows))
    triton_kernels.lengths_kernel[(across * across * slots,)](
        vectors.contiguous(),
        as_bytes(real.contiguous()),
        lengths,
        rows,
        width,
        SMALLEST=SMALLEST,
        BLOCK_M=side,
        BLOCK_D=16,
        num_warps=4,
    )
    return lengths


def _triton_distance(
    ours: Tensor,
    theirs: Tensor,
    our_mean: Tensor,
    their_mean: Tensor,
    count: Tensor,
    own: slice,
    with_gradient: bool,
) -> Result:
    """As `_torch_distance`; a program has one row of the matrix."""
    from kdzoo.kernels.gram import triton_kernels

    slots, rows = ours.shape[:2]
    block = min(1024, power_of_2(rows))
    warps = max(1, block // 256)
    means = torch.cat([our_mean, their_mean], dim=1)
    sums = ours.new_empty((2, slots, rows))
    triton_kernels.pairs_kernel[(rows * slots,)](
        ours, theirs, means, sums[0], sums[1], rows, own.start, own.stop, BLOCK_N=block, num_warps=warps
    )
    if not with_gradient:
        return sums[0].sum(), None
    moved = sums[1].sum(1) / count.flatten()
    weights = torch.empty_like(ours)
    triton_kernels.pair_weights_kernel[(rows * slots,)](
        ours,
        theirs,
        means,
        moved,
        weights,
        rows,
        own.start,
        own.stop,
        SMALLEST=SMALLEST,
        BLOCK_N=block,
        num_warps=warps,
    )
    return sums[0].sum(), weights
