"""`kdzoo profile`: what it measures, writes and refuses, at tiny shapes."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import Commands

from kdzoo.bench.files import read_json
from kdzoo.bench.measure import cpu
from kdzoo.bench.measure import kernels as profile
from kdzoo.bench.measure.kernels import __main__ as bare
from kdzoo.bench.measure.kernels import clock, machine, measuring, running
from kdzoo.bench.measure.workloads import Floor, Missing, names, total, workload
from kdzoo.kernels.backend import has_triton

CPU = torch.device("cpu")
QUICK = ("--providers", "naive,reference,torch", "--seconds", 0, "--device", "cpu")


@pytest.fixture(autouse=True)
def small_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """Known rates in place of half a gigabyte copied and two gigaflops multiplied."""
    torch.set_num_threads(1)
    monkeypatch.setattr(measuring, "copy_bandwidth", lambda device, seconds: 1e9)
    monkeypatch.setattr(measuring, "matmul_rate", lambda dtype, device, seconds: 1e10)


@pytest.mark.parametrize("name", names())
def test_every_workload_is_of_its_kernel(name: str) -> None:
    """All its providers that run here give one value, its own shapes are its own, and the floor is no zero."""
    work = workload(name)
    for text in (text for device in ("cpu", "cuda") for text in work.shapes[device]):
        forward, both = work.floor(work.sizes(text), 2)
        assert 0 < forward.bytes <= both.bytes and 0 < forward.flops <= both.flops
    for letters in work.axes:
        torch.manual_seed(0)
        inputs = work.inputs(dict.fromkeys(letters, 8), torch.float32, CPU)
        assert work.decide(inputs).backend == "torch"
        values = [total(work.provider(provider)(**inputs)) for provider in ("naive", "reference", "torch")]
        torch.testing.assert_close(values[0], values[2], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(values[1], values[2], rtol=1e-4, atol=1e-5)
    assert all(inputs[side].is_floating_point() for side in work.gradient)


def test_the_record_the_plot_and_the_table(commands: Commands, tmp_path: Path) -> None:
    ran = commands("profile", "cos_nce", "--shapes", "16x8,4x3x8", *QUICK, "--out", tmp_path)
    assert ran.code == 0, ran.err
    record = json.loads((tmp_path / "cos_nce-cpu-fp32.json").read_text())
    for name in ("cos_nce-cpu-fp32.png", "cos_nce-cpu-fp32-roofline.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
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
        backward = result["backward"]
        assert 0 < backward["low"] <= backward["seconds"] <= backward["high"] and backward["clock"] == "host"
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
    plots = [path.name for path in tmp_path.glob("*.png") if "roofline" not in path.name]
    assert sorted(plots) == ["cos_nce-cpu-fp32-3.png", "cos_nce-cpu-fp32.png"]


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
        (("cos_nce", "--providers", "naive,eager"), ("cos_nce has no provider 'eager'", "reference")),
        (("cos_nce", "--providers", "triton", "--device", "cpu"), ("triton", "cpu" if has_triton() else "installed")),
        (("cos_nce", "--dtype", "float32"), ("unknown dtype 'float32'",)),
        (("cos_nce", "--device", "tpu"), ("unknown device 'tpu'",)),
        (("cos_nce", "--shapes", "4by4"), ("'4by4'", "BxD or BxSxD or BxMxSxD")),
        (("cos_nce", "--shapes", "4x0"), ("'4x0'",)),
        (("cos_nce", "--shapes", "4x-1"), ("'4x-1'",)),
        (("cos_nce", "--shapes", "8:4x16"), ("'8:4x16'", "LOW:HIGH")),
        (("cos_nce", "--shapes", "4:8x4:8"), ("'4:8x4:8'", "one of its numbers")),
        (("cos_nce", "--provider", "json.dumps"), ("'json.dumps'", "package.module:function")),
        (("cos_nce", "--provider", "json:nothing"), ("'json:nothing'", "package.module:function")),
        (("cos_nce", "--provider", "json:__doc__"), ("a str", "package.module:function")),
        (("cos_nce", "--against", "nowhere.json"), ("nowhere.json",)),
    ],
)
def test_bad_input_is_one_line_before_any_work(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], words: Any
) -> None:
    def worked(*_: Any) -> None:
        raise AssertionError("it began to work")

    monkeypatch.setattr(running, "measure", worked)
    ran = commands("profile", *arguments, "--out", tmp_path / "out")
    assert ran.code == 2 and ran.err.count("\n") == 1
    assert all(word in ran.err for word in words), ran.err
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_be_written_is_told_of_before_any_work(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "measure", lambda *_, **__: pytest.fail("it began to work"))
    (tmp_path / "file").touch()
    ran = commands("profile", "cos_nce", "--out", tmp_path / "file" / "out")
    assert ran.code == 2 and "cannot write to the output folder" in ran.err and ran.err.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_cuda_has_to_be_there(commands: Commands) -> None:
    ran = commands("profile", "cos_nce", "--device", "cuda")
    assert ran.code == 2 and "no CUDA device" in ran.err


def half(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """A provider that computes something else."""
    return 0.5 * (student * teacher).sum()


def test_a_provider_of_ones_own_is_measured_and_told_when_it_computes_something_else(
    commands: Commands, tmp_path: Path
) -> None:
    own = ("--provider", f"{__name__}:half", "--provider", "kdzoo.bench.measure.workloads.cos_nce:naive")
    ran = commands("profile", "cos_nce", "--shapes", "16x8", *QUICK, *own, "--out", tmp_path)
    assert ran.code == 0, ran.err
    record = read_json(tmp_path / "cos_nce-cpu-fp32.json")
    assert [r["provider"] for r in record["results"]][3:] == list(own[1::2])
    assert all("both" in result for result in record["results"])
    said = [line for line in record["warnings"] if "the value of" in line]
    assert len(said) == 1 and f"{__name__}:half" in said[0] and "that of torch" in said[0]
    assert said[0] in " ".join(ran.out.split())


def test_a_sweep_doubles_one_axis(commands: Commands, tmp_path: Path) -> None:
    request = profile.Request.of("cos_nce", shapes=("4:16x8", "8x8", "3x2:5x8"), device="cpu")
    assert request.shapes == ("4x8", "8x8", "16x8", "3x2x8", "3x4x8")
    assert set(request.providers) >= {"naive", "torch"}


def test_within_a_budget_the_cheap_and_important_come_first_and_the_rest_says_so() -> None:
    providers = ("reference", "compile", "torch", "naive")
    request = profile.Request.of("cos_nce", shapes=("64x8", "4x8"), providers=providers, device="cpu")
    assert request.jobs() == [
        *(("4x8", "torch"), ("4x8", "naive"), ("64x8", "torch"), ("64x8", "naive")),
        *(("4x8", "compile"), ("64x8", "compile"), ("4x8", "reference"), ("64x8", "reference")),
    ]
    _, *results = profile.measure(request, seconds=0, budget=1e-9)
    assert [(r["shape"], r["provider"]) for r in results] == request.jobs()
    assert all("no time was left" in result["failed"] for result in results)


def test_each_result_is_written_when_it_is_measured(tmp_path: Path) -> None:
    request = profile.Request.of("cos_nce", shapes=("4x8",), providers=("naive", "torch"), device="cpu")
    seen: list[int] = []

    def progressed(result: dict[str, Any], number: int, total: int) -> None:
        record = read_json(tmp_path / "cos_nce-cpu-fp32.json")
        seen.append(len(record["results"]))
        assert record["results"][-1] == result and total == 2
        if number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        running.profiled(request, running.Options(tmp_path, seconds=0), progressed)
    assert seen == [1, 2]
    # What was killed is replaced by the same when it is asked for again.
    running.profiled(request, running.Options(tmp_path, seconds=0), lambda *_: None)
    assert [path.name for path in tmp_path.glob("*.json")] == ["cos_nce-cpu-fp32.json"]


def test_an_older_record_stands_beside(commands: Commands, tmp_path: Path) -> None:
    assert commands("profile", "cos_nce", "--shapes", "16x8", *QUICK, "--out", tmp_path).code == 0
    path = tmp_path / "cos_nce-cpu-fp32.json"
    record = read_json(path)
    for result, factor in zip(record["results"], (1.0, 1000.0, 1000.0), strict=True):
        for key in ("seconds", "low", "high"):
            result["both"][key] *= factor
    older = tmp_path / "older.json"
    older.write_text(json.dumps(record | {"device": "an abacus"}))
    compared = profile.Older(older, "cos_nce", "fp32")
    cells = [compared.against(result) for result in read_json(path)["results"]]
    assert cells[0] == "~1.00" and cells[1] == cells[2] == "1000.00"
    ran = commands("profile", "cos_nce", "--shapes", "16x8", *QUICK, "--against", older, "--out", tmp_path)
    assert ran.code == 0 and "older" in ran.out and "an abacus" in ran.out
    ran = commands("profile", "cosine", *QUICK, "--against", older, "--out", tmp_path)
    assert ran.code == 2 and "cos_nce in fp32" in ran.err and ran.err.count("\n") == 1


def test_a_trace_names_what_took_longest(tmp_path: Path) -> None:
    request = profile.Request.of("cos_nce", shapes=("16x8",), providers=("naive",), device="cpu")
    _, result = profile.measure(request, seconds=0, trace=tmp_path / "traces")
    events = json.loads(Path(result["trace"]).read_text())["traceEvents"]
    assert any("bmm" in event.get("name", "") for event in events)
    assert any("bmm" in part["name"] for part in result["parts"])
    assert all(part["seconds"] > 0 and part["calls"] > 0 for part in result["parts"])


def test_the_record_says_what_makes_it_uncertain() -> None:
    setting = {"dtype": "fp32", "least_seconds": 1e-6, "copy_bytes_per_second": 1e12, "machine": {}}
    steady = {"seconds": 1.0, "low": 0.99, "high": 1.01, "clock": "graph"}

    def said(setting: dict[str, Any], **changes: Any) -> list[str]:
        result = {"shape": "4x8", "provider": "torch", "both": {**steady, **changes}}
        return machine.noise(setting, [result])

    assert said(setting) == []
    assert ["spread" in line for line in said(setting, high=1.2)] == [True]
    assert ["launching" in line for line in said(setting, seconds=2e-6, low=2e-6, high=2e-6)] == [True]
    assert ["host" in line for line in said(setting, clock="events")] == [True]
    assert ["before and" in line for line in said({**setting, "copy_bytes_per_second_after": 0.8e12})] == [True]
    assert ["busy" in line for line in said({**setting, "machine": {"load": 9.0, "cpus": 2}})] == [True]


def test_a_value_that_is_no_number_differs_from_one() -> None:
    values = {"torch": 1.0, "naive": 1.0 + 1e-5, "mine": float("nan"), "yours": 1.1}
    results = [{"shape": "4x8", "provider": name, "value": value} for name, value in values.items()]
    said = machine.noise({"dtype": "fp32"}, results)
    assert len(said) == 2 and "mine" in said[0] and "yours" in said[1]


def test_what_is_prepared_is_not_timed() -> None:
    calls: list[str] = []

    def prepare() -> str:
        calls.append("prepared")
        time.sleep(0.02)
        return "given"

    times = clock.durations(lambda given: calls.append(given), CPU, 0, prepare=prepare)
    assert calls == ["prepared", "given"] * 7 and len(times.seconds) == 5 and times.clock == "host"
    assert max(times.seconds) < 0.02


def test_half_precision_is_multiplied_in_half_precision() -> None:
    """What the kernels are held against would lose by its type alone otherwise."""
    seen: list[torch.dtype] = []

    class Spy(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if "mm" in function.name():
                seen.append(args[0].dtype)
            return function(*args, **(kwargs or {}))

    for name in ("info_nce", "cos_nce", "gram", "relation", "crd_nce", "linear_divergence"):
        work = workload(name)
        inputs = work.inputs(dict.fromkeys(work.axes[0], 8), torch.bfloat16, CPU)
        with Spy():
            work.provider("naive")(**inputs)
        assert seen and set(seen) == {torch.bfloat16}, name
        seen.clear()


def test_the_bare_command_prints_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [str(part) for part in QUICK]
    assert bare.main(["cos_nce", "--shapes", "16x8", *quick, "--out", str(tmp_path)]) == 0
    written = capsys.readouterr()
    record = read_json(tmp_path / "cos_nce-cpu-fp32.json")
    assert written.err.count("\n") == 3
    for result in record["results"]:
        assert f"{1e3 * result['both']['seconds']:.3g}" in written.out
    assert bare.main(["cos_nc"]) == 2 and "did you mean 'cos_nce'" in capsys.readouterr().err
    assert bare.main([]) == 0
    listed = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in listed] == names() and all(len(line.split()) > 3 for line in listed)


@pytest.mark.cuda
def test_on_cuda_a_graph_is_timed_and_what_cannot_be_one_is_timed_otherwise() -> None:
    device = torch.device("cuda")
    left = torch.randn(4096, 4096, device=device, requires_grad=True)
    forward = clock.durations(lambda: left.detach() @ left.detach(), device, 0.05)
    assert forward.clock == "graph" and min(forward.wall) > 0.5 * forward.median
    backward = clock.durations(
        lambda value: torch.autograd.grad(value, left), device, 0.05, prepare=lambda: (left @ left).sum()
    )
    assert backward.clock == "graph" and backward.median > 1.5 * forward.median  # two products
    waiting = clock.durations(lambda: (left.detach() @ left.detach()).sum().item(), device, 0.05)
    assert waiting.clock == "events" and waiting.median > 0.8 * forward.median
    assert 0 < clock.least_time(device, 0.05) < 1e-4


def test_losses_on_a_cpu_stand_beside_the_usual_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, commands: Commands
) -> None:
    monkeypatch.setattr(torch, "compile", lambda run: run)  # what it makes of them is its own business
    small = {"hidden_mse": ("4x8",), "relation": ("2x2x5x4",)}
    monkeypatch.setattr(cpu, "LOSSES", {name: cpu.LOSSES[name]._replace(shapes=small[name]) for name in small})
    assert cpu.main([str(tmp_path / "cpu.json"), "--seconds", "0", "--kernels", "hidden_mse,relation"]) == 0
    record = json.loads((tmp_path / "cpu.json").read_text())
    for result in record["results"]:
        first, *others = result["values"].values()
        assert others == pytest.approx([first] * 3, rel=1e-5), "all compute the same"
        assert result["ratio"] == pytest.approx(
            min(result["seconds"][name] for name in ("eager", "compiled")) / result["seconds"]["kdzoo"]
        )
    assert "hidden_mse" in commands("table", tmp_path / "cpu.json").out
    assert cpu.main([str(tmp_path / "cpu.json"), "--kernels", "cosin"]) == 2
