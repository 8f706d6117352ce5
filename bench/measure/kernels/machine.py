"""What a record says of the machine and the code: commit, driver, clocks, and what makes its figures uncertain."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

import kdzoo

QUERY = {
    "driver": "driver_version",
    "sm_mhz": "clocks.sm",
    "sm_mhz_most": "clocks.max.sm",
    "memory_mhz": "clocks.mem",
    "celsius": "temperature.gpu",
    "watts": "power.draw",
}
SPREAD = 0.1  # of a median, between a fifth and four fifths of the calls
DRIFT = 0.05  # of the copy bandwidth, from the beginning to the end
APART = {"fp32": 1e-3, "bf16": 3e-2, "fp16": 1e-2}  # values of providers, relative
SHORT = 3  # times the least that can be told


def commit() -> str | None:
    """The commit of the checkout that runs, with ``+`` where something in it has been changed; None outside of one."""
    folder = Path(kdzoo.__file__).resolve().parent  # the layout of links leads to the checkout
    try:
        found = [
            subprocess.run(
                ["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=10, check=True
            ).stdout.strip()
            for command in (("rev-parse", "--show-toplevel", "HEAD"), ("status", "--porcelain", "--untracked-files=no"))
        ]
    except (OSError, subprocess.SubprocessError):
        return None
    top, head = found[0].splitlines()
    # A checkout of something else that this is installed within is not ours.
    return head + "+" * bool(found[1]) if Path(top).resolve() == folder.parent else None


def state(device: torch.device) -> dict[str, Any]:
    """Driver, clocks, temperature and power of a GPU as they are now; the load of a machine without one.

    What a machine does not tell is left out.
    """
    if device.type != "cuda":
        return {"load": round(os.getloadavg()[0], 2), "cpus": os.cpu_count()} if hasattr(os, "getloadavg") else {}
    found: dict[str, Any] = {"cuda": torch.version.cuda, "memory_bytes": torch.cuda.mem_get_info(device)[1]}
    try:
        told = subprocess.run(
            ["nvidia-smi", f"--query-gpu={','.join(QUERY.values())}", "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return found
    line = told.splitlines()[torch.cuda.current_device()] if len(told.splitlines()) > 1 else told
    for name, value in zip(QUERY, (part.strip() for part in line.split(",")), strict=False):
        try:
            found[name] = value if name == "driver" else float(value)
        except ValueError:  # "[N/A]"
            continue
    return found


def noise(setting: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    """What makes figures uncertain, a line each: spreads, drift, a busy machine, the host's time, other values."""
    said = []
    wide = [_of(result) for result in results if any(_spread(part) > SPREAD for part in _parts(result))]
    if wide:
        said.append(f"the times of {_some(wide)} spread over more than {SPREAD:.0%}")
    least = setting.get("least_seconds", 0.0)
    quick = [_of(r) for r in results if any(part["seconds"] < SHORT * least for part in _parts(r))]
    if quick:
        said.append(f"{_some(quick)} took about as long as launching anything, {1e6 * least:.1f} µs")
    hosted = [_of(r) for r in results if any(part.get("clock") == "events" for part in _parts(r))]
    if hosted:
        said.append(f"the times of {_some(hosted)} have the host's in them: no graph could be captured of it")
    first, last = setting.get("copy_bytes_per_second"), setting.get("copy_bytes_per_second_after")
    if first and last and abs(last / first - 1) > DRIFT:
        said.append(f"a copy ran at {first / 1e9:.3g} GB/s before and at {last / 1e9:.3g} after")
    load, cpus = (setting.get("machine", {}).get(key) for key in ("load", "cpus"))
    if load and cpus and load > cpus:
        said.append(f"the machine was busy: a load of {load} on {cpus} processors")
    return said + _differing(str(setting["dtype"]), results)


def _differing(dtype: str, results: Sequence[Mapping[str, Any]]) -> list[str]:
    """The providers whose value is another than ours, or than the first's at a shape."""
    said = []
    for shape in dict.fromkeys(result["shape"] for result in results):
        values = {r["provider"]: r["value"] for r in results if r["shape"] == shape and "value" in r}
        if not values:
            continue
        base = next((name for name in ("triton", "torch") if name in values), next(iter(values)))
        for name, value in values.items():
            # Not a number is far from any.
            if not abs(value - values[base]) <= APART[dtype] * abs(values[base]):
                said.append(f"at {shape} the value of {name} is {value:.6g}, and that of {base} {values[base]:.6g}")
    return said


def _parts(result: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [result[part] for part in ("forward", "backward", "both") if part in result]


def _spread(part: Mapping[str, Any]) -> float:
    return float((part["high"] - part["low"]) / part["seconds"])


def _of(result: Mapping[str, Any]) -> str:
    return f"{result['provider']} at {result['shape']}"


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
