"""The formula of `info_nce`, with all scores."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import unit_vectors
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
    own, keys, counted = by_slot(student), by_slot(teacher.detach()), None
    if mask is not None:
        real = (mask != 0).view(len(mask), *(1 for _ in student.shape[2:-1]), mask.shape[1]).expand(student.shape[:-1])
        counted = by_slot(real.unsqueeze(-1)).squeeze(-1)
        own, keys = (side.masked_fill(~counted.unsqueeze(-1), 0.0) for side in (own, keys))
    own, keys = unit_vectors(own) / temperature, unit_vectors(keys)
    scores = own @ keys.mT
    low = torch.finfo(own.dtype).min / 2
    if counted is not None:
        scores = scores.masked_fill(~counted.unsqueeze(1), low)
    positive = scores.diagonal(dim1=1, dim2=2)
    # -log softmax at the own key is the softplus of this gap, which keeps the digits of a loss that is almost zero.
    others = scores.masked_fill(torch.eye(len(student), dtype=torch.bool, device=student.device), low)
    against = others
    if queue is not None:
        # A product a slot: that of all slots with one matrix views them as rows, and the view fails once compiled.
        more = torch.bmm(own, unit_vectors(queue.detach().to(keys.dtype)).T.expand(len(own), -1, -1))
        against = torch.cat([others, more], dim=-1)
    losses = F.softplus(against.logsumexp(-1) - positive)
    if symmetric:
        others = others if counted is None else others.masked_fill(~counted.unsqueeze(-1), low)
        losses = losses + F.softplus(others.logsumexp(1) - positive)
    if counted is None:
        return losses.sum() / max(losses.numel(), 1)
    return torch.where(counted, losses, 0.0).sum() / counted.sum().clamp_min(1)
