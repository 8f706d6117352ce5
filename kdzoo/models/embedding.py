"""The output of a model's embeddings, recorded and perturbed in a forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.models.heads import embeddings_module


@dataclass
class EmbeddingOutput:
    """What `embedding_output` yields: the recorded output, (B, S, E), before any perturbation."""

    value: Tensor | None = None


@contextmanager
def embedding_output(model: nn.Module, perturbation: Tensor | None = None) -> Iterator[EmbeddingOutput]:
    """Record the output of a model's embeddings, and add a perturbation to it.

    LRC-BERT's gradient perturbation (Fu et al. 2021) is two of these: one forward pass to get
    the gradient of the loss with respect to ``value``, a second one with the normalised gradient added. The
    recorded tensor always takes part in autograd, frozen embeddings included.

    Args:
        model: a transformers model, wrapped or not.
        perturbation: added to the output, of its shape; nothing by default.

    Raises:
        KdzooError: the perturbation has another shape than the embedding output.

    Example::

        with embedding_output(model) as embedded:
            loss = model(**inputs).loss
        (gradient,) = torch.autograd.grad(loss, embedded.value)
        with embedding_output(model, torch.nn.functional.normalize(gradient, dim=-1)):
            model(**inputs).loss.backward()
    """
    recorded = EmbeddingOutput()

    def record(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        if torch.is_grad_enabled() and not output.requires_grad:
            output = output.detach().requires_grad_()
        recorded.value = output
        if perturbation is None:
            return output
        if perturbation.shape != output.shape:
            raise KdzooError(
                f"the perturbation is {tuple(perturbation.shape)}, but the embedding output is {tuple(output.shape)}"
            )
        return output + perturbation.to(output.dtype)

    handle = embeddings_module(model).register_forward_hook(record)
    try:
        yield recorded
    finally:
        handle.remove()
