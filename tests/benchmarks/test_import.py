"""``import kdzoo`` beside ``import torch``, each in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest


@pytest.mark.benchmark(group="import")
@pytest.mark.parametrize("module", ["torch", "kdzoo"])
def test_import(benchmark: Any, module: str) -> None:
    command = [sys.executable, "-c", f"import {module}"]
    done = benchmark.pedantic(subprocess.run, args=(command,), rounds=5, warmup_rounds=1)
    assert done.returncode == 0
