"""InfoNCE: in-batch keys in all layouts, with a queue and with both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from kdzoo.kernels.info_nce import info_nce as kernel
from kdzoo.kernels.info_nce import info_nce_reference as reference
from kdzoo.kernels.info_nce import run

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 70 if draw.integer(0, 9) == 0 else 7) if rows is None else rows
    width = draw.choice(3, 8, 37) if width is None else width
    between = draw.choice((), (3,), (2,), (2, 3), (1, 2))
    return {
        "student": draw.tensor(rows, *between, width),
        "teacher": draw.tensor(rows, *between, width),
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
        "queue": draw.tensor(draw.integer(0, 70), width) if draw.integer(0, 1) else None,
        # A lower one, of few keys, makes gradients that float16 has no digits for.
        "temperature": draw.choice(0.2, 0.5, 2.0),
        "symmetric": bool(draw.integer(0, 1)),
    }


def shorter(good: dict[str, Any]) -> dict[str, Any]:
    return {"student": good["student"][1:], "mask": None, "symmetric": True}


BAD = (
    ("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(B, D)",)),
    ("a queue of another width", lambda good: {"queue": torch.ones(4, 7).to(good["student"])}, ("(4, 7)", "(N, 6)")),
    ("no temperature", lambda good: {"temperature": 0.0}, ("temperature is 0.0",)),
    ("rows beyond the teacher's", lambda good: {"start": 1}, ("from 1 on",)),
    ("fewer rows of the student on both sides", shorter, ("3 of 4 rows", "info_nce_rows")),
    (
        "an opposite side of other rows",
        lambda good: {"opposite": (good["student"][1:, ..., 0], good["student"][..., 0])},
        ("opposite", "info_nce_rows"),
    ),
)


def launches() -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    for dtype, width in ((torch.bfloat16, 128), (torch.bfloat16, 768), (torch.float32, 768)):
        student, queue, count = empty((64, 4, 128, width), dtype=dtype), empty(1024, width, dtype=dtype), empty(())
        mask = empty((64, 128), dtype=torch.bool)
        for symmetric in (False, True):
            yield partial(run, student, student, mask, queue, None, None, count, 0, 0.07, symmetric, True, "triton")
