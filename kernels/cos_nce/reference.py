"""The formula of `cos_nce`, with every cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import unit_vectors
from kdzoo.kernels.operators import without_autocast


@without_autocast
def cos_nce_reference(
    student: Tensor, teacher: Tensor, *, mask: Tensor | None = None, negatives: Tensor | None = None
) -> Tensor:
    """The formula with every cosine written out: (B, B) of them in each slot; see `cos_nce`."""
    if student.dtype in (torch.float16, torch.bfloat16):
        student, teacher = student.float(), teacher.float()
        negatives = None if negatives is None else negatives.float()
    rows = len(student)
    slots = teacher.unsqueeze(0).shape[2:-1]
    real = torch.ones((rows, *slots), dtype=torch.bool, device=student.device)
    if mask is not None:
        real = (mask != 0).view(rows, *(1 for _ in slots[1:]), mask.shape[1]).expand(rows, *slots)
    own = unit_vectors(student.masked_fill(~real.unsqueeze(-1), 0.0))
    with torch.no_grad():
        other = unit_vectors(teacher.masked_fill(~real.unsqueeze(-1), 0.0))
    positive = (own * other).sum(-1)
    if negatives is None:
        cosines = torch.einsum("i...d,j...d->ij...", own, other)
        apart = ~torch.eye(rows, dtype=torch.bool, device=student.device).view(rows, rows, *(1 for _ in slots))
        counted = apart & real
    else:
        if negatives.dim() == 3:
            negatives = negatives.view(*negatives.shape[:2], *(1 for _ in slots), negatives.shape[-1])
        with torch.no_grad():
            negatives = unit_vectors(negatives.masked_fill(~real[:, None, ..., None], 0.0))
        cosines = (own.unsqueeze(1) * negatives).sum(-1)
        counted = real.unsqueeze(1).expand_as(cosines)
    negative = torch.where(counted, cosines, 0.0).sum(1) / counted.sum(1).clamp_min(1)
    values = torch.where(real, 2 - 1.5 * positive + 0.5 * negative, 0.0)
    return values.sum() / real.sum().clamp_min(1)
