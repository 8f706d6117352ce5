"""`kdzoo profile`: what it measures, writes and refuses, at tiny shapes."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Commands

from kdzoo.bench.measure import kernels as profile
from kdzoo.bench.measure.workloads import Floor, Missing, names, total, workload
from kdzoo.kernels.backend import has_triton

CPU = torch.device("cpu")
QUICK = ("--providers", "naive,reference,torch", "--seconds", 0, "--device", "cpu")


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


@pytest.fixture(autouse=True)
def small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known rates in place of half a gigabyte copied and two gigaflops multiplied."""
    torch.set_num_threads(1)
    monkeypatch.setattr(profile, "copy_bandwidth", lambda device, seconds: 1e9)
    monkeypatch.setattr(profile, "matmul_rate", lambda dtype, device, seconds: 1e10)


@pytest.mark.parametrize("name", names())
def test_every_workload_is_of_its_kernel(name: str) -> None:
    """All its providers that run here give one value, its own shapes are its own, and the floor is no zero."""
    work = workload(name)
    for text in (text for device in ("cpu", "cuda") for text in work.shapes[device]):
        forward, both = work.floor(work.sizes(text), 2)
        assert 0 < forward.bytes <= both.bytes and 0 < forward.flops <= both.flops
    sizes = dict.fromkeys(work.axes[0], 8)
    torch.manual_seed(0)
    inputs = work.inputs(sizes, torch.float32, CPU)
    assert work.decide(inputs).backend == "torch"
    values = [total(work.provider(provider)(**inputs)) for provider in ("naive", "reference", "torch")]
    torch.testing.assert_close(values[0], values[2], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(values[1], values[2], rtol=1e-4, atol=1e-5)
    assert all(inputs[side].is_floating_point() for side in work.gradient)


def test_the_record_the_plot_and_the_table(commands: Commands, tmp_path: Path) -> None:
    ran = commands("profile", "cos_nce", "--shapes", "16x8,4x3x8", *QUICK, "--out", tmp_path)
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "cos_nce-cpu-fp32.json").read_text())
    assert (tmp_path / "cos_nce-cpu-fp32.png").read_bytes().startswith(b"\x89PNG")
    assert [(r["shape"], r["provider"]) for r in record["results"]] == [
        (shape, provider) for shape in ("16x8", "4x3x8") for provider in ("naive", "reference", "torch")
    ]
    assert record["copy_bytes_per_second"] == 1e9 and record["versions"]["torch"] == torch.__version__
    for result in record["results"]:
        elements = {"16x8": 128, "4x3x8": 96}[result["shape"]]
        for part, transfers, flops in (("forward", 2, 9), ("both", 3, 15)):
            found = result[part]
            assert 0 < found["low"] <= found["seconds"] <= found["high"] and found["calls"] >= 5
            assert found["bytes_per_second"] == pytest.approx(4 * transfers * elements / found["seconds"])
            assert found["flops_per_second"] == pytest.approx(flops * elements / found["seconds"])
            floor = max(4 * transfers * elements / 1e9, flops * elements / 1e10)
            assert found["of_floor"] == pytest.approx(floor / found["seconds"])
        assert result["peak_bytes"] >= 4 * elements  # the gradient
        assert f"{1e3 * result['both']['seconds']:.3g}" in ran.out


def test_a_record_is_replaced_by_one_of_the_same_shapes_and_providers_alone(commands: Commands, tmp_path: Path) -> None:
    def shapes(name: str) -> set[str]:
        return {result["shape"] for result in json.loads((tmp_path / name).read_text())["results"]}

    def ran(shapes: str) -> str:
        ran = commands("profile", "cos_nce", "--shapes", shapes, *QUICK, "--out", tmp_path)
        assert ran.code == 0, ran.err
        return ran.out

    (tmp_path / "cos_nce-cpu-fp32-2.json").write_text("not a record")
    for asked in ("16x8", "4x3x8", "16x8"):
        out = ran(asked)
    assert "cos_nce-cpu-fp32.json" in out and "fp32-3" not in out
    assert shapes("cos_nce-cpu-fp32.json") == {"16x8"} and shapes("cos_nce-cpu-fp32-3.json") == {"4x3x8"}
    assert (tmp_path / "cos_nce-cpu-fp32-2.json").read_text() == "not a record"
    assert sorted(path.name for path in tmp_path.glob("*.png")) == ["cos_nce-cpu-fp32-3.png", "cos_nce-cpu-fp32.png"]


def test_memory_grows_with_the_square_of_the_rows_where_a_matrix_is_made() -> None:
    request = profile.Request.of("cos_nce", shapes=("64x4", "256x4"), providers=("naive", "torch"), device="cpu")
    _, *results = profile.measure(request, seconds=0)
    peak = {(r["provider"], r["shape"]): r["peak_bytes"] for r in results}
    assert peak["naive", "256x4"] > 12 * peak["naive", "64x4"]
    assert peak["torch", "256x4"] < 6 * peak["torch", "64x4"]


def test_a_provider_that_fails_is_a_result_and_the_others_go_on() -> None:
    request = profile.Request.of("cos_nce", shapes=("4x4",), providers=("naive", "torch"), device="cpu")

    def broken(**inputs: Any) -> Any:
        raise Missing("it takes 8 columns\nor more")

    _, *results = profile.measure(changed(request, naive=broken), seconds=0)
    assert results[0]["failed"] == "it takes 8 columns or more" and results[1]["both"]["seconds"] > 0


def changed(request: profile.Request, **changes: Any) -> profile.Request:
    """The request with another workload."""
    return dataclasses.replace(request, workload=dataclasses.replace(request.workload, **changes))


def test_the_floor_is_the_larger_of_traffic_and_operations() -> None:
    request = profile.Request.of("cos_nce", shapes=("4x4",), providers=("torch",), device="cpu")
    slow = Floor(bytes=1.0, flops=1e10)
    _, result = profile.measure(changed(request, floor=lambda sizes, item: (slow, slow)), seconds=0)
    assert result["both"]["of_floor"] == pytest.approx(1.0 / result["both"]["seconds"])


def test_explain_says_what_is_chosen_and_why(commands: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    ran = commands("profile", "cos_nce", "--explain", "--shapes", "16x8", "--device", "cpu")
    assert ran.code == 0 and "cos_nce 16x8 fp32 on cpu: torch (" in ran.out
    monkeypatch.setenv("KDZOO_BACKEND", "torch")
    assert "KDZOO_BACKEND=torch" in commands("profile", "cos_nce", "--explain", "--device", "cpu").out
    monkeypatch.setenv("KDZOO_BACKEND", "triton")
    ran = commands("profile", "cos_nce", "--explain", "--device", "cpu")
    assert ran.code == 2 and ran.err.count("\n") == 1 and "KDZOO_BACKEND=triton" in ran.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("cos_nc",), ("unknown kernel 'cos_nc'", "did you mean 'cos_nce'")),
        (("cos_nce", "--providers", "naive,eager"), ("unknown provider of cos_nce 'eager'", "reference")),
        (("cos_nce", "--providers", "triton", "--device", "cpu"), ("triton", "cpu" if has_triton() else "installed")),
        (("cos_nce", "--dtype", "float32"), ("unknown dtype 'float32'",)),
        (("cos_nce", "--device", "tpu"), ("unknown device 'tpu'",)),
        (("cos_nce", "--shapes", "4by4"), ("'4by4'", "BxD or BxSxD or BxMxSxD")),
        (("cos_nce", "--shapes", "4x0"), ("'4x0'",)),
        (("cos_nce", "--shapes", "4x-1"), ("'4x-1'",)),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: Any
) -> None:
    def worked(*_: Any) -> None:
        raise AssertionError("it began to work")

    monkeypatch.setattr(profile, "measure", worked)
    ran = commands("profile", *arguments, "--out", tmp_path / "out")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert all(word in ran.err for word in words), ran.err
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_has_to_be_there(commands: Commands) -> None:
    ran = commands("profile", "cos_nce", "--device", "cuda")
    assert ran.code == 2 and "no CUDA device" in ran.err
