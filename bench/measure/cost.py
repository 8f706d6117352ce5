"""What each loss costs: its time and memory at one size of batch, student and teacher, against the student's own."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from kdzoo.bench.columns import Columns
from kdzoo.bench.files import write_atomically
from kdzoo.bench.timing import device_name, peak_bytes, seconds, versions
from kdzoo.models.activations import QKV, Activations, capture
from kdzoo.models.teachers import model_of_size
from kdzoo.objectives.objective import Objective
from kdzoo.objectives.term import Term

CLASSES, VOCABULARY, TRAINING_ROWS = 3, 1000, 100_000


@dataclass
class Cost:
    """One loss.

    Attributes:
        name: its registry name.
        feature: what it was taken on; every mapped layer of it.
        milliseconds: median of forward and backward together, down to the student's activations.
        of_backward: the same over the student's own backward pass.
        peak_memory: bytes, at the highest, beyond the activations themselves.
    """

    name: str
    feature: str
    milliseconds: float
    of_backward: float
    peak_memory: int


def measure_costs(
    names: Sequence[str],
    *,
    student: str = "4x312,heads=12,ffn=1200",
    teacher: str = "6x384,heads=12",
    batch_size: int = 32,
    length: int = 128,
    repeats: int = 5,
) -> Iterator[tuple[Cost | None, dict[str, Any]]]:
    """Measure losses one after the other, each on its default feature and layers.

    Args:
        names: registry names.
        student, teacher: sizes.
        batch_size, length: B rows of S positions, a quarter of them padding.
        repeats: calls to take the median of.

    Yields:
        First None with the setting, the student's own times among it; then each loss's cost with the same setting.

    Raises:
        KdzooError: for a size that is none, or a loss that cannot work on these models.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    models: list[Any] = [
        model_of_size(size, positions=length, num_labels=CLASSES, vocabulary=VOCABULARY).to(device)
        for size in (student, teacher)
    ]
    # Every objective is made first, so that one that cannot work stops the command before any work.
    objectives = {name: Objective([Term(name)]).bind(*models, num_samples=TRAINING_ROWS).to(device) for name in names}
    ids = torch.randint(VOCABULARY, (batch_size, length), device=device)
    lengths = torch.randint(length // 2, length + 1, (batch_size, 1), device=device)
    mask = (torch.arange(length, device=device) < lengths).long()
    labels = torch.randint(CLASSES, (batch_size,), device=device)

    def forward() -> Tensor:
        return models[0](ids, attention_mask=mask, labels=labels).loss

    ahead = seconds(forward, device, repeats=repeats)
    backward = seconds(Tensor.backward, device, repeats=repeats, prepare=forward)
    setting = {
        "student": student,
        "teacher": teacher,
        "batch_size": batch_size,
        "length": length,
        "repeats": repeats,
        "student_forward_ms": 1e3 * ahead,
        "student_backward_ms": 1e3 * backward,
        "device": device_name(),
        "versions": versions("transformers"),
    }
    yield None, setting
    for name, objective in objectives.items():
        sides = []
        for model, needs in zip(models, objective.needs(0.0), strict=True):
            sides.append(_activations(model, needs, ids, mask) if needs is not None else None)
        step = partial(_step, objective, sides, labels)
        own = seconds(step, device, repeats=repeats)
        yield Cost(name, objective.terms[0].feature, 1e3 * own, own / backward, peak_bytes(step, device)), setting


def _step(objective: Objective, sides: Sequence[Any], labels: Tensor) -> None:
    """A loss forward and backward, down to the student's activations."""
    sample_ids = torch.arange(len(labels), device=labels.device)
    objective(_leaves(sides[0]), sides[1], labels=labels, sample_ids=sample_ids, progress=0.0).total.backward()


def cost_columns(costs: Sequence[Cost], setting: dict[str, Any]) -> Columns:
    """The table, the cheapest first."""
    title = (
        f"Cost of a loss, forward and backward: {setting['batch_size']} rows of {setting['length']} tokens, student "
        f"{setting['student']}, teacher {setting['teacher']}.\nThe student's own backward pass takes "
        f"{setting['student_backward_ms']:.0f} ms; {setting['device']}"
    )
    body = [
        [c.name, c.feature, f"{c.milliseconds:.2f}", f"{c.of_backward:.3f}", f"{c.peak_memory / 1e6:.1f}"]
        for c in sorted(costs, key=lambda cost: cost.milliseconds)
    ]
    return Columns(("loss", "feature", "ms", "of the student's backward", "peak memory, MB"), body, title, names=2)


def read_costs(record: dict[str, Any]) -> Columns:
    """The table of what `write_costs` wrote."""
    return cost_columns([Cost(**cost) for cost in record["costs"]], record["setting"])


def write_costs(path: Path, costs: Sequence[Cost], setting: dict[str, Any]) -> None:
    """Write the costs and their setting as JSON."""
    write_atomically(path, json.dumps({"setting": setting, "costs": [asdict(cost) for cost in costs]}, indent=1) + "\n")


@torch.no_grad()
def _activations(model: Any, needs: Any, ids: Tensor, mask: Tensor) -> Activations:
    with capture(model, needs) as recorder:
        return recorder.activations(model(ids, attention_mask=mask), mask=mask)


def _leaves(taken: Activations) -> Activations:
    """The same activations as leaves that collect a gradient."""

    def leaf(tensor: Tensor) -> Tensor:
        return tensor.detach().requires_grad_()

    return Activations(
        logits=None if taken.logits is None else leaf(taken.logits),
        hidden={i: leaf(states) for i, states in taken.hidden.items()},
        cls={i: leaf(states) for i, states in taken.cls.items()},
        qkv={i: QKV(*map(leaf, qkv)) for i, qkv in taken.qkv.items()},
        mask=taken.mask,
    )
