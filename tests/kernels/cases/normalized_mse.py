"""Squared distance of normalised vectors, in all layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import vectors

from kdzoo.kernels.normalized_mse import normalized_mse as kernel
from kdzoo.kernels.normalized_mse import normalized_mse_reference as reference
from kdzoo.kernels.normalized_mse import operator

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)
inputs, BAD = vectors.inputs, vectors.BAD


def launches() -> Iterator[Callable[[], Any]]:
    return vectors.launches(operator)
