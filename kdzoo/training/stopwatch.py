"""Stopwatch: where the time of a training step goes."""

from __future__ import annotations

import time
from typing import Any

import torch

PARTS = ("teacher", "forward", "loss", "backward", "optimizer", "other")
KEPT = 1000  # CUDA events between two readings; more would only hold memory


class Stopwatch:
    """Adds up the time between laps under the name of the part that each lap ends.

    On CUDA a lap is an event in the stream, so that the parts are the device's time and nothing waits for it; elsewhere
    it is the processor's clock. Laps in code that ``torch.compile`` traces are left out.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._cuda = device.type == "cuda"
        self._seconds = dict.fromkeys(PARTS, 0.0)
        self._laps: list[tuple[str, Any]] = []
        self._last: Any = None

    def start(self) -> None:
        """Begin, or begin anew after a pause; what was between is counted nowhere."""
        self._last = self._now()

    def lap(self, part: str) -> None:
        """End a part: the time since the last lap was its."""
        if torch.compiler.is_compiling() or self._last is None:
            return
        now = self._now()
        if self._cuda:
            self._laps.append((part, (self._last, now)))
            if len(self._laps) >= KEPT:
                self._read()
        else:
            self._seconds[part] += now - self._last
        self._last = now

    @property
    def seconds(self) -> dict[str, float]:
        """The seconds of each part so far; on CUDA this waits for the device."""
        self._read()
        return dict(self._seconds)

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _read(self) -> None:
        if self._laps:
            torch.cuda.synchronize()
        for part, (start, end) in self._laps:
            self._seconds[part] += start.elapsed_time(end) / 1e3
        self._laps.clear()
