"""New weights from a seed, without touching the caller's random state."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """New weights are drawn from this seed; the caller's random state is left alone."""
    # weights are drawn on the CPU; torch.manual_seed would also reset the caller's accelerators
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
