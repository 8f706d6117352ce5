"""LRC-BERT's gradient perturbation of the embedding output."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdzoo.losses.reduction import unit

if TYPE_CHECKING:
    pass


def gradient_perturbation(loss: Tensor, embedding: Tensor) -> Tensor:
    """What LRC-BERT adds to the embedding output before it runs the student again: the loss's gradient, normalised.

    Args:
        loss: the objective's total of a first forward pass, a scalar.
        embedding: (B, S, E), the embedding output of that pass.

    Returns:
        (B, S, E): g / ‖g‖ with the L2 norm over the width; zero at positions without a gradient, and everywhere
        when any entry of g is not finite.

    References:
        Fu et al. 2021, section "Training based on Gradient Perturbation". https://arxiv.org/abs/2012.07335
    """
    gradient: Tensor | None = torch.autograd.grad(loss, embedding, allow_unused=True)[0]
    if gradient is None:
        return torch.zeros_like(embedding)
    # Chosen on the device: asking the host would wait for it in every step.
    finite = gradient.isfinite().all()
    return torch.where(finite, unit(gradient.float()), 0.0).to(embedding.dtype)
