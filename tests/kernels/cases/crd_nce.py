"""CRD's contrast with banks: positives from the banks or the batch, and negatives that come more than once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from kdzoo.kernels.crd_nce import MAX_WIDTH, run, run_sums, run_update
from kdzoo.kernels.crd_nce import crd_nce as kernel
from kdzoo.kernels.crd_nce import crd_nce_reference as reference

__all__ = ["kernel", "reference"]

GRADIENT = ("student", "teacher")
SKIP = {
    "is_defined_for_infinities_in_the_teacher": "embeddings are unit vectors, which have no infinities",
}


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 6) if rows is None else rows
    width = draw.choice(3, 8, 37) if width is None else width
    # Without any, only 1e-7 holds the positive back, and float16 has no digits for the gradient.
    size, drawn = draw.integer(1, 60), draw.integer(1, 40)

    def vectors(number: int) -> torch.Tensor:
        return draw.tensor(number, width) / max(width, 1) ** 0.5

    def chosen(*shape: int) -> torch.Tensor:
        return torch.randint(size, shape, generator=draw.generator)

    return {
        "student": vectors(rows),
        "teacher": vectors(rows),
        "student_bank": vectors(size),
        "teacher_bank": vectors(size),
        "ids": chosen(rows, drawn),
        "normaliser": 10 * size * torch.rand(2, generator=draw.generator, dtype=torch.float64) + 1,
        "sample_ids": chosen(rows) if draw.integer(0, 1) else None,
        "temperature": draw.choice(0.2, 0.5, 2.0),
    }


BAD = (
    ("one axis", lambda good: {side: good[side][0] for side in ("student", "teacher")}, ("(B, D)",)),
    (
        "banks of two sizes",
        lambda good: {"teacher_bank": good["teacher_bank"].repeat(2, 1)},
        ("teacher_bank", "n, 6"),
    ),
    ("ids that are no integers", lambda good: {"ids": good["ids"].float()}, ("ids", "float32")),
    ("ids of other rows", lambda good: {"sample_ids": good["ids"][1:, :0].sum(1)}, ("sample_ids", "(3,)")),
    ("one Z", lambda good: {"normaliser": good["normaliser"][:1]}, ("normaliser", "(1,)")),
    ("no temperature", lambda good: {"temperature": -1.0}, ("temperature is -1.0",)),
)


def launches() -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    for dtype, width in ((torch.float32, 128), (torch.bfloat16, MAX_WIDTH)):
        sides, banks = [empty((64, width), dtype=dtype)] * 2, [empty((100000, width), dtype=dtype)] * 2
        ids, sample_ids = empty((64, 16384), dtype=torch.int64), empty(64, dtype=torch.int64)
        for gradient in (True, False):
            yield partial(run, *sides, *banks, ids, empty(2), sample_ids, empty(()), 0.07, gradient, "triton")
        yield partial(run_sums, *sides, *banks, ids, empty(2), sample_ids, 0.07, "triton")
        yield partial(run_update, *banks, *sides, sample_ids, 0.5, "triton")
