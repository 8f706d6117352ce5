"""A comparison packed into one file: nothing is lost, the tables are the same, and what is damaged is named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from command_line import Commands

from kdzoo import KdzooError
from kdzoo.bench.packed import is_packed, pack, read_study, unpack
from kdzoo.bench.report.table import csv_table, latex_table, markdown_table, read_records

RESULTS = Path(__file__).parents[1] / "docs" / "results"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A comparison of a teacher and two methods, of which one failed once; a model and a log lie beside the records."""
    found = tmp_path / "runs"
    for method, seed, score in (("teacher", 0, 90.123456789), ("none", 0, 70.1), ("kd", 0, 80.1), ("kd", 1, 1e-17)):
        kept = {"task": "rte", "method": method, "seed": seed, "score": score, "samples_per_second": 3.0,
                "parameters": 7, "predictions": {"validation": [1.0, 0.25, 0.0]}, "more": {"é": [None]}}  # fmt: skip
        if method == "teacher":
            kept["references"] = {"validation": [1.0, 0.0, 0.0]}
        path = found / "cells" / f"rte-{method}-{seed}.json"
        path = found / "teachers" / "rte" / "record.json" if method == "teacher" else path
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(kept, indent=1, sort_keys=True) + "\n")
    (found / "failed").mkdir()
    failure = {"task": "rte", "method": "none", "seed": 1, "error": "gone"}
    (found / "failed" / "rte-none-1.json").write_text(json.dumps(failure, indent=1, sort_keys=True) + "\n")
    config = {"format": 1, "order": {"tasks": ["rte"], "methods": ["none", "kd"]}, "shared": {"seeds": 2}}
    (found / "config.json").write_text(json.dumps(config, indent=1, sort_keys=True) + "\n")
    (found / "teachers" / "rte" / "model.safetensors").write_bytes(b"weights")
    return found


def test_nothing_is_lost(folder: Path, tmp_path: Path) -> None:
    packed = tmp_path / "study.jsonl.gz"
    assert pack(folder, packed) == 4
    assert read_study(packed) == read_study(folder) and len(read_study(packed).failures) == 1
    assert unpack(packed, tmp_path / "again") == 4
    files = {path.relative_to(folder) for path in folder.rglob("*.json")}
    assert {path.relative_to(tmp_path / "again") for path in (tmp_path / "again").rglob("*") if path.is_file()} == files
    assert all((folder / name).read_bytes() == (tmp_path / "again" / name).read_bytes() for name in files)
    first = packed.read_bytes()
    pack(tmp_path / "again", packed)
    assert packed.read_bytes() == first, "the same records are the same bytes"
    assert pack(folder, packed) == 4, "and a file that is there is written anew"


def test_the_tables_are_the_folders(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "study.jsonl.gz")
    one, other = read_records(folder), read_records(tmp_path / "study.jsonl.gz")
    assert [(r["method"], r["seed"]) for r in other] == [("teacher", 0), ("none", 0), ("kd", 0), ("kd", 1)]
    for table in (markdown_table, latex_table, csv_table):
        assert table(one) == table(other)
    assert markdown_table(one, "none") == markdown_table(other, "none")


def test_what_cannot_be_packed_or_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "study.jsonl.gz"
    with pytest.raises(KdzooError, match=r"ends with \.jsonl\.gz, not into"):
        pack(folder, tmp_path / "study.gz")
    with pytest.raises(KdzooError, match="holds no records to pack"):
        pack(tmp_path / "nothing", packed)
    pack(folder, packed)
    with pytest.raises(KdzooError, match="exists already; name a new folder"):
        unpack(packed, folder)
    whole = gzip.decompress(packed.read_bytes()).splitlines(keepends=True)
    record = json.loads(whole[2])
    for lines, says in (
        ([*whole[:2], b"{"], "cannot be read after line 3"),
        ([*whole, whole[2]], "is cells/rte-.*json a second time"),
        ([b""], "holds no records"),
        ([*whole[:2], b"[1]\n"], "line 3 of .* is no file of a comparison"),
        ([json.dumps({**record, "file": "../cells/x.json"}).encode()], "line 1 of .* is no file"),
        ([json.dumps({**record, "file": "cells/../../x.json"}).encode()], "line 1 of .* is no file"),
        ([json.dumps({**record, "file": "/etc/passwd"}).encode()], "line 1 of .* is no file"),
        ([json.dumps({**record, "data": {**record["data"], "score": "high"}}).encode()], "cells/.* lacks score"),
        ([json.dumps({**record, "data": {**record["data"], "format": 99}}).encode()], "newer kdzoo"),
    ):
        packed.write_bytes(gzip.compress(b"".join(lines)))
        if "holds no" not in says:  # which the report says
            with pytest.raises(KdzooError, match=says):
                read_study(packed)
        with pytest.raises(KdzooError, match=says):
            unpack(packed, tmp_path / "other")
        assert not (tmp_path / "other").exists() and not list(tmp_path.glob(".other*"))
    with monkeypatch.context() as patch:
        patch.setattr("kdzoo.bench.packed.LONGEST", 50)
        packed.write_bytes(gzip.compress(b"".join(whole)))
        with pytest.raises(KdzooError, match=r"line 1 of .* has over 50 characters"):
            read_study(packed)
    packed.write_bytes(gzip.compress(b"".join(whole))[:-20])
    with pytest.raises(KdzooError, match="cannot be read after line"):
        read_study(packed)
    packed.write_text("text")
    with pytest.raises(KdzooError, match="cannot be read"):
        read_study(packed)
    with pytest.raises(KdzooError, match="neither the folder"):
        read_study(folder / "config.json")
    with pytest.raises(KdzooError, match="cannot be read"):
        read_study(tmp_path / "absent.jsonl.gz")


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_the_committed_studies_are_whole(path: Path) -> None:
    study = read_study(path)
    teachers, students = (
        {record["task"] for record in study.records if (record["method"] == "teacher") is teacher}
        for teacher in (True, False)
    )
    assert teachers and teachers == students
    assert all(record["predictions"] for record in study.records)
    assert is_packed(path) and not [found for found in RESULTS.iterdir() if (found / "cells").exists()]


def test_the_commands_read_it(folder: Path, tmp_path: Path, commands: Commands) -> None:
    packed = tmp_path / "study.jsonl.gz"
    assert "4 records" in commands.works("pack", folder, packed)
    for options in (("--markdown", "--against", "none"), ("--latex",), ("--markdown",)):
        assert commands.works("table", packed, *options) == commands.works("table", folder, *options)
    assert "4 records" in commands.works("pack", packed, tmp_path / "again")
    commands.fails("table", tmp_path / "absent.jsonl.gz", says=("absent.jsonl.gz cannot be read",))
