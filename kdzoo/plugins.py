"""Loads our own methods and those of installed plug-ins: the one arrow that points up."""

from __future__ import annotations

import importlib
import importlib.metadata
import threading
from collections.abc import Iterator
from typing import Any

from kdzoo.errors import KdzooError

METHOD_GROUPS = ("kdzoo.losses", "kdzoo.recipes")  # entry points whose import registers something
TASK_GROUP = "kdzoo.tasks"  # entry points that are tasks, or functions that return one

LOADING = threading.RLock()  # two threads may ask for the first loss at the same time
_loaded = _begun = False


def load_methods() -> None:
    """Import our own losses and recipes and those of installed plug-ins, once.

    Raises:
        KdzooError: a plug-in cannot be imported; it is named.
    """
    global _loaded, _begun
    if _loaded:
        return
    with LOADING:
        if _loaded or _begun:  # begun by this thread, where what is imported asks for a loss itself
            return
        _begun = True
        try:
            importlib.import_module("kdzoo.baselines")
            for group in METHOD_GROUPS:
                for _ in entries(group):
                    pass
            _loaded = True
        finally:
            _begun = False


def entries(group: str) -> Iterator[Any]:
    """What the installed plug-ins of a group name, imported one after the other; see `named_entries`."""
    for _, found in named_entries(group):
        yield found


def named_entries(group: str) -> Iterator[tuple[str, Any]]:
    """The names of the installed plug-ins of a group, and what they name, imported one after the other.

    Raises:
        KdzooError: one cannot be imported; it is named.
    """
    for entry in importlib.metadata.entry_points(group=group):
        try:
            found = entry.load()
        except Exception as error:
            raise KdzooError(f"the plug-in {entry.name!r} ({entry.value}) could not be loaded: {error}") from error
        yield entry.name, found
