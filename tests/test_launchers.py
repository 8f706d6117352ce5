"""Where trainings run: processes that die, a Ray cluster that loses a worker, and requests that cannot work."""

from __future__ import annotations

import os
import pickle
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections import deque
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from multiprocessing import active_children
from pathlib import Path
from typing import Any

import pytest
from command_line import SIZES, STUDENT, TEACHER, Commands, records, results
from datasets import Dataset, DatasetDict
from scripted import Scripted

from kdzoo.bench.grid import launchers
from kdzoo.bench.grid.launchers import loopback, make_launcher, on_ray
from kdzoo.bench.grid.launchers.base import Failure, Job
from kdzoo.bench.grid.launchers.local import InProcess, Pool
from kdzoo.bench.grid.rows import Rows
from kdzoo.bench.progress import STEPS
from kdzoo.errors import DistillationFailure, KdzooError, KdzooWarning
from kdzoo.tasks.encoding import Encoder

JOBS: list[Job] = [("sst2", method, 0) for method in ("first", "second", "third", "fourth")]


class Noted:
    """Remembers what it was told."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.died: list[tuple[str, str]] = []
        self.steps: list[tuple[str, int, int]] = []

    def started(self, job: Job) -> None:
        self.begun.append(job[1])

    def advanced(self, job: Job, done: int, total: int, unit: str = STEPS) -> None:
        self.steps.append((job[1], done, total))

    def retried(self, job: Job, reason: str) -> None:
        self.died.append((job[1], reason))


def run(launcher: Any, work: Scripted, more: list[Job] | None = None) -> tuple[dict[str, Any], Noted, list[str]]:
    """Results by method, what the watcher was told, and the attempts; ``more`` jobs come after the first result."""
    noted, found, jobs = Noted(), {}, deque(JOBS)
    for job, result in launcher.run(work, jobs, noted):
        found[job[1]] = result
        if more:
            jobs.extend(more)
            more = None
    return found, noted, (work.folder / "attempts").read_text().split()


def test_one_after_the_other(tmp_path: Path) -> None:
    found, noted, attempts = run(InProcess(), Scripted(tmp_path, {}), [("sst2", "fifth", 0)])
    names = ["first", "second", "third", "fourth", "fifth"]
    assert [*found] == names == noted.begun == attempts and noted.steps == [(name, 1, 2) for name in names]
    assert {result["process"] for result in found.values()} == {os.getpid()}


def test_a_process_that_dies_costs_its_own_job_alone(tmp_path: Path) -> None:
    found, noted, attempts = run(Pool(2), Scripted(tmp_path, {"second": 1, "third": 9}), [("sst2", "fifth", 0)])
    assert sorted(attempts) == sorted(["first", "second", "second", "third", "third", "fourth", "fifth"])
    assert sorted(noted.died) == [("second", "killed by SIGKILL"), ("third", "killed by SIGKILL")]
    assert found.pop("third") == Failure("its process died 2 times: killed by SIGKILL")
    assert found.keys() == {"first", "second", "fourth", "fifth"}
    processes = {result["process"] for result in found.values()}
    assert os.getpid() not in processes and len(processes) <= 4
    assert not any(Path(f"/proc/{process}").exists() for process in processes), "no process is left over"


def test_a_full_disk_stops_all_processes(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space left on device"):
        run(Pool(2), Scripted(tmp_path, {}, full="second"))
    assert not active_children()


def test_a_full_disk_leaves_python_nothing_to_say(tmp_path: Path) -> None:
    code = f"""
        from collections import deque
        from pathlib import Path
        from types import SimpleNamespace
        from scripted import Locked
        from kdzoo.bench.grid.launchers.local import Pool
        if __name__ == "__main__":
            watch, jobs = SimpleNamespace(started=print, retried=print), deque([("a", "crd", 0), ("a", "kd", 0)])
            try:
                next(Pool(2).run(Locked(Path({str(tmp_path)!r}), "kd"), jobs, watch))
            except OSError as error:
                print(error.strerror)
    """
    (tmp_path / "run.py").write_text(textwrap.dedent(code))
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    command, began = [sys.executable, str(tmp_path / "run.py")], time.monotonic()
    ran = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True, check=False, timeout=50
    )
    assert ran.returncode == 0 and "No space left on device" in ran.stdout and not ran.stderr, ran
    assert time.monotonic() - began < 40


def test_leaving_early_stops_all_processes(tmp_path: Path) -> None:
    with closing(Pool(2).run(Scripted(tmp_path, {}), deque(JOBS), Noted())) as running:  # type: ignore[arg-type]
        next(running)
        assert active_children()
    assert not active_children()


# --- requests that cannot work ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--launcher", "rai"), ("unknown launcher 'rai'", "did you mean 'ray'?")),
        (("--ray-address", "auto"), ("--ray-address is for --launcher ray",)),
        (("--gpus-per-cell", "1"), ("--gpus-per-cell is for --launcher ray",)),
        (("--workers", "2", "--launcher", "ray"), ("--workers is for --launcher local",)),
        (("--launcher", "ray", "--ray-address", "here"), ("--ray-address is 'here'", "HOST:PORT")),
        (("--launcher", "ray", "--ray-address", "127.0.0.1:1"), ("no Ray cluster at 127.0.0.1:1", "refused")),
        (("--launcher", "ray", "--ray-address", "127.0.0.1:99999"), ("no Ray cluster at 127.0.0.1:99999",)),
    ],
)
def test_requests(options: tuple[str, ...], says: tuple[str, ...], commands: Commands, tmp_path: Path) -> None:
    if "--ray-address" in options and "ray" in options:
        pytest.importorskip("ray")
    commands.fails("compare", *SIZES, *options, "--out", tmp_path / "out", says=says)
    assert not (tmp_path / "out").exists()


def test_ray_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "find_spec", lambda name: None)
    with pytest.raises(KdzooError, match=r"needs Ray; install it with: pip install 'kdzoo\[ray\]'"):
        make_launcher("ray")


@pytest.mark.parametrize(("scheme", "hint"), [("", ()), ("ray://", ("; a cluster with tokens", "RAY_AUTH_MODE=token"))])
def test_an_address_where_something_else_answers(
    scheme: str, hint: tuple[str, ...], commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("ray")
    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    monkeypatch.setattr(on_ray, "JOIN_SECONDS", 4)
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"{scheme}127.0.0.1:{server.getsockname()[1]}"
        options = ("--launcher", "ray", "--ray-address", address, "--out", tmp_path)
        says = (f"no Ray cluster at {address}: it did not answer as one in 4 s", *hint)
        commands.fails("compare", "--tasks", "sst2", "--methods", "none", *SIZES, *options, says=says)
    assert records(tmp_path) == {}


# --- Ray --------------------------------------------------------------------------------------------------------------


def trainings() -> set[tuple[str, int]]:
    """What Ray's workers of this machine train at the moment, with their process ids."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            title = path.read_bytes().split(b"\0")[0].decode()
        except OSError:
            continue
        if title.startswith("ray::sst2 "):
            found.add((title.removeprefix("ray::"), int(path.parent.name)))
    return found


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_a_ray_worker_is_killed(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    rows = ("--train-rows", "2000", "--validation-rows", "100", "--epochs", "3", "--learning-rate", "0.01")
    grid = (
        "--tasks",
        "sst2",
        "--methods",
        "none,kd",
        "--seeds",
        "2",
        "--teacher",
        TEACHER,
        "--student",
        STUDENT,
        *rows,
    )
    kdzoo = [sys.executable, "-m", "kdzoo", "compare", *grid, "--tensorboard", "--out"]
    local = subprocess.run(
        [*kdzoo, "local"], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert local.returncode == 0, local.stderr

    # Its machines work elsewhere, so that they cannot reach the folder by the path it was given.
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    seen: set[tuple[str, int]] = set()
    victim = None
    try:
        cluster.add_node(num_cpus=1)
        ray = ("--launcher", "ray", "--ray-address", cluster.address)
        process = subprocess.Popen(
            [*kdzoo, "ray", *ray],
            cwd=tmp_path,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            while process.poll() is None:
                seen |= (now := trainings())
                if victim is None and (of_kd := sorted(one for one in now if " kd " in one[0])):
                    victim = of_kd[0]
                    os.kill(victim[1], signal.SIGKILL)
                time.sleep(0.02)
            out, err = process.communicate()
        finally:
            process.kill()
    finally:
        cluster.shutdown()
    assert process.returncode == 0, out + err
    names = [f"sst2 {method} {seed}" for method in ("none", "kd") for seed in (0, 1)] + ["sst2 teacher 0"]
    assert victim is not None
    assert sorted(title for title, _ in seen) == sorted([*names, victim[0]]), "its cell alone was trained again"
    assert results(tmp_path / "ray") == results(tmp_path / "local")
    one, other = records(tmp_path / "local"), records(tmp_path / "ray")
    assert {name: set(record) for name, record in one.items()} == {name: set(record) for name, record in other.items()}
    for name in names:
        assert len([*(tmp_path / "ray" / "logs" / name.replace(" ", "-")).glob("events*")]) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_ray_of_its_own_and_through_its_client(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "token"}
    kdzoo = [sys.executable, "-c", "from kdzoo.cli.main import main; main()"]
    grid = ["compare", "--tasks", "sst2", "--methods", "none,kd", "--seeds", "1", *SIZES]

    def run(name: str, *options: str) -> None:
        command = [*kdzoo, *grid, *options, "--out", name]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr

    run("local")
    run("own", "--launcher", "ray")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "ray_client_server_port": port})
    try:
        run("client", "--launcher", "ray", "--ray-address", f"ray://127.0.0.1:{port}")
    finally:
        cluster.shutdown()
    assert results(tmp_path / "own") == results(tmp_path / "client") == results(tmp_path / "local")


def test_a_few_rows_of_many_travel_alone() -> None:
    many = Dataset.from_dict({"sentence": ["word " * 20] * 20_000, "label": [0] * 20_000})
    rows = Rows(Encoder(None, None, 8))
    rows.loaded["sst2"] = DatasetDict({"train": many.shuffle(seed=0).select(range(200))})
    sent = pickle.dumps(rows)
    assert len(sent) < 100_000
    assert pickle.loads(sent).loaded["sst2"]["train"][:] == rows.loaded["sst2"]["train"][:]


def listening(process: int) -> dict[str, set[str]]:
    """The addresses at which a process and all that it started listen, by the program's name."""
    inodes: dict[str, str] = {}
    for family, name in ((socket.AF_INET, "tcp"), (socket.AF_INET6, "tcp6")):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":
                raw = bytes.fromhex(fields[1].partition(":")[0])
                words = [raw[at : at + 4][::-1] for at in range(0, len(raw), 4)]  # each in the machine's own order
                inodes[fields[9]] = socket.inet_ntop(family, b"".join(words))
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            parents.setdefault(int(path.read_text().rpartition(")")[2].split()[1]), []).append(int(path.parent.name))
    found: dict[str, set[str]] = {}
    waiting = [process]
    while waiting:
        one = waiting.pop()
        waiting += parents.get(one, [])
        with suppress(OSError):
            name = Path(f"/proc/{one}/comm").read_text().strip()
            for link in Path(f"/proc/{one}/fd").iterdir():
                with suppress(OSError):
                    if (inode := os.readlink(link)[8:-1]) in inodes:
                        found.setdefault(name, set()).add(inodes[inode])
    return found


def test_a_cluster_of_ones_own_is_of_this_machine_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("ray")
    from ray._private import ray_constants, services

    monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
    before, clusters = dict(os.environ), ray_constants.ENABLE_RAY_CLUSTER
    with loopback.this_machine_alone():
        assert services.get_node_ip_address() == "127.0.0.1"
        assert os.environ["RAY_AUTH_MODE"] == "token" and len(os.environ["RAY_AUTH_TOKEN"]) == 64
    assert os.environ == before and clusters == ray_constants.ENABLE_RAY_CLUSTER
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    with loopback.this_machine_alone():
        assert os.environ["RAY_AUTH_MODE"] == "disabled"


def test_a_ray_that_listens_elsewhere_is_told_of() -> None:
    on_ray._check_loopback([{"NodeManagerAddress": "127.0.0.1"}, {"NodeManagerAddress": "::1"}])
    with pytest.warns(KdzooWarning, match=r"this Ray listens at 10\.0\.0\.7, where other machines may call it"):
        on_ray._check_loopback([{"NodeManagerAddress": "10.0.0.7"}])


def test_a_head_that_is_gone_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ray = pytest.importorskip("ray")
    looks = [True, False, True, False, False, False]
    monkeypatch.setattr(on_ray, "LOOK_SECONDS", 0)
    monkeypatch.setattr(ray, "wait", lambda running, **options: ([], running))
    monkeypatch.setattr(on_ray, "_answers", lambda: looks.pop(0))
    with pytest.raises(DistillationFailure, match=r"head of the Ray cluster does not answer any more; .* goes on"):
        on_ray.Ray()._wait(["a task"])
    assert not looks


WATCHED = """
import os, sys, threading, time
from collections import deque
from pathlib import Path
from types import SimpleNamespace
sys.path.insert(0, sys.argv[1])
from ray import cloudpickle
from kdzoo.bench.grid.launchers.on_ray import Ray
from kdzoo.cli import main as cli
class Work:
    def attempt(self, job, progress=None):
        Path(job[0]).touch()
        time.sleep(5)
        return {"done": job[2]}
    def moved(self, folder): return self
    def path(self, part): return Path(part)
    def reads(self, job): return []
    def writes(self, job): return []
cloudpickle.register_pickle_by_value(sys.modules["__main__"])
watch = SimpleNamespace(started=lambda job: None)
jobs = deque((sys.argv[2], "kd", seed) for seed in range(int(sys.argv[3])))
def run(arguments):
    for job, result in Ray(cpus=1).run(Work(), jobs, watch):
        print("result", job[2], result, flush=True)
    return 0
cli._run = run
cli.main(["compare"])
"""


@contextmanager
def watched(folder: Path, jobs: int) -> Iterator[subprocess.Popen[str]]:
    """A process with a Ray of its own, from when its first job runs."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    begun, home = folder / "begun", folder / "home"
    home.mkdir()
    command = [sys.executable, "-c", WATCHED, str(Path(__file__).parent), str(begun), str(jobs)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, env=environment | {"HOME": str(home), "RAY_worker_niceness": "0"}, **pipes)
    try:
        while not begun.exists() and process.poll() is None:
            time.sleep(0.1)
        yield process
    finally:
        process.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_nobody_else_can_call_a_ray_of_its_own(tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with watched(tmp_path, 1) as process:
        found = listening(process.pid)
        out, err = process.communicate()
    assert process.returncode == 0 and "result 0" in out and not err, out + err
    assert {"gcs_server", "raylet"} <= found.keys() and any(name.startswith("ray::") for name in found), found
    assert set.union(*found.values()) <= {"127.0.0.1", "::1", "::ffff:127.0.0.1"}, found
    assert not (tmp_path / "home" / ".ray").exists(), "the token is the run's, and kept nowhere"


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("victim", ["raylet", "gcs_server"])
def test_a_ray_that_dies_fails_no_cell(victim: str, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    with watched(tmp_path, 40) as process:
        for path in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):
                name, _, fields = path.read_text().partition("(")[2].rpartition(")")
                if name == victim and int(fields.split()[1]) == process.pid:
                    os.kill(int(path.parent.name), signal.SIGKILL)
        out, err = process.communicate()
    assert process.returncode == 1 and "Failure(" not in out, out + err  # Ray has words of its own like it
    [said] = [line for line in err.splitlines() if line.startswith("kdzoo: ")]
    assert "the same command goes on" in said
