"""The formula of `info_nce`, with all scores."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import unit
from kdzoo.kernels.layout import by_slot
from kdzoo.kernels.operators import without_autocast


@without_autocast
def info_nce_reference(
    student: Tensor,
    teacher: Tensor,
    *,
    mask: Tensor | None = None,
    queue: Tensor | None = None,
    temperature: float = 0.07,
    symmetric: bool = False,
) -> Tensor:
    """The formula with the matrix of all scores, (B, B + N) in each slot; see `info_nce`."""
    if student.dtype in (torch.float16, torch.bfloat16):
        student, teacher = student.float(), teacher.float()
    real = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
    if mask is not None:
        real = (mask != 0).view(len(mask), *(1 for _ in student.shape[2:-1]), mask.shape[1]).expand_as(real)
    own = by_slot(unit(student.masked_fill(~real.unsqueeze(-1), 0.0)))
    with torch.no_grad():
        keys = by_slot(unit(teacher.masked_fill(~real.unsqueeze(-1), 0.0)))
        more = keys.new_zeros(0, keys.shape[-1]) if queue is None else unit(queue.to(keys.dtype))
    counted = by_slot(real.unsqueeze(-1)).squeeze(-1)
    scores = (own @ keys.mT / temperature).masked_fill(~counted.unsqueeze(1), torch.finfo(own.dtype).min / 2)
    against = torch.cat([scores, own @ more.T / temperature], dim=-1)
    losses = against.logsumexp(-1) - scores.diagonal(dim1=1, dim2=2)
    if symmetric:
        scores = scores.masked_fill(~counted.unsqueeze(-1), torch.finfo(own.dtype).min / 2)
        losses = losses + scores.logsumexp(1) - scores.diagonal(dim1=1, dim2=2)
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)
