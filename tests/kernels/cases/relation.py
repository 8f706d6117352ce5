"""Relations of two factors, or of one with itself: all kinds, of unequal widths, with both kinds of masks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels import relation as kernels

GRADIENT = ("student",)
SIZES = {"student": 1.0, "teacher": 1.7}


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 2) if rows is None else rows
    width = draw.choice(3, 16, 37) if width is None else width
    kind, alone = draw.choice("mse", "kl", "ce"), draw.choice(False, True)
    # A single difference may be next to nothing, and float32 cannot tell it from the scores' own rounding.
    length = draw.choice(4 if kind == "mse" else 1, 5, 5, *((33, 70) if width < 64 else ()))
    heads = draw.integer(1, 2) if length < 33 else 1
    masks = {"mask": (rows, length), "keys": (rows, length), "pairs": (rows, length, length)}
    masked = draw.choice(None, "mask", "mask", *masks)
    drawn = {name: draw.mask(*shape) if name == masked else None for name, shape in masks.items()}
    for mask in drawn.values():
        if mask is not None and rows:
            mask[0, :4] = 1
    sides = {"student": width, "teacher": draw.choice(width, 5)}
    # A vector's product with itself grows with its width, and two one-hot rows (or two flat ones) hardly differ.
    scales = {side: 1.0 if not alone else size * max(sides[side], 1) ** -0.25 for side, size in SIZES.items()}
    return {
        **{side: draw.tensor(rows, heads, length, each) * scales[side] for side, each in sides.items()},
        "kind": kind,
        "alone": alone,
        # At most one of the three: tokens, tokens of which all ask, and the pairs themselves.
        **drawn,
        "floor": draw.choice(None, -0.5) if kind == "mse" else None,
    }


def kernel(
    student: Tensor,
    teacher: Tensor,
    *,
    alone: bool,
    function: Callable[..., Tensor] = kernels.relation,
    mask: Tensor | None = None,
    keys: Tensor | None = None,
    pairs: Tensor | None = None,
    **options: Any,
) -> Tensor:
    """The right factors are the left ones with their columns shifted."""
    sides = [side if alone else (side, side.roll(1, -1)) for side in (student, teacher)]
    given = mask if mask is not None else keys if keys is not None else pairs
    return function(*sides, mask=given, padded_queries=keys is not None, **options)


reference = partial(kernel, function=kernels.relation_reference)

BAD = (
    ("two axes", lambda good: {"student": good["student"][0, 0]}, ("(B, A, S, d)",)),
    (
        "another number of heads",
        lambda good: {"teacher": good["teacher"].repeat(1, 2, 1, 1)},
        ("student", "teacher", "agree"),
    ),
    ("an unknown kind", lambda good: {"kind": "l1"}, ("'l1'", "mse, kl, ce")),
    ("a floor without use", lambda good: {"kind": "kl", "floor": 0.5}, ("floor=0.5", "'mse'")),
)


def launches() -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    real, pairs = empty((8, 128), dtype=torch.bool), empty((8, 128, 128), dtype=torch.bool)
    tokens, matrix = (real, real, None), (real, real, pairs)
    for dtype, widths, kind, floor, masks, alone, gradient in (
        (torch.float16, (26, 32), "mse", -100.0, matrix, False, True),
        (torch.bfloat16, (64, 64), "kl", None, matrix, False, True),
        (torch.bfloat16, (128, 128), "kl", None, tokens, False, True),
        (torch.bfloat16, (64, 64), "ce", None, tokens, True, True),
        (torch.bfloat16, (384, 768), "kl", None, matrix, False, True),
        (torch.float32, (128, 128), "kl", None, matrix, False, True),
        (torch.float32, (64, 64), "kl", None, tokens, True, True),
        (torch.float32, (128, 128), "mse", None, (None, None, None), True, True),
        (torch.float32, (26, 32), "mse", -100.0, matrix, False, False),
    ):
        x_s, x_t = (empty((8, 128, 12, width), dtype=dtype).transpose(1, 2) for width in widths)
        y_s, y_t = (None, None) if alone else (x_s, x_t)
        yield partial(kernels.run, x_s, y_s, x_t, y_t, *masks, empty(()), kind, floor, gradient, "triton")
