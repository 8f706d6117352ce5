"""kill -9 at random moments of a small grid: nothing finished is lost or repeated, and the results are the same."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from command_line import SIZES, record_files, results

TESTS = Path(__file__).parent
GRID = ("compare", "--tasks", "sst2", "--methods", "none,kd,lrc", *SIZES)


def run(*arguments: object) -> int:
    """The grid in a process of its own, forked so that nothing need be imported again; its process id."""
    if pid := os.fork():
        return pid
    from kdzoo.cli.main import main

    os.setsid()
    quiet = os.open(os.devnull, os.O_WRONLY)
    for output in (1, 2):
        os.dup2(quiet, output)
    main([*map(str, GRID), *map(str, arguments)])
    os._exit(3)  # it cannot get here


def finished(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """The files of all records, by which one sees when one has been written again."""
    return {
        str(path): (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes()) for path in record_files(folder)
    }


def kill_often(folder: Path, kills: int, seed: int, *options: str) -> dict[str, Any]:
    """Start the grid again and again and kill it, until it has been killed so often and has ended by itself."""
    draw = random.Random(seed)
    start = time.monotonic()
    assert os.waitpid(run("--out", folder / "undisturbed", *options), 0)[1] == 0
    whole = time.monotonic() - start
    expected, found, moments = results(folder / "undisturbed"), [], []
    while len(moments) < kills or not found:
        current = folder / f"grid-{len(found)}"
        while True:
            before = finished(current)
            pid, wait = run("--out", current, *options), draw.uniform(0, whole)
            deadline = time.monotonic() + (wait if len(moments) < kills else 600)
            while (ended := os.waitpid(pid, os.WNOHANG))[0] == 0 and time.monotonic() < deadline:
                time.sleep(0.01)
            if ended[0] == 0:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                moments.append(round(wait, 2))
            after = finished(current)
            assert {path: after.get(path) for path in before} == before, "a finished record was lost or written again"
            if ended[0]:
                assert ended[1] == 0, f"exit status {ended[1]}"
                break
        assert results(current) == expected
        found.append(len(after))
    return {"moments": moments, "grids": len(found), "records": found}


def killed(folder: Path, kills: int, *options: str) -> dict[str, Any]:
    """`kill_often` in a process that imports everything once and computes nothing, as it has to where it forks."""
    seed = random.randrange(2**32)
    print("seed", seed)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    command = [sys.executable, __file__, str(folder), str(kills), str(seed), *options]
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=TESTS, check=False)
    assert ran.returncode == 0, ran.stderr
    said: dict[str, Any] = json.loads(ran.stdout.splitlines()[-1])
    print(said)
    return said


def test_killed_twice(tmp_path: Path) -> None:
    said = killed(tmp_path, 2)
    assert len(said["moments"]) == 2 and set(said["records"]) == {4}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_twenty_times(tmp_path: Path) -> None:
    said = killed(tmp_path, 20)
    assert len(said["moments"]) == 20 and said["grids"] > 1 and set(said["records"]) == {4}


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_killed_with_workers(tmp_path: Path) -> None:
    said = killed(tmp_path, 3, "--workers", "2")
    assert len(said["moments"]) == 3 and set(said["records"]) == {4}


if __name__ == "__main__":
    import evaluate
    import scipy.stats
    import sklearn.metrics

    import kdzoo.bench.grid.comparison
    import kdzoo.cli.main

    loaded = evaluate, scipy.stats, sklearn.metrics, kdzoo.bench.grid.comparison, kdzoo.cli.main
    folder, kills, seed, *options = sys.argv[1:]
    print(json.dumps(kill_often(Path(folder), int(kills), int(seed), *options)))
