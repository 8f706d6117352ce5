"""What a loss costs: the measurements, the table and the file."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest
import torch
import transformers
from command_line import Commands

from kdzoo.bench.timing import peak_bytes, seconds, versions
from kdzoo.models.teachers import model_of_size

MODELS = ("--student", "2x16,heads=2", "--teacher", "3x24,heads=2")
SMALL = (*MODELS, "--batch-size", "4", "--length", "8", "--repeats", "1")
CPU = torch.device("cpu")


def test_the_peak_is_of_what_lives_at_one_time() -> None:
    def one_after_the_other() -> None:
        for _ in range(4):
            torch.empty(1000, 1000)

    def together() -> list[torch.Tensor]:
        return [torch.empty(1000, 1000) for _ in range(4)]

    assert 4.0e6 <= peak_bytes(one_after_the_other, CPU) < 5e6
    assert 16.0e6 <= peak_bytes(together, CPU) < 17e6


def test_seconds_leaves_out_the_first_call() -> None:
    calls: list[int] = []
    assert seconds(lambda: calls.append(1), CPU, repeats=3) >= 0
    assert len(calls) == 4


def test_seconds_leaves_out_what_prepares_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[int] = []
    now = 0.0
    monkeypatch.setattr(time, "perf_counter", lambda: now)

    def prepare() -> int:
        nonlocal now
        now += 50
        return 7

    def call(value: int) -> None:
        nonlocal now
        now += len(given)
        given.append(value)

    assert seconds(call, CPU, repeats=3, prepare=prepare) == 2, "the median of calls of 1, 2 and 3 seconds"
    assert given == [7, 7, 7, 7]


def test_versions_say_what_torch_was_built_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "__version__", "2.99.0+cu130")
    found = versions("transformers", "no-such-package")
    assert found["torch"] == "2.99.0+cu130" and set(found) == {"python", "kdzoo", "torch", "transformers"}
    assert found["transformers"] == transformers.__version__


def test_cost_writes_what_table_prints_again(commands: Commands, tmp_path: Path) -> None:
    path = tmp_path / "cost.json"
    out = commands.works("cost", "kd,hidden_mse,attention_mse,crd", *SMALL, "--out", path)
    data = json.loads(path.read_text())
    assert [cost["name"] for cost in data["costs"]] == ["kd", "hidden_mse", "attention_mse", "crd"]
    assert data["setting"]["batch_size"] == 4 and data["setting"]["student_backward_ms"] > 0
    for cost in data["costs"]:
        assert cost["milliseconds"] > 0 and cost["peak_memory"] > 0
        assert cost["of_backward"] == pytest.approx(cost["milliseconds"] / data["setting"]["student_backward_ms"])
    assert commands.works("table", path).splitlines()[3:] == out.splitlines()[3:]
    title, _, *table = commands.works("table", path, "--markdown").splitlines()
    assert "4 rows of 8 tokens" in title and table[0].startswith("| loss | feature | ms |")
    rows = table[2:]
    times = {cost["name"]: cost["milliseconds"] for cost in data["costs"]}
    assert [row.split("|")[1].strip() for row in rows] == sorted(times, key=lambda name: times[name])


def test_a_width_that_twelve_heads_do_not_divide(commands: Commands) -> None:
    assert model_of_size("1x312", positions=8, num_labels=2).config.num_attention_heads == 12
    out = commands.works("cost", "kd", *SMALL[len(MODELS) :], "--student", "1x16", "--teacher", "1x20")
    assert "kd" in out


def test_what_cannot_be_measured_is_refused_before_any_work(commands: Commands, tmp_path: Path) -> None:
    commands.fails("cost", "kdd", *SMALL, says=("unknown loss 'kdd'", "did you mean 'kd'"))
    commands.fails("cost", "kd", "--student", "small", says=("'small' is no size", "4x312"))
    commands.fails("cost", "kd,attention_mse", *SMALL[2:], "--student", "2x16,heads=4", says=("attention_mse", "heads"))
    (tmp_path / "other.json").write_text("{}")
    commands.fails("table", tmp_path / "other.json", says=("other.json holds no figures", "kdzoo cost"))
    (tmp_path / "old.json").write_text('{"costs": [{"name": "kd"}], "setting": {}}')
    commands.fails("table", tmp_path / "old.json", says=("old.json is damaged, or of another version",))
    commands.fails("table", tmp_path / "other.json", "--against", "none", says=("--against is for a comparison",))
