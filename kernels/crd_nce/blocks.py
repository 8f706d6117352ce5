"""CRD without Triton: the scores alone are held; rows are gathered in parts or, from a small bank, not at all."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import DEVICE_BLOCK, accumulator

BLOCK = 2**17  # elements of gathered rows, or of products, that a CPU keeps in its cache
FEWEST = 16  # rows that multiply well
WHOLE = 8  # rows of a bank that the CPU multiplies, back and forth, in the time in which it gathers one


def _whole(bank: Tensor, ids: Tensor) -> bool:
    """Whether products with all of a bank take less time than gathering what is drawn from it."""
    return len(bank) <= WHOLE * ids.shape[1] or ids.shape[1] == 0


def _blocks(device: torch.device, rows: int, size: int, fewest: int = 1) -> Iterator[slice]:
    step = max(fewest, (BLOCK if backend.on_host(device) else DEVICE_BLOCK) // max(size, 1))
    return (slice(start, start + step) for start in range(0, rows, step))


def scores_of(anchors: Tensor, bank: Tensor, ids: Tensor) -> Tensor:
    """The products (B, K) of anchors with their negatives."""
    scores = anchors.new_empty(ids.shape)
    if _whole(bank, ids):
        for r in _blocks(bank.device, len(ids), len(bank), FEWEST):
            torch.gather(anchors[r] @ bank.T, 1, ids[r], out=scores[r])
        return scores
    width = bank.shape[1]
    if not backend.on_host(bank.device):
        for r in _blocks(bank.device, len(ids), ids.shape[1] * width):
            scores[r] = (bank[ids[r]] @ anchors[r].unsqueeze(-1)).squeeze(-1)
        return scores
    room = bank.new_empty(min(ids.shape[1], max(1, BLOCK // max(width, 1))), width)
    for anchor, chosen, found in zip(anchors, ids, scores, strict=True):
        for k in _blocks(bank.device, len(chosen), width):
            part = torch.index_select(bank, 0, chosen[k], out=room[: len(chosen[k])])
            torch.mv(part, anchor, out=found[k])
    return scores


def contrast(
    anchors: Tensor, bank: Tensor, ids: Tensor, shift: Tensor, temperature: float, with_slopes: bool
) -> tuple[Tensor, Tensor | None]:
    """What the negatives add to the value, but for a constant; and of each anchor's, the sum, times their pushes."""
    dtype = accumulator(anchors.dtype)
    own, bank = anchors.to(dtype), bank.to(dtype)
    odds = scores_of(own, bank, ids).div_(temperature).sub_(shift)
    value = -F.logsigmoid(-odds).sum()
    if not with_slopes:
        return value, None
    push = odds.sigmoid_()
    if not _whole(bank, ids):
        return value, F.embedding_bag(ids, bank, per_sample_weights=push, mode="sum")
    slopes = torch.empty_like(own)
    for r in _blocks(bank.device, len(ids), len(bank), FEWEST):
        slopes[r] = push.new_zeros(len(push[r]), len(bank)).scatter_add_(1, ids[r], push[r]) @ bank
    return value, slopes
