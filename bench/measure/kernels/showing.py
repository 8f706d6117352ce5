"""A profile as a table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from kdzoo.bench.columns import Columns, short
from kdzoo.bench.measure.kernels.record import Older

Result = dict[str, Any]

# Head, cell, and whether it stands in tables of results that do not have it, such as those of older records.
COLUMNS: list[tuple[str, Callable[[Result], str], str | None]] = [
    ("forward, ms", lambda result: _ms(result["forward"]["seconds"]), None),
    ("backward alone, ms", lambda result: _ms(result["backward"]["seconds"]), "backward"),
    ("forward + backward, ms", lambda result: _ms(result["both"]["seconds"]), None),
    ("20 to 80 %", lambda result: f"{_ms(result['both']['low'])} to {_ms(result['both']['high'])}", None),
    ("wall, ms", lambda result: _ms(result["both"]["wall_seconds"]), "wall_seconds"),
    ("GB/s", lambda result: short(result["both"]["bytes_per_second"] / 1e9), None),
    ("GFLOP/s", lambda result: short(result["both"]["flops_per_second"] / 1e9), None),
    ("of the floor", lambda result: f"{result['both']['of_floor']:.2f}", None),
    ("peak, MB", lambda result: short(result["peak_bytes"] / 1e6), None),
]


def profile_columns(setting: dict[str, Any], results: Sequence[Result], older: Older | None = None) -> Columns:
    """The table of what `measure` gave: the setting and the results; beside an older record's, where it is given."""
    shown = [
        (head, cell)
        for head, cell, key in COLUMNS
        if key is None or any(key in result or key in result.get("both", {}) for result in results)
    ]
    body = []
    for result in results:
        cells = [result["shape"], result["provider"]]
        if "failed" in result:
            cells += [result["failed"], *[""] * (len(shown) - 1)]
        else:
            cells += [cell(result) for _, cell in shown]
        body.append(cells + ([older.against(result)] if older else []))
    head = ["shape", "provider", *(head for head, _ in shown), *(["older / newer"] if older else [])]
    return Columns(head, body, title(setting), names=2)


def warnings(setting: dict[str, Any], older: Older | None = None) -> list[str]:
    """What makes the figures uncertain, and what an older record cannot be compared for."""
    said = [f"warning: {line}" for line in setting.get("warnings", [])]
    if older is not None and older.device != setting["device"]:
        said.append(f"warning: {older.path} was measured on {older.device}, and this on {setting['device']}")
    return said


def title(setting: dict[str, Any]) -> str:
    """What stands above a table or a plot."""
    return (
        f"{setting['kernel']}, {setting['dtype']}, on {setting['device']};\ncopy "
        f"{setting['copy_bytes_per_second'] / 1e9:.3g} GB/s, matmul {setting['matmul_flops_per_second'] / 1e9:.3g} "
        f"GFLOP/s; GB/s, GFLOP/s and the floor's share are of forward and backward"
    )


def _ms(seconds: float) -> str:
    return short(1e3 * seconds)
