"""Scores of the candidates of one query as one row of logits, so that losses on logits compare whole lists."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Activations


def as_lists(activations: Activations, lists: Tensor) -> Activations:
    """Activations whose logits are the scores of each query's candidates.

    A candidate's score is what its row says for the second of two classes, "true": the log-odds. The softmax over a
    query's scores is the distribution over its candidates that list-wise distillation compares (Ren et al. 2021,
    RocketQAv2, where a dual encoder and a cross-encoder learn from each other; https://arxiv.org/abs/2110.07367).

    Args:
        activations: of rows, with logits (B, 2), or without any.
        lists: (Q, K), the rows of each query's candidates.

    Returns:
        The same with logits (Q, K).

    Raises:
        KdzooError: the logits are others, or the lists no rows by number.
    """
    logits = activations.logits
    if logits is None:
        return activations
    if logits.dim() != 2 or logits.shape[-1] != 2:
        raise KdzooError(f"lists are of rows with two classes, got logits {tuple(logits.shape)}")
    if lists.dim() != 2 or lists.shape[1] < 2 or lists.dtype != torch.int64:
        raise KdzooError(f"lists are rows by number, (Q, K) of K from 2 on, got {lists.dtype} {tuple(lists.shape)}")
    logits = logits.float() if logits.dtype in (torch.float16, torch.bfloat16) else logits
    return replace(activations, logits=(logits[:, 1] - logits[:, 0])[lists])
