"""Every kernel goes through the battery: on the CPU, through Triton's interpreter, and on CUDA where there is one."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import battery
import pytest
import torch

from kdzoo.kernels.backend import has_triton, interpreting


@pytest.fixture(autouse=True)
def poison() -> Iterator[None]:
    """Memory that is handed out for results holds NaN, so that what a kernel leaves unwritten is seen."""
    print(f"to repeat these inputs: KDZOO_SEED={battery.SEED}")
    torch.set_num_threads(1)
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.empty(3).isnan().all()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    torch.use_deterministic_algorithms(before)


@pytest.mark.parametrize("check", battery.CHECKS)
@pytest.mark.parametrize("where", battery.places(), ids=lambda where: "-".join(where))
@pytest.mark.parametrize("name", battery.NAMES)
def test_kernel(name: str, where: tuple[str, str], check: str) -> None:
    backend, device = where
    if device == "cuda" and not torch.cuda.is_available():
        pytest.skip("there is no CUDA device")
    place = battery.Place(name, backend, device)
    if check in getattr(place.case, "SKIP", {}):
        pytest.skip(place.case.SKIP[check])
    battery.CHECKS[check](place)


@pytest.mark.slow  # make kernels runs it
@pytest.mark.skipif(interpreting() or not has_triton(), reason="this is the interpreter's process, or has no triton")
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", battery.NAMES)
def test_kernel_in_the_interpreter(name: str) -> None:
    """Triton reads TRITON_INTERPRET when it is imported, so the battery runs in a process of its own."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-k", f"test_kernel[{name}-"]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(Path(__file__).parents[2])]
    done = subprocess.run(command + options, env=battery.environment(), capture_output=True, text=True, timeout=850)
    assert done.returncode == 0, f"{done.stdout[-6000:]}\n{done.stderr[-2000:]}"
