"""SP and PKT: the rows of the products of all rows, normalised, one by one."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, power_of_2
from kdzoo.kernels.gram.checks import SMOOTHING
from kdzoo.kernels.gram.shared import Result, both_real, norms_and_inverses, others_zeroed, symmetric
from kdzoo.kernels.layout import as_bytes

MAX_ROWS = 8192  # in Triton: one row of the N×N matrix is held in registers whole


def sp(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    one, two = ours @ ours.mT, theirs @ theirs.mT
    total, slope = (_triton_rows if fused else _torch_sp)(one, two, real, own, with_gradient)
    return total, None if slope is None else symmetric(slope) @ ours


def _torch_sp(ours: Tensor, theirs: Tensor, _: Tensor, own: slice, with_gradient: bool) -> Result:
    norm, inverse = norms_and_inverses(ours)
    rows = ours * inverse
    gap = others_zeroed(torch.addcmul(rows, theirs, norms_and_inverses(theirs)[1], value=-1), own)
    total = gap.flatten() @ gap.flatten()
    if not with_gradient:
        return total, None
    # A norm below the clamp is a constant, and bends nothing.
    bend = (gap * rows).sum(-1, keepdim=True).mul_(norm > EPSILON)
    return total, gap.addcmul_(rows, bend, value=-1).mul_(2 * inverse)


def pkt(
    ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool, added: float = 0.0
) -> Result:
    norm, inverse = norms_and_inverses(ours, added)
    directions, others = ours * inverse, theirs * norms_and_inverses(theirs, added)[1]
    products = directions @ directions.mT, others @ others.mT
    total, slope = (_triton_rows if fused else _torch_pkt)(*products, real, own, with_gradient, True)
    if slope is None:
        return total, None
    gradient = symmetric(slope) @ directions
    # u = v / (n + added); a norm below the clamp is a constant.
    bend = (gradient * directions).sum(-1, keepdim=True) / norm.masked_fill(norm == 0, 1.0) * (norm > EPSILON)
    return total, gradient.mul_(inverse).addcmul_(ours, bend * inverse, value=-1)


def _torch_pkt(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, _: bool) -> Result:
    others, chances, sums = ~both_real(real), [], []
    for side in (ours, theirs):
        alike = side.add_(1).div_(2).masked_fill_(others, 0.0)
        summed = alike.sum(-1, keepdim=True)
        sums.append(summed.masked_fill_(summed == 0, 1.0))
        chances.append(alike.div_(summed))
    q, p = chances
    # Both sum to one, so that their difference adds 0; with it, and log1p, no digits are lost where they are close.
    apart = p - q
    smooth = q + SMOOTHING
    losses = (apart / (p + SMOOTHING)).neg_().log1p_().mul_(p).add_(apart)
    total = -losses[:, own].sum()
    if not with_gradient:
        return total, None
    slope = others_zeroed(apart.sub_(SMOOTHING).div_(smooth), own)
    slope = torch.sub((slope * q).sum(-1, keepdim=True), slope).div_(2 * sums[0])
    return total, slope.masked_fill_(others, 0.0)


def _triton_rows(
    ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, neighbours: bool = False
) -> Result:
    """As `_torch_sp` and, for ``neighbours``, `_torch_pkt`; a program has one row of the matrix."""
    from kdzoo.kernels.gram import triton_kernels

    slots, rows = ours.shape[:2]
    block = power_of_2(rows)
    values = ours.new_empty((slots, rows))
    slope = torch.empty_like(ours) if with_gradient else None
    triton_kernels.rows_kernel[(rows * slots,)](
        ours.contiguous(),
        theirs.contiguous(),
        as_bytes(real.contiguous()),
        values,
        slope,
        rows,
        own.start,
        own.stop,
        EPSILON=EPSILON,
        SMOOTHING=SMOOTHING,
        NEIGHBOURS=neighbours,
        BLOCK_N=block,
        num_warps=min(16, max(1, block // 512)),
    )
    return values.sum(), slope
