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
from kdzoo.tasks.candidates import LIST
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


def by_length(dataset: Any, args: Any, whole: Any = None) -> SeededLengthSampler:
    """A sampler of a training set by its rows' lengths.

    Args:
        dataset: the rows, with a column of lengths or with their tokens.
        args: the ``TrainingArguments``.
        whole: the same rows with all their columns, of which `EPOCH` and `LIST` decide on the order, too.
    """
    names = getattr(dataset, "column_names", ())
    lengths = list(dataset[args.length_column_name]) if args.length_column_name in names else None
    seed = args.data_seed if args.data_seed is not None else args.seed
    batch_size = args.train_batch_size * args.gradient_accumulation_steps
    told = {"epochs": epochs_of(whole), "queries": queries_of(whole)}
    return SeededLengthSampler(batch_size, dataset, lengths=lengths, generator=torch.Generator(), seed=seed, **told)


def queries_of(rows: Any) -> np.ndarray | None:
    """The query of each row, (N,), whose rows stand together in a batch; None where rows stand alone."""
    return np.asarray(rows[LIST][:]) if LIST in getattr(rows, "column_names", ()) else None


def check_order(dataset: Any, args: Any) -> None:
    """Refuse a sampler that would take rows of one epoch in each, or part the rows of a query.

    Raises:
        KdzooError: names the argument.
    """
    epochs, queries = epochs_of(dataset), queries_of(dataset)
    if args.train_sampling_strategy != "group_by_length":
        for column, there, what in (
            (EPOCH, epochs, "rows of one epoch alone"),
            (LIST, queries, "lists of candidates"),
        ):
            if there is not None:
                raise KdzooError(
                    f"the training set has {what} (its column {column!r}); set "
                    'train_sampling_strategy="group_by_length", whose sampler keeps to them'
                )
    if queries is not None:
        first = queries if epochs is None else queries[epochs <= 0]
        check_together(int(np.bincount(first).max(initial=1)), args.per_device_train_batch_size)


def check_together(rows: int, batch_size: int) -> None:
    """Refuse batches that would part rows that stand together.

    Args:
        rows: how many do.
        batch_size: of a device.

    Raises:
        KdzooError: names the sizes that work.
    """
    if batch_size % rows:
        least = max(batch_size // rows, 1) * rows
        raise KdzooError(
            f"the batch size is {batch_size}, and a list of candidates has {rows} rows, which stand in one batch; take "
            f"a multiple of {rows}, such as {least}"
        )


class SeededLengthSampler(LengthGroupedSampler):
    """Rows of like length together, in an order that depends on the seed and the epoch alone.

    Args:
        seed: of the order.
        epochs: the one epoch that each row is of (`kdzoo.tasks.epochs`); None where all are of every epoch.
        queries: the query that each row is of, whose rows follow each other; None where rows stand alone.
    """

    def __init__(
        self,
        *arguments: Any,
        seed: int,
        epochs: np.ndarray | None = None,
        queries: np.ndarray | None = None,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self._queries = queries
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
        if self._epochs is None and self._queries is None:
            return super().__iter__()
        taken = self._taken()
        if self._queries is not None:
            return self._by_query(taken, self._queries[taken])
        order = get_length_grouped_indices(
            [self.lengths[at] for at in taken], self.batch_size, generator=self.generator
        )
        return iter(taken[order].tolist())

    def _taken(self) -> np.ndarray:
        """The rows of this epoch."""
        if self._epochs is None:
            return np.arange(len(self.lengths))
        drawn = int(self._epochs.max()) + 1
        if self._epoch >= drawn:
            raise KdzooError(
                f"the training set has the rows of {drawn} epochs, and the training goes on beyond them; encode the "
                "rows for more epochs"
            )
        return np.flatnonzero((self._epochs == EVERY) | (self._epochs == self._epoch))

    def _by_query(self, taken: np.ndarray, queries: np.ndarray) -> Any:
        """Rows query by query, those of like length together, by their longest row."""
        order = np.argsort(queries, kind="stable")
        _, starts, counts = np.unique(queries[order], return_index=True, return_counts=True)
        longest = np.maximum.reduceat(np.asarray(self.lengths)[taken[order]], starts)
        batch = max(self.batch_size // int(counts.max()), 1)
        by_length = get_length_grouped_indices(longest.tolist(), batch, generator=self.generator)
        return iter([at for query in by_length for at in taken[order[starts[query] :][: counts[query]]].tolist()])
