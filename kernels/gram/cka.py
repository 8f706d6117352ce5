"""CKA: three dot products of matrices, which are library calls; it has no Triton code."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import EPSILON
from kdzoo.kernels.gram.shared import Result, centred, norms_and_inverses, slot_shares


def cka(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, _: bool) -> Result:
    moved, others = centred(ours, real), centred(theirs, real)
    one, two = ((side @ side.mT).flatten(1) for side in (moved, others))
    (norm, inverse), (their_norm, their_inverse) = norms_and_inverses(one), norms_and_inverses(two)
    aligned = (one * two).sum(1, keepdim=True) * inverse * their_inverse
    one.mul_(inverse)
    gap = torch.addcmul(one, two, their_inverse, value=-1)
    # 1 - a·b is ½|a - b|² for a and b of length 1, which keeps its digits where they are alike.
    value = gap.square().sum(1, keepdim=True) / 2
    value = torch.where((norm > EPSILON) & (their_norm > EPSILON), value, 1 - aligned)
    shares = slot_shares(real, own, one.dtype).unsqueeze(1)
    total = (value * shares).sum()
    if not with_gradient:
        return total, None
    slope = gap.addcmul_(one, torch.where(norm > EPSILON, value, 1.0), value=-1).mul_(2 * shares * inverse)
    # The mean of the rows moves with them; centred products leave nothing of it, as their rows sum to zero.
    return total, slope.view(len(real), real.shape[1], -1) @ moved
