"""A stand-in for a comparison's trainings; a module of its own, so that worker processes import little."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass
class Scripted:
    """Trains nothing: each attempt at a job leaves a line in a file, and may end its process or raise.

    Attributes:
        folder: where the file is.
        deaths: by method, how many attempts end in a SIGKILL.
        full: the method at which the disk is full.
    """

    folder: Path
    deaths: dict[str, int]
    full: str = ""

    def attempt(self, job: tuple[str, str, int], progress: Any = None) -> dict[str, Any]:
        with (self.folder / "attempts").open("a") as file:
            file.write(f"{job[1]}\n")
        attempts = (self.folder / "attempts").read_text().split().count(job[1])
        progress(1, 2)
        if attempts <= self.deaths.get(job[1], 0):
            os.kill(os.getpid(), signal.SIGKILL)
        if job[1] == self.full:
            raise OSError(28, "No space left on device")
        return {"method": job[1], "process": os.getpid()}


@dataclass
class Locked:
    """Trains nothing for a minute, with a lock that processes could share, as a progress bar's; or finds no room.

    Attributes:
        folder: where a job says that it has begun.
        full: the method at which the disk is full, once the other has begun.
    """

    folder: Path
    full: str

    def attempt(self, job: tuple[str, str, int], progress: Any = None) -> dict[str, Any]:
        lock = multiprocessing.RLock()
        if job[1] == self.full:
            while not (self.folder / "begun").exists():
                time.sleep(0.01)
            raise OSError(28, "No space left on device")
        (self.folder / "begun").touch()
        time.sleep(60)
        return {"lock": lock}
