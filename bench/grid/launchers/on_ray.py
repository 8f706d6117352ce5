"""Trainings as tasks on a Ray cluster."""

from __future__ import annotations

import atexit
import logging
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import uuid
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any

import torch

import kdzoo
from kdzoo import hashing
from kdzoo.bench.grid.launchers.base import Failure, Files, Job, Launcher, Result, Watch, Work
from kdzoo.bench.grid.launchers.loopback import is_loopback, this_machine_alone
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning

RAY_RETRIES = 3  # machines that may be taken away are taken away more often
CONNECT_SECONDS = 10  # to find a port at the cluster's address
JOIN_SECONDS = 90  # to join a cluster, and for its machines to do something short
ANSWER_SECONDS = 300  # for its machines to answer: a worker of Ray's imports torch first, at a low priority
LOOK_SECONDS = 5  # between two looks at whether the cluster's head is there
SILENT = 3  # looks in a row that find nobody, after which it has gone
GOES_ON = "no cell is lost but those under way, and the same command goes on with another"


class _Lost(DistillationFailure):
    """This process has lost the cluster: whatever fails from now on is no fault of a cell."""

    def __init__(self, why: str) -> None:
        super().__init__(f"{why}; {GOES_ON}")


# --- Ray --------------------------------------------------------------------------------------------------------------


class Ray(Launcher):
    """Each job as a task of a Ray cluster, begun again on another worker where its own dies.

    The machines share no folder with this one: the rows, the tokenizer and the recipes go to them with the first job,
    a task's trained teacher once for all its jobs, and what a job leaves comes back with its record.

    Args:
        address: of a cluster; None starts one on this machine, for the time of the run, that listens on loopback.
        cpus: what is set aside for each job, and its number of threads.
        gpus: likewise; by default one where the cluster has any.

    Raises:
        KdzooError: when nobody listens at the address.
    """

    doing = "with Ray"

    def __init__(self, address: str | None = None, cpus: float = 1, gpus: float | None = None) -> None:
        self.address, self.cpus, self.gpus = address, cpus, gpus
        self._looked, self._silent = 0.0, 0  # when, and how often in a row without an answer
        if address is not None and address != "auto":
            _check_port(address)

    def run(self, work: Work, jobs: deque[Job], watch: Watch) -> Generator[tuple[Job, Result]]:
        alone = this_machine_alone() if self.address is None else nullcontext()
        with alone, self._joined() as needed:
            import ray
            from ray.exceptions import LocalRayletDiedError, RayError

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
                    ended = self._wait([*running])
                    job, left = running.pop(ended), {}
                    try:
                        result, left = ray.get(ended)
                    except LocalRayletDiedError:
                        raise _Lost("Ray's node of this process has died") from None
                    except RayError as error:
                        why = str(error).strip().splitlines()[0]
                        result = Failure(f"Ray gave it up after {RAY_RETRIES} retries: {why}", str(error))
                    for part, files in left.items():
                        work.receive(part, files)
                    yield job, result
            except ConnectionError as error:  # of Ray's client
                raise _Lost(" ".join(str(error).split())) from None
            finally:
                if not isinstance(sys.exc_info()[1], _Lost) and _answers():
                    for reference in running:
                        ray.cancel(reference, force=True)
                    with suppress(Exception):
                        _everywhere(_clean, run)

    def _wait(self, running: list[Any]) -> Any:
        """The first of some tasks that ends.

        Raises:
            _Lost: when the cluster's head does not answer any more, in which case Ray ends this process a minute later.
        """
        import ray

        while True:
            ended, _ = ray.wait(running, num_returns=1, timeout=LOOK_SECONDS)
            if time.monotonic() - self._looked >= LOOK_SECONDS:
                self._silent = 0 if _answers() else self._silent + 1
                self._looked = time.monotonic()
                if self._silent >= SILENT:
                    raise _Lost("the head of the Ray cluster does not answer any more")
            if ended:
                return ended[0]

    @contextmanager
    def _joined(self) -> Iterator[dict[str, float]]:
        """Join the cluster; what each job asks of it."""
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        import ray

        if self.address is not None:
            _check_cluster(self.address)
        logging.getLogger("ray").setLevel(logging.ERROR)
        try:
            own: dict[str, Any] = {"include_dashboard": False} if self.address is None else {}
            ray.init(self.address or "local", log_to_driver=False, configure_logging=False, **own)
        except Exception as error:
            raise KdzooError(f"Ray does not start: {' '.join(str(error).split())}") from None
        try:
            if self.address is None:
                _check_loopback(ray.nodes())
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
            if not isinstance(sys.exc_info()[1], _Lost) and _answers():
                ray.shutdown()
            else:
                # Ray would wait a minute for what has gone and end this process somehow; its reaper ends what is left.
                atexit.unregister(ray.shutdown)
                atexit.register(_leave)

    def _check_versions(self) -> None:
        import ray

        try:
            versions = set(_everywhere(_version, seconds=ANSWER_SECONDS))
        except ray.exceptions.GetTimeoutError:
            raise KdzooError(
                f"the machines of the Ray cluster did not answer in {ANSWER_SECONDS} s; Ray's workers give way to all "
                "else that runs there, so see whether they are busy"
            ) from None
        except Exception as error:
            said = str(error).strip().splitlines()[-1:]
            raise KdzooError(f"the machines of the Ray cluster cannot run kdzoo: {' '.join(said)}") from None
        if versions != {_version()}:
            raise KdzooError(
                f"the machines of the Ray cluster have kdzoo {', '.join(sorted(versions))}, and this one has "
                f"{_version()}; install the same everywhere"
            )


def _check_loopback(machines: list[dict[str, Any]]) -> None:
    """Say it where this Ray does not keep to loopback after all."""
    listens = [machine["NodeManagerAddress"] for machine in machines if not is_loopback(machine["NodeManagerAddress"])]
    if listens:
        warnings.warn(
            f"this Ray listens at {listens[0]}, where other machines may call it; its token keeps them out if it has "
            "one, and a newer Ray listens on loopback alone",
            KdzooWarning,
            stacklevel=2,
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


def _leave() -> None:
    """End this process now."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(1)


def _answers() -> bool:
    """Whether somebody listens where the cluster's head does; True where that is not known, as through Ray's client."""
    import ray

    try:
        host, _, port = ray.get_runtime_context().gcs_address.rpartition(":")
    except Exception:
        return True
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, ValueError):
        return False
    return True


def _everywhere(function: Callable[..., Any], *arguments: Any, seconds: float = JOIN_SECONDS) -> list[Any]:
    """What a function gives on each machine of the cluster, if all answer in so many seconds."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    remote = ray.remote(function)
    strategies = [
        NodeAffinitySchedulingStrategy(machine["NodeID"], soft=False)
        for machine in ray.nodes()
        if machine["Alive"] and machine["Resources"].get("CPU")
    ]
    given = [remote.options(num_cpus=0, scheduling_strategy=s).remote(*arguments) for s in strategies]
    found: list[Any] = ray.get(given, timeout=seconds)
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

    torch.set_num_threads(threads)
    folder = _scratch(run)
    try:
        if run not in _here:
            _here[run] = ray.get(there[0]).moved(folder)
        work = _here[run]
        with hashing.locked(folder):  # a machine's workers share what they are sent
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
