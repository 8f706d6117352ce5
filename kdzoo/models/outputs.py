"""What a model's output holds, by the names that transformers' classes give it."""

from __future__ import annotations

import functools
from importlib.metadata import version
from typing import Any

import torch
from torch import Tensor

from kdzoo.errors import KdzooError


def logits_of(outputs: Any) -> Tensor:
    """A model's logits; of starts and ends (B, S) each, both in the last axis, so that they are those of tokens.

    Raises:
        KdzooError: it has none.
    """
    if getattr(outputs, "logits", None) is not None:
        return outputs.logits
    if getattr(outputs, "start_logits", None) is not None:
        return torch.stack([outputs.start_logits, outputs.end_logits], dim=-1)
    words = getattr(outputs, "prediction_logits", None)  # of a model with heads for words and for segments
    return part_of(outputs, "logits") if words is None else words


def order_of(outputs: Any) -> Tensor:
    """The logits (B, 2) of the order of a row's two segments: ALBERT's own, or BERT's of two sentences.

    Raises:
        KdzooError: it has none.
    """
    order = getattr(outputs, "sop_logits", None)
    return part_of(outputs, "seq_relationship_logits") if order is None else order


def part_of(outputs: Any, name: str) -> Any:
    """One part of a model's output.

    Raises:
        KdzooError: it is missing; those that are there are named.
    """
    found = getattr(outputs, name, None)
    if found is None and isinstance(outputs, tuple):
        raise KdzooError(f"the model's output has no {name}; call it with return_dict=True")
    if found is None:
        has = ", ".join(outputs) if hasattr(outputs, "keys") else type(outputs).__name__
        raise KdzooError(
            f"the output of {type(outputs).__name__} has no {name}, which the objective compares; it has {has}. Take a "
            "loss on what it has"
        )
    return found


@functools.cache
def states_by_index() -> bool:
    """Whether transformers takes the indices of hidden states and keeps those alone.

    It does from 5.23 on. Before, it kept all of them (to 5.11), or took the indices to be of layers and left out the
    embeddings' output (5.17 to 5.22).
    """
    from packaging.version import Version  # transformers brings it

    return Version(version("transformers")) >= Version("5.23")
