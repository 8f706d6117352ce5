"""What the measurement beside other libraries refuses; with them installed it is run by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdzoo.bench.measure import peers
from kdzoo.errors import KdzooError


def test_libraries_that_are_missing_are_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "torchdistill" else object())
    with pytest.raises(KdzooError, match=r"^torchdistill must be installed .*: pip install 'kdzoo\[peers\]'$"):
        peers.main(tmp_path / "peers.json", "1x8,heads=2", "1x8,heads=2", 4, 2, 8, 1)
    assert not (tmp_path / "peers.json").exists()


def test_the_command_answers_under_its_documented_name() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kdzoo.bench.peers", "--rows", "0"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and "--rows" in done.stderr and "Traceback" not in done.stderr
