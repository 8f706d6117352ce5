"""The relations between rows: distances, angles, SP, PKT and CKA, over all rows or a process's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.backend import DEVICE_BLOCK
from kdzoo.kernels.gram import MAX_ROWS, RELATIONS, gram, gram_reference, run

GRADIENT = ("student",)
# Angles of rows of hundreds of columns differ by little, which is squared, and come from distances that do, too.
ROUNDED = 4


def kernel(**inputs: Any) -> Tensor:
    return _mean(gram, inputs)


def reference(**inputs: Any) -> Tensor:
    return _mean(gram_reference, inputs)


def _mean(function: Callable[..., Tensor], inputs: dict[str, Any]) -> Tensor:
    """The sum over so many terms that float16 has room for its gradient."""
    value = function(**inputs)
    rows = max(inputs["student"].shape[-2], 1)
    return value / rows ** (2 if inputs["relation"] == "angle" else 1)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    # Of less than three rows that differ the gradients are zeros; test_gram.py has those, which have no relative error.
    rows = draw.integer(6, 40 if draw.integer(0, 4) == 0 else 10) if rows is None else rows
    width = draw.choice(12, 37) if width is None else width
    slots = draw.choice((), (1,), (3,))
    mask = draw.mask(*slots, rows) if slots and draw.integer(0, 1) else None
    if mask is not None:
        mask[:, :6] = 1
    start = draw.integer(0, 1)
    return {
        "student": draw.tensor(*slots, rows, width),
        "teacher": draw.tensor(*slots, rows, draw.choice(16, 37)),
        "mask": mask,
        "own": draw.choice(slice(None), slice(start, draw.integer(2, max(2, rows))) if rows > 1 else slice(None)),
        "relation": draw.choice("angle", "angle", *RELATIONS),
    }


BAD = (
    ("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(N, D)",)),
    ("another relation", lambda good: {"relation": "cosine"}, ("'cosine'", "distance, angle, sp")),
    ("rows that are not there", lambda good: {"own": slice(1, 5)}, ("slice(1, 5, None)", "4 rows")),
)


def launches() -> Iterator[Callable[[], Any]]:
    for rows in (37, 300, MAX_ROWS):
        student, real = (
            torch.empty((2, rows, 100), device="meta"),
            torch.empty((2, rows), dtype=torch.bool, device="meta"),
        )
        for relation in RELATIONS if rows == 37 else ("distance", "angle", "sp", "pkt"):
            for with_gradient in (True, False) if rows == 37 else (True,):
                yield partial(run, student, student, real, 0, rows, relation, with_gradient, "triton")


def heavy(student: Tensor, teacher: Tensor, real: Tensor, start: int, stop: int, relation: str, *rest: Any) -> bool:
    return relation == "angle" and student.shape[1] ** 3 > 10 * DEVICE_BLOCK
