"""The record of a kernel's profile: written whole after each result, and compared with an older one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import count
from pathlib import Path
from typing import Any

from kdzoo.bench.files import read_json, write_atomically
from kdzoo.errors import KdzooError

Pairs = set[tuple[str, str]]


def record_path(folder: Path, setting: dict[str, Any], device: str) -> Path:
    """The file in place of that of the same shapes and providers; others are kept.

    Args:
        folder: where records are.
        setting: what `measure` gave first.
        device: ``"cpu"`` or ``"cuda"``, for the file's name.
    """
    stem = f"{setting['kernel']}-{device}-{setting['dtype']}"
    names = (folder / f"{stem}{f'-{number}' if number > 1 else ''}.json" for number in count(1))
    wanted = {(shape, provider) for shape, provider in setting["asked"]}
    return next(path for path in names if not path.exists() or _asked_in(path) == wanted)


def write_record(path: Path, setting: dict[str, Any], results: Sequence[dict[str, Any]]) -> None:
    """Write what has been measured so far, in the order it was asked for.

    Raises:
        DistillationFailure: when it cannot be written.
    """
    order = {(shape, provider): place for place, (shape, provider) in enumerate(setting["asked"])}
    ordered = sorted(results, key=lambda result: order[result["shape"], result["provider"]])
    write_atomically(path, json.dumps({**setting, "results": ordered}, indent=1) + "\n")


def _asked_in(record: Path) -> Pairs | None:
    """The shapes and providers of a record; None of what is not one, which is kept too."""
    try:
        found = read_json(record)
        if "asked" in found:
            return {(shape, provider) for shape, provider in found["asked"]}
        return {(result["shape"], result["provider"]) for result in found["results"]}
    except (KdzooError, KeyError, TypeError, ValueError):
        return None


class Older:
    """An older record, to compare with.

    Attributes:
        path: its file.
        device: what it was measured on.
    """

    def __init__(self, path: Path, kernel: str, dtype: str) -> None:
        """Read it.

        Raises:
            KdzooError: when it is not a record of this kernel and type.
        """
        record = read_json(path)
        try:
            found = {(r["shape"], r["provider"]): r["both"] for r in record["results"] if "both" in r}
            self._times = {
                key: (float(part["seconds"]), float(part["low"]), float(part["high"])) for key, part in found.items()
            }
            kind = record["kernel"], record["dtype"]
            self.device = str(record["device"])
        except (KeyError, TypeError, ValueError) as error:
            raise KdzooError(f"{path} is no record of a kernel's profile ({error!r})") from None
        if kind != (kernel, dtype):
            raise KdzooError(f"{path} is of {' in '.join(map(str, kind))}; compare with one of {kernel} in {dtype}")
        self.path = path

    def against(self, result: dict[str, Any]) -> str:
        """The older time over the newer, forward and backward: above 1, faster now; ``~`` within both spreads."""
        older = self._times.get((result["shape"], result["provider"]))
        if older is None or "both" not in result:
            return ""
        newer = result["both"]
        seconds, low, high = older
        level = low <= newer["high"] and newer["low"] <= high
        return f"{'~' if level else ''}{seconds / newer['seconds']:.2f}"
