"""Logits over a large vocabulary kept by their largest entries: what is left of the probability is spread evenly."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdzoo.losses.registry import options_of
from kdzoo.models.features import LOGITS
from kdzoo.objectives.objective import Objective

WEIGHED = ("kl", "cross_entropy")  # of divergences: each class counts by the teacher's probability


def cut(logits: Tensor, top: int) -> tuple[Tensor, Tensor]:
    """The log-probabilities of the largest entries and of all others together.

    Args:
        logits: (..., V), V over ``top``.
        top: K, how many are kept.

    Returns:
        (..., K + 1), of which the last is the logarithm of the others' probability, and (..., K) where the K stand.
    """
    logs = logits.float().log_softmax(-1)
    values, places = logs.topk(top, dim=-1)
    others = torch.ones_like(logs, dtype=torch.bool).scatter(-1, places, False)
    rest = logs.masked_fill(~others, -math.inf).logsumexp(-1, keepdim=True)
    # Not under what float16 holds as a finite number.
    return torch.cat([values, rest.clamp_min(-1e4)], dim=-1), places.int()


def looks_at_all(objective: Objective) -> str | None:
    """Why an objective's losses on logits are not to be had of `cut`'s parts, in words; None where they are.

    A divergence in which each class counts by the teacher's probability is off by what lies within the others' mass. A
    temperature over 1 raises that mass, and other losses look at small probabilities themselves.
    """
    for term in objective.terms:
        kind = term.loss_class
        if not kind.needs_teacher or term.feature != LOGITS:
            continue
        told = term.options if term.module is None else {"temperature": getattr(term.module, "temperature", None)}
        temperature = told.get("temperature", options_of(kind).get("temperature"))
        if getattr(kind, "kind", None) not in WEIGHED or kind.every_class or temperature != 1:
            return (
                f"the term {term.name!r} compares all logits, and only some are kept; kd and soft_ce at "
                "temperature 1 work with those"
            )
    return None
