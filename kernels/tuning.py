"""Launch constants that a device was measured to prefer to ours, by architecture, kernel and class of shape.

``KDZOO_TUNING`` names the file of them that ``python -m kdzoo.bench.measure.gpu --tune`` writes; without it, ours are
taken.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any

from kdzoo.kernels import backend
from kdzoo.kernels.backend import KernelError

VARIABLE = "KDZOO_TUNING"
Constants = dict[str, int]

_tried: dict[str, tuple[Constants, list[str]]] = {}


@contextmanager
def trying(kernel: str, constants: Constants) -> Iterator[list[str]]:
    """Within it a kernel takes these constants; yields the classes of shapes that they were asked for."""
    _tried[kernel] = constants, []
    try:
        yield _tried[kernel][1]
    finally:
        del _tried[kernel]


def tuned(kernel: str, shape: str, ours: Constants) -> Constants:
    """The constants of a launch.

    Args:
        kernel: its name.
        shape: the class of shapes that it is of.
        ours: what is taken where nothing was measured.

    Raises:
        KernelError: for a file of constants that cannot be read, or that has others.
    """
    if kernel in _tried:
        found, seen = _tried[kernel]
        seen.append(shape)
    elif path := os.environ.get(VARIABLE):
        found = _read(path).get(backend.architecture(), {}).get(kernel, {}).get(shape, {})
    else:
        return ours
    if strange := set(found) - set(ours):
        raise KernelError(f"{kernel}: {', '.join(sorted(strange))} is no constant of it; they are {', '.join(ours)}")
    return {**ours, **found}


@cache
def _read(path: str) -> Mapping[str, Any]:
    try:
        with open(path, encoding="utf-8") as file:
            found = json.load(file)
    except (OSError, ValueError) as error:
        raise KernelError(f"{VARIABLE}={path} cannot be read: {error}") from None
    kernels = found.values() if isinstance(found, dict) else [None]
    shapes = [shape for each in kernels for shape in (each.values() if isinstance(each, dict) else [None])]
    sets = [one for each in shapes for one in (each.values() if isinstance(each, dict) else [None])]
    if not all(isinstance(one, dict) and all(type(number) is int for number in one.values()) for one in sets):
        raise KernelError(f"{VARIABLE}={path} is not of the form architecture: kernel: class of shapes: constants")
    return dict(found)
