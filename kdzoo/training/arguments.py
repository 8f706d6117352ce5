"""What transformers' Trainer takes and a distillation cannot honour: refused by name, before anything runs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from kdzoo.errors import KdzooError

_LOSS = "the objective is the loss"
# By the name of a TrainingArguments field, why it cannot be honoured and what to do.
REFUSED = {
    "label_smoothing_factor": f"{_LOSS}; give the term on the labels its own, ce(label_smoothing=0.1)",
    "use_liger_kernel": "its kernels replace the student's loss, which is not taken; leave it off",
    "auto_find_batch_size": "it would change the batch that losses see; set per_device_train_batch_size",
    "push_to_hub": "checkpoints hold the objective too; save_model() the student and push that folder",
    "deepspeed": "checkpoints of student and objective are written by one process; start plain processes with torchrun",
    "fsdp": "checkpoints of student and objective are written by one process; start plain processes with torchrun",
    "parallelism_config": "student and teacher are whole in each process; start plain processes with torchrun",
}
REFUSED_ARGUMENTS = {
    "model_init": "projections and banks are made for one student; give model= and make a trainer for each",
    "compute_loss_func": f"{_LOSS}; register a loss of your own and name it in a term",
}


def check_arguments(args: Any, given: Mapping[str, Any]) -> None:
    """Refuse what has no effect on a distillation, or another one than its name says.

    Args:
        args: ``transformers.TrainingArguments``.
        given: what else the Trainer is given.

    Raises:
        KdzooError: names it.
    """
    for name, reason in REFUSED.items():
        if value := getattr(args, name, None):
            raise KdzooError(f"{name}={value!r} cannot be honoured: {reason}")
    for name, reason in REFUSED_ARGUMENTS.items():
        if given.get(name) is not None:
            raise KdzooError(f"{name}= cannot be honoured: {reason}")
    if args.world_size > 1 and not getattr(args, "average_tokens_across_devices", True):
        raise KdzooError(
            "average_tokens_across_devices=False cannot be honoured: means are over the tokens of all processes"
        )
    if args.n_gpu > 1:
        raise KdzooError(
            f"one process cannot distil on {args.n_gpu} GPUs; start one process a GPU with torchrun, or choose one "
            "with CUDA_VISIBLE_DEVICES"
        )


def check_kinds(**given: tuple[Any, type]) -> None:
    """Refuse arguments of another kind than they have to be.

    Args:
        given: by the argument's name, its value and its class; None is as good as any.

    Raises:
        KdzooError: names the argument.
    """
    for name, (value, kind) in given.items():
        if value is not None and not isinstance(value, kind):
            wanted = "a model" if kind is nn.Module else f"a kdzoo {kind.__name__}"
            raise KdzooError(f"{name}= is {wanted}, got {type(value).__name__}")


def check_optimizer(optimizer: torch.optim.Optimizer | None, objective: nn.Module) -> None:
    """Refuse an optimizer that leaves out what the objective learns.

    Raises:
        KdzooError: names a parameter.
    """
    if optimizer is None:
        return
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    left = [name for name, parameter in objective.named_parameters() if id(parameter) not in held]
    if left:
        raise KdzooError(
            f"the optimizer given leaves out what the objective learns ({', '.join(left[:3])}); give "
            "optimizer_cls_and_kwargs=, or optim in the arguments"
        )


def resume_from(args: Any, given: Any) -> Any:
    """The checkpoint to go on from: what ``train`` is given, else what the arguments say."""
    return getattr(args, "resume_from_checkpoint", None) if given is None else given
