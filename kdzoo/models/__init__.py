"""Models: what a forward pass exposes, heads, shapes, layer maps, inputs, students and teachers."""

from __future__ import annotations

from typing import Any

__all__ = ["albert_parameters"]


def __getattr__(name: str) -> Any:
    if name == "albert_parameters":
        from kdzoo.models.albert import albert_parameters

        return albert_parameters
    raise AttributeError(f"module 'kdzoo.models' has no attribute {name!r}")
