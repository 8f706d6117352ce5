"""Tells once of a loss whose parameters get gradients and are in no optimizer: its projection would stay as drawn."""

from __future__ import annotations

import warnings
import weakref
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from kdzoo.errors import KdzooWarning

# By the loss, the optimizers that have stepped past its gradients. Once one of them does so again, none has them.
_watched: weakref.WeakKeyDictionary[nn.Module, weakref.WeakSet[Optimizer]] = weakref.WeakKeyDictionary()
_hooks: list[Any] = []


def watch(loss: nn.Module) -> None:
    """Look at the optimizers' first steps for one that holds what the loss learns."""
    _watched[loss] = weakref.WeakSet()
    if not _hooks:
        _hooks.append(register_optimizer_step_post_hook(_stepped))


def _stepped(optimizer: Optimizer, *_: Any) -> None:
    if not _watched:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    for loss, before in list(_watched.items()):
        learned = [parameter for parameter in loss.parameters() if parameter.requires_grad]
        if not any(parameter.grad is not None for parameter in learned):
            continue  # it learns nothing, or has had no backward pass
        if any(id(parameter) in held for parameter in learned):
            del _watched[loss]
        elif optimizer in before:
            del _watched[loss]
            name = getattr(loss, "label", type(loss).__name__)
            warnings.warn(
                f"{name} has parameters of its own (its projection) that are in no optimizer, so that they stay as "
                "they were drawn; add loss.parameters() to the optimizer's",
                KdzooWarning,
                stacklevel=2,
            )
        else:
            before.add(optimizer)
