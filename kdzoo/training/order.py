"""The order of the rows, and the learning rate's course over a recipe's stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.optim.lr_scheduler import LambdaLR
from transformers.trainer_pt_utils import LengthGroupedSampler, get_length_grouped_indices

from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Stage
from kdzoo.tasks.epochs import EPOCH, EVERY, epochs_of


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
            f"the recipe's stages set the learning rate, and so would lr_scheduler_type={args.lr_scheduler_type}; "
            "take 'linear'"
        )
    course = staged_rate(spans, steps, args.get_warmup_steps(steps), scheduler.lr_lambdas[0])
    return LambdaLR(scheduler.optimizer, course)


def by_length(dataset: Any, args: Any, epochs: np.ndarray | None = None) -> SeededLengthSampler:
    """A sampler of a training set by its rows' lengths.

    Args:
        dataset: the rows, with a column of lengths or with their tokens.
        args: the ``TrainingArguments``.
        epochs: the one epoch that each row is of, see `SeededLengthSampler`.
    """
    names = getattr(dataset, "column_names", ())
    lengths = list(dataset[args.length_column_name]) if args.length_column_name in names else None
    seed = args.data_seed if args.data_seed is not None else args.seed
    batch_size = args.train_batch_size * args.gradient_accumulation_steps
    return SeededLengthSampler(
        batch_size, dataset, lengths=lengths, generator=torch.Generator(), seed=seed, epochs=epochs
    )


def check_epochs(dataset: Any, args: Any) -> None:
    """Refuse rows that are of one epoch alone under a sampler that would take all of them in each.

    Raises:
        KdzooError: names the argument.
    """
    if args.train_sampling_strategy != "group_by_length" and epochs_of(dataset) is not None:
        raise KdzooError(
            f"the training set has rows of one epoch alone (its column {EPOCH!r}); set "
            'train_sampling_strategy="group_by_length", whose sampler takes each in its own'
        )


class SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that depends on the seed and the epoch alone.

    Args:
        seed: of the order.
        epochs: the one epoch that each row is of (`kdzoo.tasks.epochs`); None where all are of every epoch.
    """

    def __init__(self, *arguments: Any, seed: int, epochs: np.ndarray | None = None, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._seed = seed
        self._epoch = 0
        self._epochs = epochs

    def set_epoch(self, epoch: int) -> None:
        """Called before each epoch by the data loader."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths) if self._epochs is None else int((self._epochs <= 0).sum())

    def __iter__(self) -> Any:
        self.generator.manual_seed(self._seed * 1_000_003 + self._epoch)
        if self._epochs is None:
            return super().__iter__()
        drawn = int(self._epochs.max()) + 1
        if self._epoch >= drawn:
            raise KdzooError(
                f"the training set has the rows of {drawn} epochs, and the training goes on beyond them; encode the "
                "rows for more epochs"
            )
        taken = np.flatnonzero((self._epochs == EVERY) | (self._epochs == self._epoch))
        order = get_length_grouped_indices(
            [self.lengths[at] for at in taken], self.batch_size, generator=self.generator
        )
        return iter(taken[order].tolist())
