"""The order of the rows, and the learning rate's course over a recipe's stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_pt_utils import LengthGroupedSampler

from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Stage


def staged_rate(
    spans: list[tuple[float, float, Stage]], steps: int, warmup: int, course: Callable[[int], float]
) -> Callable[[int], float]:
    """The factor on the learning rate at a step: each stage's own course within its span, or the arguments'."""

    # A function and not an object: checkpoints would hold the object, and refuse to load it.
    def factor(step: int) -> float:
        progress = step / max(steps, 1)
        start, end, stage = next((span for span in spans if progress < span[1]), spans[-1])
        if step < warmup:
            return stage.lr_factor * step / warmup
        done = (progress - start) / (end - start)
        if done < stage.warmup_ratio:
            return stage.lr_factor * done / stage.warmup_ratio
        if stage.lr_scheduler is None:
            return stage.lr_factor * course(step)
        left = 1.0 if stage.lr_scheduler == "constant" else max(0.0, (1 - done) / (1 - stage.warmup_ratio))
        return stage.lr_factor * left

    return factor


def staged(scheduler: Any, spans: list[tuple[float, float, Stage]], steps: int, args: Any) -> Any:
    """A scheduler that follows a recipe's stages, where they name a course of their own; else the one given.

    Args:
        scheduler: what the arguments ask for.
        spans: of the recipe.
        steps: of the training.
        args: the ``TrainingArguments``.

    Raises:
        KdzooError: for a scheduler that has no course to put the stages' in place of.
    """
    if not any(stage.lr_scheduler or stage.warmup_ratio or stage.lr_factor != 1 for _, _, stage in spans):
        return scheduler
    if not isinstance(scheduler, LambdaLR):
        raise KdzooError(
            f"the recipe's stages set the learning rate, which lr_scheduler_type={args.lr_scheduler_type} does not go "
            "with; take 'linear'"
        )
    course = staged_rate(spans, steps, args.get_warmup_steps(steps), scheduler.lr_lambdas[0])
    return LambdaLR(scheduler.optimizer, course)


def by_length(dataset: Any, args: Any) -> SeededLengthSampler:
    """A sampler of a training set by its rows' lengths.

    Args:
        dataset: the rows, with a column of lengths or with their tokens.
        args: the ``TrainingArguments``.
    """
    names = getattr(dataset, "column_names", ())
    lengths = list(dataset[args.length_column_name]) if args.length_column_name in names else None
    seed = args.data_seed if args.data_seed is not None else args.seed
    batch_size = args.train_batch_size * args.gradient_accumulation_steps
    return SeededLengthSampler(batch_size, dataset, lengths=lengths, generator=torch.Generator(), seed=seed)


class SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that depends on the seed and the epoch alone."""

    def __init__(self, *arguments: Any, seed: int, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seed = seed
        self._epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by the data loader."""
        self._epoch = epoch

    def __iter__(self) -> Any:
        self.generator.manual_seed(self._seed * 1_000_003 + self._epoch)
        return super().__iter__()
