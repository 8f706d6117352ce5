"""Trainings in this process, or several at a time in worker processes."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Generator
from functools import partial
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from kdzoo.bench.grid.launchers.base import Failure, Job, Launcher, Result, Watch, Work
from kdzoo.bench.progress import STEPS

TRIES = 2  # of a training whose process dies
STOPPING = 5  # seconds that a process is given to end
TOLD_EVERY = 0.5  # seconds between two reports of a worker's steps


class InProcess(Launcher):
    """One job after the other, in this process."""

    side_by_side = False

    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        while jobs:
            job = jobs.popleft()
            watch.started(job)
            yield job, work.attempt(job, partial(watch.advanced, job))


# --- worker processes -------------------------------------------------------------------------------------------------


class Pool(Launcher):
    """Several jobs at the same time, each in a process of its own on its share of the processor's threads.

    A process that dies takes its one job with it, which another process begins again, once.

    Args:
        workers: how many.
    """

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        tries: Counter[Job] = Counter()
        threads = max(1, torch.get_num_threads() // self.workers)
        idle: list[_Worker] = []
        busy: dict[Connection, _Worker] = {}
        try:
            while jobs or busy:
                while jobs and len(busy) < self.workers:
                    worker = idle.pop() if idle else _Worker(work, threads)
                    worker.start(jobs.popleft())
                    busy[worker.connection] = worker
                    tries[worker.job] += 1
                    watch.started(worker.job)
                for connection in wait([*busy]):
                    worker = busy[connection]  # type: ignore[index]
                    kind, said = worker.hear()
                    if kind == "steps":
                        watch.advanced(worker.job, *said)
                        continue
                    del busy[worker.connection]
                    if kind == "error":
                        worker.stop()
                        raise said
                    if kind == "result":
                        idle.append(worker)
                        yield worker.job, said
                    elif tries[worker.job] < TRIES:
                        watch.retried(worker.job, said)
                        jobs.appendleft(worker.job)
                    else:
                        yield worker.job, Failure(f"its process died {TRIES} times: {said}")
        finally:
            for worker in idle:
                worker.end()
            for worker in busy.values():
                worker.stop()


class _Worker:
    """A process that trains what it is told to."""

    job: Job

    def __init__(self, work: Work, threads: int) -> None:
        context = get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_serve, args=(other, work, threads))
        self._process.start()
        other.close()

    def start(self, job: Job) -> None:
        self.job = job
        try:
            self.connection.send(job)
        except OSError:
            return  # it has died, which hear() says

    def hear(self) -> tuple[str, Any]:
        """``"steps"`` done and to do, the ``"result"``, an ``"error"`` to stop at, or how the process ``"died"``."""
        try:
            said: tuple[str, Any] = self.connection.recv()
            return said
        except (EOFError, OSError):
            self._process.join(5)
            self.stop()
            code = self._process.exitcode or 0
            return "died", f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def end(self) -> None:
        """Let a process that waits for work end by itself, which leaves nothing of it behind."""
        self.connection.close()
        self._process.join(5)
        self.stop()

    def stop(self) -> None:
        self._process.terminate()
        self._process.join(STOPPING)
        self._process.kill()
        self._process.join()
        self.connection.close()


def _leave(*_: Any) -> None:
    """End as a program ends by itself, so that no semaphore is left for Python to complain of."""
    raise SystemExit(1)


def _serve(connection: Connection, work: Work, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    signal.signal(signal.SIGTERM, _leave)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    told = 0.0

    def tell(done: int, total: int, unit: str = STEPS) -> None:
        nonlocal told
        if time.monotonic() - told > TOLD_EVERY:
            told = time.monotonic()
            connection.send(("steps", (done, total, unit)))

    while True:
        try:
            job = connection.recv()
        except EOFError:
            return
        try:
            connection.send(("result", work.attempt(job, tell)))
        except Exception as error:
            connection.send(("error", error))


def _die_with_parent() -> None:
    parent = parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)  # whatever it writes now, another run may be writing too
