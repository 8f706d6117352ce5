"""Gradient accumulation: what each micro-batch weighs, so that means are taken over all rows or tokens of a step."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from kdzoo.distributed import mean_over_processes
from kdzoo.errors import KdzooWarning
from kdzoo.models.masks import real_tokens
from kdzoo.objectives.objective import Objective
from kdzoo.tasks.pieces import IGNORED
from kdzoo.tasks.segments import ORDER_LABELS
from kdzoo.training.labels import SPAN

COUNTED = ("rows", "tokens", "pairs", "labels", "target_pairs", "cross_pairs", "orders")


def shares(batches: Sequence[Mapping[str, Any]], device: torch.device) -> list[dict[str, Tensor]]:
    """What the value of each micro-batch is multiplied by, by what a loss takes its mean over.

    The mean of the values so weighted is the mean over the whole step: c_i / mean_j c_j for a count of c_i.

    Args:
        batches: the micro-batches of one step.
        device: where the factors are needed.
    """
    counts = torch.stack([_counts(batch).to(device, torch.float32) for batch in batches])
    counts = mean_over_processes(counts)
    means = counts.mean(0)
    weights = torch.where(means > 0, counts / means.clamp_min(1e-12), 1.0)
    return [dict(zip(COUNTED, row.unbind(), strict=True)) for row in weights]


def _counts(batch: Mapping[str, Any]) -> Tensor:
    """What `Term.mean_over` counts: rows, tokens, pairs of these in a row, labels, a target's pairs, and orders."""
    ids = batch.get("input_ids")
    first = ids if isinstance(ids, Tensor) else next(value for value in batch.values() if isinstance(value, Tensor))
    mask = real_tokens(batch.get("attention_mask"))
    rows = torch.tensor(len(first), device=first.device)
    size = first.shape[1] if first.dim() > 1 else 1
    tokens = torch.full((len(first),), size, device=first.device) if mask is None else mask.sum(-1)
    labels = [batch[name] for name in ("labels", *SPAN) if isinstance(batch.get(name), Tensor)]
    # Of numbers, each counts: -100 may be one.
    there = [values.numel() if values.is_floating_point() else (values != IGNORED).sum() for values in labels]
    counted = torch.as_tensor(sum(there), device=first.device) if labels else rows
    orders = (batch[ORDER_LABELS] != IGNORED).sum() if ORDER_LABELS in batch else rows
    targets = torch.zeros_like(tokens)
    if labels and labels[0].dim() == 2:
        targets = (labels[0] != IGNORED).sum(-1)
    pairs = (tokens.square(), targets * (targets + 1) // 2, targets * tokens)
    of_one, of_target, across = (of.sum() for of in pairs)
    return torch.stack([rows, tokens.sum(), of_one, counted, of_target, across, orders])


def say_micro_batches(objective: Objective, pieces: int, rows: int) -> None:
    """Warn where losses relate rows to each other and a step's rows come in several micro-batches.

    Args:
        objective: what is trained on.
        pieces: micro-batches a step.
        rows: of each of them, on one process.
    """
    relating = [term.name for term in objective.terms if term.loss_class.contrastive]
    if pieces > 1 and relating:
        warnings.warn(
            f"{', '.join(relating)} relates rows to each other and sees the {rows} of a micro-batch, not the "
            f"{rows * pieces} of a step (gradient_accumulation_steps={pieces})",
            KdzooWarning,
            stacklevel=3,
        )
