"""Runs the command line within the process, at sizes that take about a second."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

TEACHER, STUDENT = "2x32,heads=2", "1x16,heads=2"
ROWS = ("--train-rows", "64", "--validation-rows", "32", "--epochs", "1", "--learning-rate", "0.01")
SIZES = ("--teacher", TEACHER, "--student", STUDENT, "--batch-size", "32", *ROWS)


class Ran(NamedTuple):
    """What a command gave: its exit code and what it wrote."""

    code: int
    out: str
    err: str


class Commands:
    """Calls ``kdzoo`` as a shell would, but in this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __call__(self, *arguments: object) -> Ran:
        from kdzoo.cli.main import main

        self._capsys.readouterr()
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        written = self._capsys.readouterr()
        code = stopped.value.code
        assert isinstance(code, int)
        return Ran(code, written.out, written.err)

    def works(self, *arguments: object) -> str:
        """The output of a command that must succeed, and say nothing on stderr."""
        ran = self(*arguments)
        assert (ran.code, ran.err) == (0, ""), ran
        return ran.out

    def fails(self, *arguments: object, code: int = 2, says: tuple[str, ...]) -> str:
        """The one line of a command that must fail; every phrase of ``says`` is in it."""
        ran = self(*arguments)
        assert ran.code == code, ran
        assert ran.err.startswith("kdzoo: ") and ran.err.count("\n") == 1 and ran.err.endswith("\n"), ran.err
        assert "Traceback" not in ran.out + ran.err and not ran.err.startswith("kdzoo: unexpected")
        for phrase in says:
            assert phrase in ran.err, f"{phrase!r} is not in {ran.err!r}"
        return ran.err


def record_files(folder: Path) -> list[Path]:
    """The files of a comparison's records."""
    return [*folder.glob("cells/*.json"), *folder.glob("teachers/[!.]*/record.json")]


def records(folder: Path) -> dict[str, Any]:
    """A comparison's records by file name, the teachers' by task."""
    paths = record_files(folder)
    return {p.stem if p.stem != "record" else f"{p.parent.name}-teacher": json.loads(p.read_text()) for p in paths}


def results(folder: Path) -> dict[str, Any]:
    """What of the records depends on the seed alone: no times, speeds or memory."""
    timed = ("runtime", "per_second")
    kept = {}
    for name, record in records(folder).items():
        history = [{k: v for k, v in entry.items() if not k.endswith(timed)} for entry in record["history"]]
        steady = ("task", "method", "seed", "configuration", "metrics", "score", "predictions", "steps", "parameters")
        curve = [(point["step"], point["score"]) for point in record["curve"]]
        kept[name] = {key: record[key] for key in steady} | {"history": history, "curve": curve}
    return kept


def weights(folder: Path) -> dict[str, Tensor]:
    """A saved model's."""
    return load_file(folder / "model.safetensors")


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two models' weights are the same to the last bit."""
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
