"""COS-NCE without Triton: block by block, so that all but the first reading of a block comes from the cache."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import EPSILON, accumulator, block_elements, safe_norms, unit_gradient
from kdzoo.kernels.layout import by_row, counted

BLOCK = 131072  # elements of a block that the CPU keeps in its cache, for each thread
MOST = 1048576  # elements of rows that are taken at once


def _blocks(device: torch.device, rows: int, slots: int, width: int) -> Iterator[tuple[slice, slice]]:
    """Rows and slots of each block; a few rows at the least, over which a slot's total is added up in the cache."""
    size = block_elements(device, BLOCK)
    across = max(1, min(slots, size // max(min(rows, 8) * width, 1)))
    down = max(1, size // max(across * width, 1))
    for slot in range(0, slots, across):
        for row in range(0, rows, down):
            yield slice(row, row + down), slice(slot, slot + across)


def _inverse_norms(vectors: Tensor, real: Tensor | None) -> tuple[Tensor, Tensor]:
    """The norms, and 1 / norm: 0 where the norm is zero or infinite or does not count."""
    norm = torch.linalg.vector_norm(vectors, dim=-1)
    inverse = norm.clamp_min(EPSILON).reciprocal_().mul_(norm != 0)
    return norm, inverse if real is None else inverse.masked_fill_(~real, 0.0)


def _finite(vectors: Tensor, inverse: Tensor) -> Tensor:
    """Zeros in place of the vectors whose inverse is 0, which may hold what 0 times it is not 0."""
    return vectors.masked_fill((inverse == 0).unsqueeze(-1), 0.0)


def totals(teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """The unit vectors' sum in each slot, (slots, D), how many they are, (slots,), and 1 / norm of each, (B, slots)."""
    dtype, real, flat = accumulator(teacher.dtype), counted(mask, teacher), by_row(teacher)
    rows, slots, width = flat.shape
    inverse = torch.empty((rows, slots), dtype=dtype, device=teacher.device)
    # Without looking for what is not finite; where the sum shows that there was some, once more with care.
    for careful in (False, True) if backend.on_host(teacher.device) else (True,):
        total = torch.zeros((slots, width), dtype=dtype, device=teacher.device)
        for r, m in _blocks(teacher.device, rows, slots, width):
            part = flat[r, m].to(dtype)
            _, one = _inverse_norms(part, None if real is None else real[r, m])
            part = _finite(part, one) if careful else part
            if part.shape[1] == 1:
                total[m] += one.T @ part.squeeze(1)
            else:
                total[m] += (part * one.unsqueeze(-1)).sum(0)
            inverse[r, m] = one
        if careful or total.isfinite().all():
            break
    if real is None:
        return total, torch.full((slots,), float(rows), dtype=dtype, device=teacher.device), inverse
    return total, real.sum(0).to(dtype), inverse


def _centres(negatives: Tensor) -> Tensor:
    """The mean of each row's unit negatives: (B, K, D) to (B, 1, D), (B, K, ..., D) to (B, slots, D)."""
    negatives = negatives.unsqueeze(2) if negatives.dim() == 3 else negatives.flatten(2, -2)
    rows, number, slots, width = negatives.shape
    dtype = accumulator(negatives.dtype)
    centres = torch.zeros((rows, slots, width), dtype=dtype, device=negatives.device)
    for r, m in _blocks(negatives.device, rows, slots, number * width):
        part = negatives[r, :, m].to(dtype)
        _, one = _inverse_norms(part, None)
        centres[r, m] = (_finite(part, one) * one.unsqueeze(-1)).sum(1) / max(number, 1)
    return centres


def alone(
    student: Tensor,
    teacher: Tensor,
    negatives: Tensor | None,
    total: Tensor | None,
    scale: float,
) -> tuple[Tensor, Tensor] | None:
    """The sum of the values and its gradient, for rows (B, D) of one slot that all count, in as few steps as it takes;
    None where they are too many to keep their directions, or a norm needs care."""
    if negatives is not None or total is not None or student.dim() != 2 or not 0 < student.numel() <= MOST:
        return None
    if student.dtype != accumulator(student.dtype):
        return None
    norm, other = safe_norms(student), safe_norms(teacher)
    if norm is None or other is None:
        return None
    inverse, rows = other.reciprocal_(), len(student)
    repel = 0.5 / (rows - 1) if rows > 1 else 0.0
    # The own vector is in the total, and no negative.
    towards = torch.addcmul((teacher.T @ inverse).mul_(repel).T, teacher, inverse.mul_(-1.5 - repel))
    gradient, along = unit_gradient(towards, student, norm, torch.full_like(norm, scale))
    return along.sum().add_(2 * rows), gradient


def sweep(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    negatives: Tensor | None,
    total: Tensor | None,
    counts: Tensor | None,
    scale: Tensor,
    gradient: Tensor | None,
) -> Tensor:
    """The sum of the values; its gradient, times ``scale``, is written to ``gradient``."""
    dtype, real, others = accumulator(student.dtype), counted(mask, student), None
    s, t, written = by_row(student), by_row(teacher), None if gradient is None else by_row(gradient)
    rows, slots, width = s.shape
    if negatives is not None:
        towards = _centres(negatives)
        repel = torch.full((slots,), 0.5, dtype=dtype, device=s.device)
        attract = repel + 1
    else:
        if total is None or counts is None:
            total, counts, others = totals(teacher, mask)
        towards, counts = total.reshape(1, slots, width), counts.reshape(slots)
        repel = torch.where(counts > 1, 0.5 / (counts - 1).clamp_min(1), 0.0)
        attract = 1.5 + repel  # the own vector is in the total, and no negative
    room = torch.empty(0, dtype=dtype, device=s.device)
    for careful in (False, True) if backend.on_host(s.device) else (True,):
        pulled = torch.zeros((), dtype=dtype, device=s.device)
        for r, m in _blocks(s.device, rows, slots, width):
            real_here = None if real is None else real[r, m]
            own, other = s[r, m].to(dtype), t[r, m].to(dtype)
            norm, one = _inverse_norms(own, real_here)
            two = others[r, m] if others is not None else _inverse_norms(other, real_here)[1]
            direction = towards[r if len(towards) > 1 else slice(None), m if towards.shape[1] > 1 else slice(None)]
            if careful:
                own, other = _finite(own, one), _finite(other, two)
                direction = _finite(direction, one) if negatives is not None and real_here is not None else direction
            block = room.resize_(own.shape) if written is None or written.dtype != dtype else written[r, m]
            cosine = torch.mul(own, other, out=block).sum(-1).mul_(one).mul_(two)
            if direction.shape[:2] == (1, 1):
                along = (own @ direction[0, 0]).mul_(one)
            else:
                along = torch.mul(own, direction, out=block).sum(-1).mul_(one)
            repelled = along * repel[m]
            pull = repelled - cosine.mul_(attract[m])
            pulled += pull.sum()
            if written is not None:
                step = one * scale
                # A norm below the clamp is a constant, and bends nothing.
                bend = pull.mul_(one).mul_(norm > EPSILON).mul_(step)
                torch.mul(other, (two * step).mul_(-attract[m]).unsqueeze(-1), out=block)
                block.addcmul_((step * repel[m]).unsqueeze(-1), direction)
                block.addcmul_(bend.unsqueeze(-1), own, value=-1)
                if written.dtype != dtype:
                    written[r, m] = block
        if careful or pulled.isfinite():
            break
    return pulled + 2 * (rows * slots if real is None else real.sum())
