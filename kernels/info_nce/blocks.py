"""InfoNCE without Triton: a block of rows against all keys, whose scores stay in the cache."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels.backend import EPSILON, accumulator, block_elements, on_host, safe_norms, unit_gradient
from kdzoo.kernels.layout import by_row, by_slot, counted

BLOCK, FEWEST = 2**18, 64  # scores of a block that a CPU keeps in its cache, and the fewest rows that multiply well


class Side:
    """Vectors by slot.

    Attributes:
        vectors: (slots, B, D), as they are given.
        real: (slots, B), which of them count; None for all.
        inverse: (slots, B), their inverse norms: 0 for those whose norm is zero or infinite, or that do not count.
    """

    def __init__(self, vectors: Tensor, mask: Tensor | None) -> None:
        dtype = accumulator(vectors.dtype)
        real = counted(mask, vectors)
        self.real = None if real is None else real.T
        self.vectors = by_slot(vectors)
        norm = torch.linalg.vector_norm(self.vectors, dim=-1, dtype=dtype)
        none = (norm == 0) | (norm == torch.inf)
        if self.real is not None:
            none |= ~self.real
        self.inverse = norm.clamp_min_(EPSILON).reciprocal_().masked_fill_(none, 0.0)

    @cached_property
    def units(self) -> Tensor:
        """The vectors at length one, or zero where the inverse norm is."""
        inverse = self.inverse.unsqueeze(-1)
        units = torch.mul(self.vectors, inverse)
        # A fill costs a CPU more than a multiplication, and a look costs it nothing.
        if on_host(units.device) and bool((inverse != 0).all()):
            return units
        return units.masked_fill_(inverse == 0, 0.0)


def sweep(
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    queue: Tensor | None,
    losses: Tensor | None,
    sums: Tensor | None,
    count: Tensor,
    start: int,
    temperature: float,
    symmetric: bool,
    gradient: Tensor | None,
) -> Tensor:
    """The sum of the losses; its gradient, over ``count`` except in float16, is written to ``gradient``.

    ``losses`` and ``sums`` are the other side's, where ``symmetric`` does not find them: the losses of the own rows and
    the log-sum-exps of all.
    """
    own, keys = Side(student, None if mask is None else mask.narrow(0, start, len(student))), Side(teacher, mask)
    more = None if queue is None else Side(queue, None)
    positive = _positive_scores(own, keys, start, temperature)
    opposite, total = None, torch.zeros_like(positive)
    if losses is not None and sums is not None:
        total, opposite = (by_slot(of.unsqueeze(-1)).squeeze(-1) for of in (losses, sums))
    elif symmetric:
        total, _ = attend(keys, own, None, 0, temperature, positive, None, False)
        opposite = positive + total
    pull = torch.expm1(-total)
    other, slopes = attend(own, keys, more, start, temperature, positive, opposite, gradient is not None)
    if slopes is not None and gradient is not None:
        pull += torch.expm1(-other)
        slopes.addcmul_(keys.units[:, start : start + len(student)], pull.unsqueeze(-1))
        # A norm below the clamp is a constant, and bends nothing.
        bend = (own.units * slopes).sum(-1).masked_fill_(own.inverse >= 1 / EPSILON, 0.0)
        slopes.addcmul_(own.units, bend.unsqueeze(-1), value=-1)
        # Float16 has no room for the quotients by a large n: there the backward pass divides.
        scale = 1 / temperature if student.dtype == torch.float16 else 1 / (temperature * count)
        slopes.mul_((own.inverse * scale).unsqueeze(-1))
        if own.real is not None:
            slopes.masked_fill_(~own.real.unsqueeze(-1), 0.0)
        by_row(gradient).copy_(slopes.transpose(0, 1))
    total = total + other
    return total.sum() if own.real is None else torch.where(own.real, total, 0.0).sum()


def rows(anchors: Tensor, keys: Tensor, mask: Tensor | None, start: int, temperature: float) -> tuple[Tensor, Tensor]:
    """Of every anchor its loss and its log-sum-exp, (slots, B)."""
    own, others = Side(anchors, None if mask is None else mask.narrow(0, start, len(anchors))), Side(keys, mask)
    positive = _positive_scores(own, others, start, temperature)
    losses, _ = attend(own, others, None, start, temperature, positive, None, False)
    return losses, positive + losses


def attend(
    own: Side,
    keys: Side,
    queue: Side | None,
    start: int,
    temperature: float,
    positive: Tensor,
    opposite: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """Losses (slots, B) of the anchors among the keys and a queue.

    With slopes, (slots, B, D), also the sum of the keys but the own one, each times its share of the anchor's softmax;
    and with ``opposite``, the keys' log-sum-exps over the anchors' side, times the anchor's share of the key's as well.
    """
    anchors, others = own.units, keys.units
    losses = torch.empty_like(positive)
    slopes = torch.empty_like(anchors) if with_slopes else None
    room = anchors.new_empty(0)
    slots, rows = positive.shape
    number = others.shape[1] + (0 if queue is None else queue.vectors.shape[1])
    for m, r in _blocks(anchors.device, slots, rows, number):
        anchor = anchors[m, r]
        scores = room.resize_(*anchor.shape[:2], others.shape[1])
        torch.baddbmm(scores, anchor, others[m].mT, beta=0, alpha=1 / temperature, out=scores)
        scores.diagonal(start + r.start, 1, 2).fill_(-torch.inf)
        if keys.real is not None:
            scores.masked_fill_(~keys.real[m].unsqueeze(1), -torch.inf)
        across = (scores - opposite[m].unsqueeze(1)).exp_() if opposite is not None and with_slopes else None
        top = scores.amax(-1, keepdim=True)
        more = None if queue is None else (anchor @ queue.units.mT).div_(temperature)
        if more is not None:
            top = torch.maximum(top, more.amax(-1, keepdim=True))
        top.masked_fill_(top == -torch.inf, 0.0)
        total = scores.sub_(top).exp_().sum(-1, keepdim=True)
        if more is not None:
            total += more.sub_(top).exp_().sum(-1, keepdim=True)
        gap = top + total.log() - positive[m, r].unsqueeze(-1)
        losses[m, r] = -F.logsigmoid(-gap).squeeze(-1)
        if slopes is None:
            continue
        share = gap.sigmoid().div_(total.masked_fill_(total == 0, 1.0))
        slope = slopes[m, r]
        if across is None:
            torch.bmm(scores, others[m], out=slope).mul_(share)
        else:
            torch.bmm(across.addcmul_(scores, share), others[m], out=slope)
        if more is not None and queue is not None:
            slope.addcmul_(more @ queue.units, share)
    return losses, slopes


def alone(
    student: Tensor, teacher: Tensor, temperature: float, count: int, with_gradient: bool
) -> tuple[Tensor, Tensor] | None:
    """The sum of the losses of rows (B, D) among one another, and its gradient, in as few passes as it takes; None
    where a norm needs care. The student's rows are not made unit vectors: their scores are divided instead."""
    rows = len(student)
    norm, other = safe_norms(student), safe_norms(teacher)
    if norm is None or other is None or rows == 1:
        return None
    units, factor = teacher / other, norm.reciprocal().div_(temperature)
    down = max(FEWEST, block_elements(student.device, BLOCK) // rows)
    if down >= rows:
        value, scores = _among(student, units, factor, 0, None)
        slopes = scores @ units if with_gradient else units
    else:
        room, slopes, losses = student.new_empty((down, rows)), torch.empty_like(units), []
        for row in range(0, rows, down):
            part = slice(row, row + down)
            loss, scores = _among(student[part], units, factor[part], row, room)
            losses.append(loss)
            if with_gradient:
                torch.mm(scores, units, out=slopes[part])
        value = torch.stack(losses).sum()
    if not with_gradient:
        return value, slopes[:0]
    return value, unit_gradient(slopes, student, norm, torch.full_like(norm, 1 / (temperature * count)))[0]


def _among(own: Tensor, units: Tensor, factor: Tensor, start: int, room: Tensor | None) -> tuple[Tensor, Tensor]:
    """The sum of the losses of a block of anchors, and its gradient at their scores."""
    scores = torch.mm(own, units.T, out=None if room is None else room[: len(own)]).mul_(factor)
    diagonal = scores.diagonal(start)
    positive = diagonal.clone().unsqueeze(-1)
    diagonal.fill_(-torch.inf)
    top = scores.amax(-1, keepdim=True)
    total = scores.sub_(top).exp_().sum(-1, keepdim=True)
    gap = total.log().add_(top).sub_(positive)
    value = F.softplus(gap).sum()
    share = gap.sigmoid_()
    scores.mul_(share / total)
    torch.neg(share.squeeze(-1), out=diagonal)
    return value, scores


def _positive_scores(own: Side, keys: Side, start: int, temperature: float) -> Tensor:
    """The scores (slots, B) of all anchors with their own keys."""
    rows = own.vectors.shape[1]
    return (own.units * keys.units[:, start : start + rows]).sum(-1).div_(temperature)


def _blocks(device: torch.device, slots: int, rows: int, keys: int) -> Iterator[tuple[slice, slice]]:
    size = block_elements(device, BLOCK)
    down = min(rows, max(FEWEST, size // max(keys, 1)))
    across = max(1, size // max(down * keys, 1))
    for slot in range(0, slots, across):
        for row in range(0, rows, down):
            yield slice(slot, slot + across), slice(row, row + down)
