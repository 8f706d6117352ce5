"""What the options of losses may be, and how far a training may be."""

from __future__ import annotations

import math
import numbers
from typing import Any

import torch

from kdzoo.errors import KdzooError, unknown
from kdzoo.kernels.backend import BACKENDS, why_not_positive


def check_positive(label: str, **options: Any) -> None:
    """Refuse options that are not positive, finite numbers."""
    for option, value in options.items():
        wrong = why_not_positive(value)
        if wrong is not None:
            raise KdzooError(f"{label}: {option} is {wrong}")


def check_not_negative(label: str, **options: Any) -> None:
    """Refuse options that are not finite numbers from 0 on."""
    for option, value in options.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Real) or not 0 <= float(value) < math.inf:
            raise KdzooError(f"{label}: {option} is {value!r}; it must be 0 or above, and finite")


def check_count(label: str, **options: Any) -> None:
    """Refuse options that are not whole numbers from 1 on."""
    for option, value in options.items():
        if type(value) is bool or not isinstance(value, numbers.Integral) or value < 1:
            raise KdzooError(f"{label}: {option} is {value!r}; it must be a whole number, at least 1")


def check_backend(label: str, backend: str) -> str:
    """A backend of the kernels, refused where it is not one."""
    if backend not in BACKENDS:
        raise unknown(f"backend of {label}", backend, BACKENDS)
    return backend


def check_progress(label: str, progress: float) -> None:
    """Refuse a progress outside 0 to 1; not while torch.compile looks on, which would make a graph for each value."""
    if not torch.compiler.is_compiling() and not 0 <= progress <= 1:
        raise KdzooError(f"{label}: progress is {progress}; it must be from 0 to 1")
