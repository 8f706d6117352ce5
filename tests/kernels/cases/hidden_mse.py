"""Masked mean squared difference, in all layouts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import vectors

from kdzoo.kernels.hidden_mse import hidden_mse as kernel
from kdzoo.kernels.hidden_mse import hidden_mse_reference as reference
from kdzoo.kernels.hidden_mse import operator

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)
inputs, BAD = vectors.inputs, vectors.BAD
SKIP = {"is_defined_for_infinities_in_the_teacher": "the squared difference from infinity is infinite"}


def launches() -> Iterator[Callable[[], Any]]:
    return vectors.launches(operator)
