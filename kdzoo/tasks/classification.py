"""Tasks on one sentence or a pair with one label a row: classes, or a number."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass


def _collate(pad: Callable[[list[dict[str, Any]]], Mapping[str, Any]], rows: list[dict[str, Any]]) -> dict[str, Any]:
    # The length served the sampler; no model takes it.
    return dict(pad([{key: value for key, value in row.items() if key != "length"} for row in rows]))
