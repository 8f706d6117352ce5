"""Masked mean of 1 - cosine, in all layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import vectors

from kdzoo.kernels.cosine import cosine as kernel
from kdzoo.kernels.cosine import cosine_reference as reference
from kdzoo.kernels.cosine import operator

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)
# Of a single row that is by chance next to parallel, 1 - cosine is no larger than the rounding of either.
VALUE_FLOOR = 5e-7
inputs, BAD = vectors.inputs, vectors.BAD


def launches() -> Iterator[Callable[[], Any]]:
    return vectors.launches(operator)
