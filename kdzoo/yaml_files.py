"""Reads recipes, settings and tasks from YAML, which may be anybody's: large, deep, or made to grow as it is read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from kdzoo.errors import KdzooError

MOST_VALUES = 10_000  # of a YAML file, with what its aliases stand for written out
MOST_CHARACTERS = 1_000_000
# What YAML's reader and Python's numbers raise for texts that are no recipe.
UNREADABLE = (yaml.YAMLError, ValueError, OverflowError, RecursionError, MemoryError)


class Loader(yaml.SafeLoader):
    """YAML 1.2's numbers: PyYAML takes 5e-5, without a point, for text. Aliases may not stand for ever more values."""

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _written_out(node, {})
        return node


Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), [*"-+.0123456789"]
)


def read_value(text: str) -> Any:
    """What a text of YAML stands for.

    Raises:
        Exception: one of `UNREADABLE`.
    """
    return yaml.load(text, Loader)


def read_yaml(path: Path, what: str = "recipe") -> Any:
    """What a YAML file stands for.

    Args:
        path: of the file.
        what: it describes, in words.

    Raises:
        KdzooError: it cannot be read, or is not YAML; the file is named.
    """
    try:
        if path.exists() and not path.is_file():
            raise KdzooError(f"{what} {path} is a folder, a pipe or the like; name a file")
        with path.open(encoding="utf-8") as file:
            text = file.read(MOST_CHARACTERS + 1)
        if len(text) > MOST_CHARACTERS:
            raise KdzooError(f"{what} {path} is longer than {MOST_CHARACTERS} characters")
        return read_value(text)
    except OSError as error:
        raise KdzooError(f"{what} {path}: {error.strerror or error}") from None
    except KdzooError:
        raise
    except UNREADABLE as error:
        said = " ".join(str(error).split()) or "it is nested too deep"
        raise KdzooError(f"{what} {path} is not YAML: {said}") from None


def _written_out(node: yaml.Node, sizes: dict[yaml.Node, int | None]) -> int:
    """How many values a node of YAML stands for, each alias written out."""
    if node not in sizes:
        sizes[node] = None
        parts = node.value if isinstance(node, yaml.CollectionNode) else ()
        inner = (part for pair in parts for part in (pair if isinstance(pair, tuple) else (pair,)))
        sizes[node] = 1 + sum(_written_out(part, sizes) for part in inner)
    size = sizes[node]
    if size is None or size > MOST_VALUES:
        raise yaml.YAMLError(f"its aliases stand for more than {MOST_VALUES} values, or for themselves")
    return size
