"""`kdzoo bench throughput`: what it measures, its record, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import pytest
from command_line import Commands
from generation_models import family

from kdzoo.bench.files import read_json
from kdzoo.bench.measure import throughput
from kdzoo.models.teachers import model_of_size
from kdzoo.tasks.decoding import Decoding
from kdzoo.training.stopwatch import PARTS

SIZES = ("--teacher", "2x16,heads=2", "--student", "1x8,heads=2", "--steps", 2, "--repeats", 2, "--warmup", 1)


def test_every_method_batch_and_length(commands: Commands, tmp_path: Path) -> None:
    record = tmp_path / "throughput.json"
    shapes = ("--batch-sizes", "2,3", "--lengths", "8,16")
    out = commands.works("bench", "throughput", "--methods", "none,kd,lrc", *shapes, *SIZES, "--out", record)
    setting, results = throughput.read_throughput(read_json(record))
    kinds = [("none", ""), ("kd", "live"), ("kd", "cache"), ("lrc", "live"), ("lrc", "cache")]
    expected = [(method, source, batch, length) for length in (8, 16) for batch in (2, 3) for method, source in kinds]
    assert [(r.method, r.teacher, r.batch_size, r.length) for r in results] == expected
    for result in results:
        assert set(result.step_seconds) == {*PARTS} and result.peak_memory > 2**20 and result.spread >= 1
        assert result.tokens_per_second == pytest.approx(result.samples_per_second * result.length)
        assert result.step_seconds["backward"] > 0 and result.step_seconds["optimizer"] > 0
        parts = sum(result.step_seconds.values())
        # Medians of parts and of the whole, of steps so short that a busy machine blurs them.
        assert 0.05 < result.samples_per_second * parts / result.batch_size < 20, "one unit"
    plain, live = (median(r.step_seconds["teacher"] for r in results if r.teacher == source) for source in ("", "live"))
    assert live > 3 * plain, "a whole forward pass against nothing"
    teacher, student = (setting["models"][name] for name in ("teacher", "student"))
    assert teacher["parameters"] > student["parameters"]
    assert teacher["by_length"]["16"]["flops"] > 1.9 * teacher["by_length"]["8"]["flops"]
    assert student["by_length"]["8"]["inference"]["1"]["latency_ms"] > 0
    assert "lrc" in out and "cache" in out and str(record) in out
    assert json.loads(record.read_text())["setting"]["precision"] == "fp32"
    text = commands.works("table", record, "--markdown")
    assert (
        text.startswith("Training, fp32,") and text.count("| kd | cache |") == 4 and "| teacher 2x16,heads=2 |" in text
    )


@pytest.mark.parametrize("labels", [1, 2])
def test_a_teacher_that_has_a_head(labels: int, commands: Commands, tmp_path: Path) -> None:
    model_of_size("2x16,heads=2", positions=16, num_labels=labels).save_pretrained(tmp_path / "teacher")
    record = tmp_path / "throughput.json"
    sizes = (*SIZES[2:], "--lengths", 8, "--batch-sizes", 2, "--out", record)
    commands.works(
        "bench", "throughput", "--methods", "none,hidden_mse + ce", "--teacher", tmp_path / "teacher", *sizes
    )
    assert len(throughput.read_throughput(read_json(record))[1]) == 3
    models = ("--teacher", "2x16,heads=2", "--student", tmp_path / "teacher")
    says = ("the length is 32", f"{tmp_path / 'teacher'} takes at most 16 tokens")
    commands.fails(
        "bench", "throughput", *SIZES[4:], *models, "--lengths", 32, "--out", tmp_path / "no.json", says=says
    )


@pytest.mark.parametrize("name", ["Bart", "EncoderDecoder"])
def test_a_teacher_that_writes(name: str, commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: set[int] = set()
    generate = Decoding.generate

    def counted(self: Decoding, model: Any, batch: Any) -> Any:
        found = generate(self, model, batch)
        assert found.shape[1] in (self.max_target, self.max_target + 1), "a start, and as many tokens as a row has"
        written.add(self.max_target)
        return found

    monkeypatch.setattr(Decoding, "generate", counted)
    family(name, 40).save_pretrained(tmp_path / "teacher")
    asked = ("bench", "throughput", "--methods", "none,word_kd", "--teacher", tmp_path / "teacher")
    asked += ("--student", "teacher:0,2/1", "--steps", 1, "--repeats", 2, "--warmup", 1, "--batch-sizes", 2)
    record = tmp_path / "throughput.json"
    said = commands.works(*asked, "--lengths", "4,12", "--out", record)
    assert "Inference: decoding of as many tokens as a row has, beam 4" in said
    setting, results = throughput.read_throughput(read_json(record))
    assert [(r.method, r.teacher) for r in results[:3]] == [("none", ""), ("word_kd", "live"), ("word_kd", "cache")]
    assert written == {4, 12} and setting["models"]["student"]["by_length"]["12"]["inference"]["1"]["latency_ms"] > 0
    commands.fails(*asked, "--lengths", 1000, "--out", record, says=("the length is 1000", "takes at most"))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--batch-sizes", "2,x"), "the batch size 'x' is no whole number from 1 to 65536"),
        (("--lengths", "0"), "the length '0' is no whole number from 1 to 131072"),
        (("--precision", "fp8"), "precision = 'fp8'"),
        (("--methods", "kdd"), "kdd"),
        (("--methods", "attention_kl + ce", "--student", "1x8,heads=4"), "heads"),
        (("--teacher", "no/such"), "no/such"),
    ],
)
def test_bad_input(options: tuple[str, ...], says: str, commands: Commands, tmp_path: Path) -> None:
    record = tmp_path / "throughput.json"
    commands.fails("bench", "throughput", *SIZES, *options, "--out", record, says=(says,))
    assert not record.exists()
