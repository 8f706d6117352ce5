"""What the cases of the kernels that compare vectors one by one have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from kdzoo.kernels.rows import MAX_WIDTH, Operator


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 20) if rows is None else rows
    width = draw.choice(3, 8, 37, 300) if width is None else width
    between = draw.choice((), (3,), (2, 3), (1, 4))
    return {
        "student": draw.tensor(rows, *between, width),
        "teacher": draw.tensor(rows, *between, width),
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
    }


BAD = (("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(B, D)",)),)


def launches(operator: Operator) -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    for dtype, shape in (
        (torch.bfloat16, (32, 4, 128, 768)),
        (torch.float16, (64, 48, 312)),
        (torch.float32, (1024, 37)),
        (torch.float32, (8, 128, MAX_WIDTH)),
    ):
        vectors, count = empty(shape, dtype=dtype), empty(())
        mask = empty((shape[0], shape[-2]), dtype=torch.bool) if len(shape) > 2 else None
        yield partial(operator.run, vectors, vectors, mask, count, True, "triton")
    yield partial(operator.run, vectors, vectors, mask, count, False, "triton")
