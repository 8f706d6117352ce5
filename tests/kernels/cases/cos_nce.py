"""COS-NCE: in-batch and explicit negatives in all layouts."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch

from kdzoo.kernels import backend
from kdzoo.kernels.cos_nce import MAX_WIDTH, launch, run, run_totals
from kdzoo.kernels.cos_nce import cos_nce as kernel
from kdzoo.kernels.cos_nce import cos_nce_reference as reference
from kdzoo.kernels.operators import scale_in_place

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 70 if draw.integer(0, 9) == 0 else 7) if rows is None else rows
    width = draw.choice(3, 8, 37) if width is None else width
    between = draw.choice((), (3,), (2,), (2, 3), (1, 2))
    made: dict[str, Any] = {
        "student": draw.tensor(rows, *between, width),
        "teacher": draw.tensor(rows, *between, width),
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
    }
    kind = draw.choice("batch", "batch", "for all", "for each")
    if kind != "batch":
        number = draw.integer(0, 3)
        made["negatives"] = draw.tensor(rows, number, *(between if kind == "for each" else ()), width)
    return made


BAD = (
    ("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(B, D)",)),
    ("negatives of another width", lambda good: {"negatives": _ones(good, 4, 2, 7)}, ("(4, 2, 7)",)),
    (
        "totals of another width",
        lambda good: {"negatives": None, "totals": (_ones(good, 7), _ones(good))},
        ("totals", "(7,)"),
    ),
    (
        "negatives and totals",
        lambda good: {"negatives": _ones(good, 4, 2, 6), "totals": (_ones(good, 6), _ones(good))},
        ("not both",),
    ),
)


def _ones(good: dict[str, Any], *shape: int) -> torch.Tensor:
    return torch.ones(shape).to(good["student"])


def also(place: Any) -> None:
    """Groups of slots that a cache holds give what all of them give, in one and in several programs a slot."""
    for shape, programs in (((40, 2, 3, 16), 8), ((9, 5, 8), 5)):
        size = 4 * shape[0] * shape[-1]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(backend, "cache_bytes", lambda size=size: 2 * 4 * size)
            patch.setattr(launch, "LEAST", 0)
            patch.setattr(launch, "PROGRAMS", programs)
            slots = math.prod(shape[1:-1])
            how = launch.plan(shape[0], shape[-1], slots, 4)
            assert (how.group, how.splits) == (3, 2 if programs == 8 else 1)
            student, teacher = (torch.randn(shape).to(place.device) for _ in range(2))
            mask = (torch.rand(shape[0], shape[-2]) < 0.7).to(place.device)
            place.agrees({"student": student, "teacher": teacher, "mask": mask}, torch.float32)


def launches() -> Iterator[Callable[[], Any]]:
    for dtype, shape, tried in (
        (torch.bfloat16, (256, 4, 128, 768), ("totals", "in batch", "no gradient", "backward")),
        (torch.float32, (4096, 768), ("in batch", "backward")),
        (torch.float32, (64, 48, 312), ("in batch", "negatives", "no gradient")),
        (torch.bfloat16, (1024, 4, 37), ("in batch", "negatives")),
        (torch.float32, (8, 512, MAX_WIDTH), ("totals", "in batch")),
    ):
        empty = partial(torch.empty, device="meta")
        student, count = empty(shape, dtype=dtype), empty(())
        mask = empty((shape[0], shape[-2]), dtype=torch.bool) if len(shape) > 2 else None
        negatives = empty((shape[0], 16, *shape[1:]), dtype=dtype)
        calls = {
            "totals": partial(run_totals, student, mask, "triton"),
            "in batch": partial(run, student, student, mask, None, None, None, count, True, "triton"),
            "negatives": partial(run, student, student, None, negatives, None, None, count, True, "triton"),
            "no gradient": partial(run, student, student, mask, None, None, None, count, False, "triton"),
            "backward": partial(scale_in_place, student, count),
        }
        yield from (calls[form] for form in tried)
