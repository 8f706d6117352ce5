"""What the measurement beside other libraries refuses; with them installed it is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdzoo.bench.measure import peers
from kdzoo.errors import KdzooError


def test_libraries_that_are_missing_are_named_before_any_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(peers, "find_spec", lambda name: None if name == "torchdistill" else object())
    with pytest.raises(KdzooError, match=r"^torchdistill must be installed .*: pip install 'kdzoo\[peers\]'$"):
        peers.main(tmp_path / "peers.json", "1x8,heads=2", "1x8,heads=2", 4, 2, 8, 1)
    assert not (tmp_path / "peers.json").exists()
