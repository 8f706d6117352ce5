"""The relations as their formulas are written."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, unit_vectors
from kdzoo.kernels.gram.checks import SMALLEST, SMOOTHING, checked
from kdzoo.kernels.gram.shared import centred, prepared, slot_shares
from kdzoo.kernels.operators import without_autocast


@without_autocast
def gram_reference(
    student: Tensor,
    teacher: Tensor,
    relation: str,
    *,
    mask: Tensor | None = None,
    own: slice = slice(None),
) -> Tensor:
    """The formulas as they are written, the (N, N, N) cosines of a slot included; see `gram`."""
    student, teacher, real, own = checked(student, teacher, relation, mask, own)
    ours, theirs = prepared(student, real), prepared(teacher.detach(), real)
    pairs = real.unsqueeze(1) & real.unsqueeze(2)
    if relation == "angle":
        cosines = []
        for side in (ours, theirs):
            steps = unit_vectors(side.unsqueeze(1) - side.unsqueeze(2)) * pairs.unsqueeze(-1)
            cosines.append(steps @ steps.mT)
        return F.smooth_l1_loss(cosines[0][:, own], cosines[1][:, own], reduction="sum")
    if relation == "distance":
        different = pairs & ~torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device)
        scales = []
        for side in (ours, theirs):
            apart = torch.cdist(side, side, compute_mode="donot_use_mm_for_euclid_dist").clamp_min(SMALLEST)
            apart = torch.where(different, apart, 0.0)
            scales.append(
                apart / (apart.sum((1, 2), True) / different.sum((1, 2), True).clamp_min(1)).clamp_min(EPSILON)
            )
        return F.smooth_l1_loss(scales[0][:, own], scales[1][:, own], reduction="sum")
    if relation == "sp":
        gap = unit_vectors(ours @ ours.mT) - unit_vectors(theirs @ theirs.mT)
        return (gap[:, own] ** 2).sum()
    if relation == "cka":
        kernels = [unit_vectors((side @ side.mT).flatten(1)) for side in (centred(ours, real), centred(theirs, real))]
        return ((1 - (kernels[0] * kernels[1]).sum(1)) * slot_shares(real, own, ours.dtype)).sum()
    chances = []
    for side in (ours, theirs):
        norm = torch.linalg.vector_norm(side, dim=-1, keepdim=True)
        directions = unit_vectors(side) if relation == "pkt" else side.masked_fill(norm == 0, 0.0) / (norm + SMOOTHING)
        alike = torch.where(pairs, (directions @ directions.mT + 1) / 2, 0.0)
        summed = alike.sum(-1, keepdim=True)
        chances.append(alike / torch.where(summed == 0, 1.0, summed))
    losses = chances[1] * ((chances[1] + SMOOTHING) / (chances[0] + SMOOTHING)).log()
    return losses[:, own].sum()
