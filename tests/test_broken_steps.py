"""DistillationTrainer: a loss or weights that are no number stop the training, at the step that broke."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from test_trainer import STEPS, seeing, state, trainer
from torch import Tensor

import kdzoo
from kdzoo.errors import DistillationFailure
from kdzoo.losses.base import DistillationLoss
from kdzoo.objectives.objective import Objective, ObjectiveOutput
from kdzoo.objectives.term import Term

pytestmark = pytest.mark.filterwarnings("ignore:.*lr_scheduler.step.*:UserWarning")


class Breaking(DistillationLoss):
    """Cross-entropy that becomes ``value`` at one call."""

    features = ("logits",)

    def __init__(self, at: int, value: float) -> None:
        super().__init__()
        self.left, self.value = at, value

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        self.left -= 1
        return student.square().mean() + (self.value if self.left == 0 else 0.0)


class Accelerated(kdzoo.DistillationTrainer):  # type: ignore[misc, valid-type]
    """Looks at its losses as on an accelerator: not at once, but when it logs, saves or ends."""

    at_once = False

    def compute_loss(self, *arguments: Any, **options: Any) -> Any:
        self.at_once = True
        try:
            return super().compute_loss(*arguments, **options)
        finally:
            self.at_once = False

    def _check_finite(self, steps: Any) -> None:
        if not self.at_once:
            super()._check_finite(steps)


def breaking(at: int, value: float) -> Objective:
    return Objective([Term("ce"), Term(Breaking(at, value), name="broken", weight=2.0)])


def test_weights_that_the_last_step_breaks_are_a_failure(tmp_path: Path) -> None:
    """Its loss is finite, and no step follows whose loss would show what it did."""
    made = trainer(tmp_path, "none", max_steps=1, learning_rate=1e38, warmup_steps=0, weight_decay=1.0)
    with pytest.raises(DistillationFailure, match="weights are not finite after the last step"):
        made.train()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_loss_that_is_no_number_stops_the_training(value: float, tmp_path: Path) -> None:
    made = trainer(tmp_path, objective=breaking(5, value), save_strategy="steps", save_steps=2)
    seen = seeing(made)
    ids = r", ".join
    with pytest.raises(DistillationFailure) as error:
        made.train()
    assert str(error.value) == (
        f"the loss is not finite at step 5: the term 'broken' is {value}; the batch held training rows "
        f"{ids(map(str, seen[4]))}; the last checkpoint is {tmp_path / 'checkpoint-4'}"
    )
    assert len(seen) == 5
    resumed = trainer(tmp_path, objective=breaking(100, value))
    resumed.train(resume_from_checkpoint=True)
    assert all(value.isfinite().all() for value in state(resumed).values())


@pytest.mark.parametrize(
    ("settings", "caught_after"),
    [
        ({"logging_steps": 4}, 8),
        ({"logging_strategy": "no", "save_strategy": "steps", "save_steps": 6}, 6),
        ({"logging_strategy": "no"}, STEPS),
    ],
)
def test_accelerators_look_later(settings: dict[str, Any], caught_after: int, tmp_path: Path) -> None:
    made = trainer(tmp_path, objective=breaking(5, float("nan")), kind=Accelerated, **settings)
    seen = seeing(made)
    rows_of_step_5 = "at step 5: the term 'broken' is nan; the batch held training rows "
    with pytest.raises(DistillationFailure, match=rows_of_step_5) as error:
        made.train()
    assert ", ".join(map(str, seen[4])) in str(error.value)
    assert len(seen) == caught_after
    assert str(error.value).endswith("no checkpoint had been written yet") and not [*tmp_path.glob("checkpoint-*")]


def test_the_first_step_that_broke_is_named(tmp_path: Path) -> None:
    made = trainer(tmp_path, "kd")
    fine, bad = torch.tensor(1.0), torch.tensor(float("inf"))
    steps = [
        (7, ObjectiveOutput(fine, {"kd": fine}), None),
        (8, ObjectiveOutput(bad, {"kd": fine, "ce": bad}), torch.tensor([4, 2])),
        (9, ObjectiveOutput(bad, {"kd": bad}), torch.tensor([1])),
    ]
    with pytest.raises(DistillationFailure, match="step 8: the term 'ce' is inf; the batch held training rows 4, 2;"):
        made._check_finite(steps)
    with pytest.raises(DistillationFailure, match="unknown rows"):
        made._check_finite([(1, ObjectiveOutput(bad, {"kd": bad}), None)])
    made._check_finite(steps[:1])
