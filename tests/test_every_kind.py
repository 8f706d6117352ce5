"""The recipes of the seed papers' tables on every kind of task, whole: compared, resumed, tuned, and on Ray."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from command_line import Commands, record_files, records, results

METHODS = ("none", "kd", "pkd", "tinybert", "minilmv2", "crd", "lrc")
# Beside single rows of GLUE: tags, spans, triples that are true or not, relations, links, facts, roles, texts.
KINDS = ("ner", "squad", "wn11", "wn18rr", "umls", "kbert", "sembert", "transduction")
ENCODER_ALONE = {"transduction": ("none", "tinybert", "minilmv2", "lrc", "word_kd", "seq_kd", "seq_inter")}
SMALL = (
    "--teacher",
    "3x24,heads=4",
    "--student",
    "2x16,heads=4",
    "--seeds",
    "1",
    "--epochs",
    "2",
    "--batch-size",
    "16",
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]


def asked(kind: str, out: Path, *more: object) -> tuple[object, ...]:
    rows = ("--train-rows", "160" if kind == "transduction" else "48", "--validation-rows", "16")
    length = "64" if kind in ("squad", "transduction") else "32"
    return ("compare", "--tasks", kind, *SMALL, *rows, "--max-length", length, "--out", out, *more)


def trained_again(folder: Path) -> dict[str, Any]:
    return {path.name: path.stat().st_mtime_ns for path in record_files(folder)}


@pytest.mark.parametrize("kind", KINDS)
def test_the_recipes_and_a_resume(kind: str, commands: Commands, tmp_path: Path) -> None:
    """Each recipe trains and is scored; a record that is lost is made again, alone and with the same values."""
    methods = ENCODER_ALONE.get(kind, METHODS)
    given = asked(kind, tmp_path / "out", "--methods", ",".join(methods))
    said = commands.works(*given)
    found = results(tmp_path / "out")
    assert {name for name in found if not name.endswith("-teacher")} == {f"{kind}-{method}-0" for method in methods}
    assert " left out: " not in said
    for name, record in records(tmp_path / "out").items():
        assert math.isfinite(record["score"]) and record["predictions"]["validation"], name
    before = trained_again(tmp_path / "out")
    for method in methods[1:3]:
        (tmp_path / "out" / "cells" / f"{kind}-{method}-0.json").unlink()
    commands.works(*given)
    assert results(tmp_path / "out") == found
    after = trained_again(tmp_path / "out")
    changed = {name for name in after if after[name] != before[name]}
    assert changed == {f"{kind}-{method}-0.json" for method in methods[1:3]}


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_tuned(kind: str, commands: Commands, tmp_path: Path) -> None:
    method = "word_kd" if kind == "transduction" else "kd"
    said = commands.works(*asked(kind, tmp_path / "out", "--methods", method, "--tune", "2"))
    assert "tun" in said
    assert len([*(tmp_path / "out").rglob("*trial*")]) or len([*(tmp_path / "out").rglob("*tun*")])
    assert math.isfinite(records(tmp_path / "out")[f"{kind}-{method}-0"]["score"])


def test_kinds_on_ray(commands: Commands, tmp_path: Path) -> None:
    """Several kinds at once by a Ray of its own score what they do here."""
    pytest.importorskip("ray")
    kinds = ("ner", "squad", "wn11", "kbert", "sembert")
    whole = ("--methods", "kd,tinybert", "--teacher", "2x16,heads=2", "--student", "1x16,heads=2", "--seeds", "1")
    rows = ("--train-rows", "32", "--validation-rows", "16", "--epochs", "1", "--max-length", "48")
    for launcher in ("local", "ray"):
        out = ("--launcher", launcher, "--out", tmp_path / launcher)
        assert commands("compare", "--tasks", ",".join(kinds), *whole, *rows, *out).code == 0
    here, there = (
        {name: record["score"] for name, record in records(tmp_path / launcher).items()}
        for launcher in ("local", "ray")
    )
    assert here.keys() == there.keys() and len(here) == 3 * len(kinds)
    assert there == pytest.approx(here, abs=0.02)
