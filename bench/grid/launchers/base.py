"""Where the trainings of a comparison run: in this process, in worker processes, or as tasks on a Ray cluster."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from importlib.util import find_spec
from multiprocessing import get_context, parent_process
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch

import kdzoo
from kdzoo.distributed import launched
from kdzoo.errors import KdzooError, unknown

LAUNCHERS = ("local", "ray")
TRIES = 2  # of a training whose process dies
RAY_RETRIES = 3  # machines that may be taken away are taken away more often
TOLD_EVERY = 0.5  # seconds between two reports of a worker's steps
CONNECT_SECONDS = 10  # to find a port at the cluster's address
JOIN_SECONDS = 90  # to join a cluster, and for its machines to answer

Job = tuple[str, str, int]  # task, method and seed
STEPS, ROWS = "steps", "teacher rows"  # what a training is counted in: first, where a cache is filled, the latter
Files = dict[str, bytes]


class Progress(Protocol):
    """Is told how much is done, and of how much."""

    def __call__(self, done: int, total: int, unit: str = STEPS) -> None: ...


class Failure(NamedTuple):
    """Why a training failed, in one line, with the traceback where there is one."""

    error: str
    traceback: str = ""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that an exception is, which must be the one being handled."""
        kind = "" if isinstance(error, KdzooError) else f"{type(error).__name__}: "
        return cls(" ".join(f"{kind}{error}".split()), traceback.format_exc())


Result = dict[str, Any] | Failure


class Work(Protocol):
    """What is launched: something that can be pickled, and trains the jobs it is given."""

    def attempt(self, job: Job, progress: Progress | None = None) -> Result:
        """Train, and give the record, or why there is none. A full disk is raised instead."""

    def moved(self, folder: Path) -> Work:
        """The same in another folder."""

    def path(self, part: str) -> Path:
        """Where a part of its folder is."""

    def reads(self, job: Job) -> list[str]:
        """The parts of the folder that a job needs to be there."""

    def writes(self, job: Job) -> list[str]:
        """The parts of the folder that it may leave, its record not among them."""

    def receive(self, part: str, files: Files) -> None:
        """Put such a part in its place, whole or not at all."""


class Watch(Protocol):
    """Who is told how the jobs get on."""

    def started(self, job: Job) -> None:
        """It has begun."""

    def advanced(self, job: Job, done: int, total: int, unit: str = STEPS) -> None:
        """So many of its steps, or of the teacher's rows before them, are done."""

    def retried(self, job: Job, reason: str) -> None:
        """Its process died, and it begins again."""


class Launcher(ABC):
    """A place where jobs run.

    Attributes:
        side_by_side: whether it runs several at the same time.
        doing: what a training that was started is, in words.
    """

    side_by_side = True
    doing = "running"

    @abstractmethod
    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        """Run jobs from the left of the queue until it is empty; give each with its result as it ends.

        Whoever takes a result may put more jobs into the queue before asking for the next one. Leaving the iterator
        early stops what is under way.
        """


def make_launcher(
    name: str = "local",
    *,
    workers: int | None = None,
    address: str | None = None,
    cpus: float | None = None,
    gpus: float | None = None,
) -> Launcher:
    """A launcher by its name.

    Args:
        name: ``"local"`` or ``"ray"``.
        workers: processes of the local one.
        address: of a Ray cluster that is there already; None starts one on this machine.
        cpus, gpus: what Ray sets aside for each training.

    Raises:
        KdzooError: for an unknown name, options of another launcher, or Ray missing.
    """
    if name not in LAUNCHERS:
        raise unknown("launcher", name, LAUNCHERS)
    if launched()[1] > 1:
        raise KdzooError(
            "kdzoo compare is one process, and starts the others with --workers or --launcher ray; torchrun and "
            "accelerate launch are for kdzoo distill and kdzoo finetune"
        )
    given = {"--ray-address": address, "--cpus-per-cell": cpus, "--gpus-per-cell": gpus}
    if name == "local":
        for option, value in given.items():
            if value is not None:
                raise KdzooError(f"{option} is for --launcher ray, and the launcher is local; leave it out")
        return InProcess() if workers in (None, 1) else Pool(workers or 1)
    if workers is not None:
        raise KdzooError("--workers is for --launcher local; Ray runs as many cells as --cpus-per-cell leaves room for")
    if find_spec("ray") is None:
        raise KdzooError("--launcher ray needs Ray; install it with: pip install 'kdzoo[ray]'")
    return Ray(address, 1.0 if cpus is None else cpus, gpus)


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
        self._process.join()
        self.connection.close()


def _serve(connection: Connection, work: Work, threads: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
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


# --- Ray --------------------------------------------------------------------------------------------------------------


class Ray(Launcher):
    """Each job as a task of a Ray cluster, begun again on another worker where its own dies.

    The machines share no folder with this one: the rows, the tokenizer and the recipes go to them with the first job,
    a task's trained teacher once for all its jobs, and what a job leaves comes back with its record.

    Args:
        address: of a cluster; None starts one on this machine, for the time of the run.
        cpus: what is set aside for each job, and its number of threads.
        gpus: likewise; by default one where the cluster has any.

    Raises:
        KdzooError: when nobody listens at the address.
    """

    doing = "with Ray"

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float | None = None) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus
        if address is not None and address != "auto":
            _check_port(address)

    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        import ray
        from ray.exceptions import RayError

        with self._joined() as needed:
            run, there = uuid.uuid4().hex, ray.put(work)
            parts: dict[str, Any] = {}  # of the folder, as they lie in the object store
            running: dict[Any, Job] = {}
            # A worker is kept for the next job, with what it has been sent.
            options: dict[str, Any] = {**needed, "max_retries": RAY_RETRIES, "max_calls": 0}
            task = ray.remote(**options)(_work)
            try:
                while jobs or running:
                    while jobs:
                        job = jobs.popleft()
                        for part in work.reads(job):
                            if part not in parts:
                                parts[part] = ray.put(_pack(work.path(part)))
                        sent = {part: parts[part] for part in work.reads(job)}
                        named = task.options(name=" ".join(map(str, job)))
                        running[named.remote(run, [there], sent, job, max(1, int(self.cpus)))] = job
                        watch.started(job)
                    [ended], _ = ray.wait([*running], num_returns=1)
                    job, left = running.pop(ended), {}
                    try:
                        result, left = ray.get(ended)
                    except RayError as error:
                        why = str(error).strip().splitlines()[0]
                        result = Failure(f"Ray gave it up after {RAY_RETRIES} retries: {why}", str(error))
                    for part, files in left.items():
                        work.receive(part, files)
                    yield job, result
            finally:
                for reference in running:
                    ray.cancel(reference, force=True)
                with suppress(Exception):
                    _everywhere(_clean, run)

    @contextmanager
    def _joined(self) -> Iterator[dict[str, float]]:
        """Join the cluster; what each job asks of it."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if self.address is not None:
            _check_cluster(self.address)
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            ray.init(self.address or "local", log_to_driver=False, configure_logging=False, include_dashboard=None)
        except Exception as error:
            raise KdzooError(f"Ray does not start: {' '.join(str(error).split())}") from None
        try:
            machines = [machine["Resources"] for machine in ray.nodes() if machine["Alive"]]
            gpus = self.gpus
            if gpus is None:
                gpus = 1.0 if any(machine.get("GPU") for machine in machines) else 0.0
            if not any(self.cpus <= machine.get("CPU", 0) and gpus <= machine.get("GPU", 0) for machine in machines):
                have = "; ".join(f"{m.get('CPU', 0):g} CPUs and {m.get('GPU', 0):g} GPUs" for m in machines)
                raise KdzooError(
                    f"a cell asks for {self.cpus:g} CPUs and {gpus:g} GPUs, and no machine of the Ray cluster has them "
                    f"(they have {have}); give less as --cpus-per-cell and --gpus-per-cell"
                )
            self._check_versions()
            yield {"num_cpus": self.cpus, "num_gpus": gpus}
        finally:
            ray.shutdown()

    def _check_versions(self) -> None:
        try:
            versions = set(_everywhere(_version))
        except Exception as error:
            said = str(error).strip().splitlines()[-1:]
            raise KdzooError(f"the machines of the Ray cluster cannot run kdzoo: {' '.join(said)}") from None
        if versions != {_version()}:
            raise KdzooError(
                f"the machines of the Ray cluster have kdzoo {', '.join(sorted(versions))}, and this one has "
                f"{_version()}; install the same everywhere"
            )


def _check_port(address: str) -> None:
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        raise KdzooError(f"--ray-address is {address!r}; give HOST:PORT, ray://HOST:PORT, or auto")
    try:
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise KdzooError(f"no Ray cluster at {address}: {error}; `ray start --head` starts one") from None


def _check_cluster(address: str) -> None:
    """Ray itself waits for minutes where there is something else at an address, and cannot be interrupted."""
    join = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False)"
    command = [sys.executable, "-c", join, address]
    hint = ""
    if address.startswith("ray://") and "RAY_AUTH_MODE" not in os.environ:
        # Ray's client reads the token by itself only when told so, and without it waits in vain.
        hint = "; a cluster with tokens, as Ray starts them by default, wants RAY_AUTH_MODE=token set here"
    try:
        tried = subprocess.run(command, timeout=JOIN_SECONDS, capture_output=True, text=True, check=False)
    except subprocess.TimeoutExpired:
        raise KdzooError(f"no Ray cluster at {address}: it did not answer as one in {JOIN_SECONDS} s{hint}") from None
    if tried.returncode:
        said = tried.stderr.strip().splitlines()[-1:]
        raise KdzooError(f"no Ray cluster at {address}: {' '.join(said)}{hint}")


def _everywhere(function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function gives on each machine of the cluster."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(function)
    strategies = [
        NodeAffinitySchedulingStrategy(machine["NodeID"], soft=False)
        for machine in ray.nodes()
        if machine["Alive"] and machine["Resources"].get("CPU")
    ]
    given = [remote.options(num_cpus=0, scheduling_strategy=s).remote(*arguments) for s in strategies]
    found: list[Any] = ray.get(given, timeout=JOIN_SECONDS)
    return found


def _version() -> str:
    return kdzoo.__version__


def _scratch(run: str) -> Path:
    """A machine's own folder for a run."""
    return Path(tempfile.gettempdir()) / f"kdzoo-{run}"


def _clean(run: str) -> None:
    shutil.rmtree(_scratch(run), ignore_errors=True)


_here: dict[str, Work] = {}  # a Ray worker's own, by run


def _work(run: str, there: list[Any], parts: dict[str, Any], job: Job, threads: int) -> tuple[Result, dict[str, Files]]:
    import ray
    from filelock import FileLock

    torch.set_num_threads(threads)
    folder = _scratch(run)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if run not in _here:
            _here[run] = ray.get(there[0]).moved(folder)
        work = _here[run]
        with FileLock(folder / ".lock"):  # a machine's workers share what they are sent
            for part, files in parts.items():
                if not work.path(part).exists():
                    work.receive(part, ray.get(files))
        result = work.attempt(job)
        made = {part: _pack(work.path(part)) for part in work.writes(job) if work.path(part).exists()}
    except Exception as error:
        return Failure.of(error), {}
    return result, made


def _pack(folder: Path) -> Files:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
