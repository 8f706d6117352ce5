"""The order of the rows, and the learning rate's course over a recipe's stages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from transformers.trainer_pt_utils import LengthGroupedSampler

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
