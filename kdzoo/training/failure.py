"""When a loss is no number: which step, which term and which rows, and what is left to go on from."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers.trainer_utils import get_last_checkpoint

from kdzoo.errors import DistillationFailure
from kdzoo.objectives.objective import ObjectiveOutput

Step = tuple[int, ObjectiveOutput, Tensor | None]  # its number, what the objective gave, and the rows' sample_ids


def check_finite(steps: list[Step], folder: Path) -> None:
    """Refuse to go on after a loss that is NaN or infinite.

    Args:
        steps: those not looked at yet.
        folder: where checkpoints are.

    Raises:
        DistillationFailure: names the first such step, its terms and rows, and the last checkpoint.
    """
    if not steps or torch.stack([output.total for _, output, _ in steps]).isfinite().all():
        return
    step, output, ids = next(entry for entry in steps if not entry[1].total.isfinite())
    bad = {name: value.item() for name, value in output.terms.items() if not value.isfinite()}
    what = ", ".join(f"the term {name!r} is {value}" for name, value in bad.items()) or f"it is {output.total}"
    rows = "unknown rows" if ids is None else f"training rows {', '.join(str(row) for row in ids.tolist())}"
    kept = get_last_checkpoint(str(folder)) if folder.is_dir() else None
    checkpoint = f"the last checkpoint is {kept}" if kept else "no checkpoint had been written yet"
    raise DistillationFailure(f"the loss is not finite at step {step}: {what}; the batch held {rows}; {checkpoint}")
