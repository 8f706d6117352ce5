"""The script for a GPU that is at hand for minutes: it goes through on a CPU, with torch, triton and numpy alone.

And its checks catch what they are for.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdzoo.bench.files import read_json
from kdzoo.bench.measure import checks, gpu, steps
from kdzoo.bench.measure.steps import Plan, Step
from kdzoo.bench.measure.workloads import Workload, names, workload
from kdzoo.kernels.backend import has_triton

ROOT = Path(__file__).parents[1]
CPU = torch.device("cpu")
# Whatever is not torch, triton, numpy, or needed by them.
MISSING = (
    *("pydantic", "rich", "typer", "click", "yaml", "datasets", "transformers", "tokenizers", "huggingface_hub"),
    *("safetensors", "sklearn", "scipy", "pandas", "matplotlib", "accelerate"),
)
BARE = f"""
import runpy, sys
class Bare:
    def __init__(self, finder):
        self.finder = finder
    def __getattr__(self, name):
        return getattr(self.finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in {MISSING!r} else self.finder.find_spec(name, path, target)
sys.meta_path[:] = map(Bare, sys.meta_path)
import kdzoo
print("from", kdzoo.__file__)
module, *sys.argv[1:] = sys.argv[1:]
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``make build/layout`` makes: the package from links, with nothing installed."""
    folder = tmp_path_factory.mktemp("layout")
    (folder / "kdzoo").mkdir()
    for source in (*(ROOT / "kdzoo").iterdir(), *(ROOT / name for name in ("kernels", "baselines", "bench"))):
        (folder / "kdzoo" / source.name).symlink_to(source)
    return folder


def bare(layout: Path, module: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """A module run where only torch, triton and numpy can be imported."""
    command = [sys.executable, "-c", BARE, module, *map(str, arguments)]
    own = {"PYTHONPATH": str(layout), "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    inherited = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(command, env={**inherited, **own}, capture_output=True, text=True, timeout=600, cwd=layout)
    assert f"from {layout}" in done.stdout, done.stderr
    return done


@pytest.mark.skipif(not has_triton(), reason="the interpreter comes with Triton")
def test_a_dry_run_checks_and_measures_every_kernel(layout: Path, tmp_path: Path) -> None:
    done = bare(layout, "kdzoo.bench.measure.gpu", "--dry-run", "--tune", "--budget", 500, "--jobs", 2, tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{3 * len(names())} of {3 * len(names())} checks are right" in done.stdout
    records = {path.stem: read_json(path) for path in tmp_path.glob("*.json")}
    assert set(records.pop("tuning")) <= {""}  # no architecture; which are faster here is chance
    summary = records.pop("summary")["steps"]
    assert summary == records
    assert set(records) == {
        "machine",
        *(f"check-{name}" for name in names()),
        *(f"measure-{name}-bf16" for name in names()),
        *("tune-info_nce", "tune-cos_nce"),
    }
    machine = records.pop("machine")
    assert machine["copy_bytes_per_second"] > 1e6 and machine["matmul_flops_per_second"]["bf16"] > 1e6
    assert machine["versions"]["torch"] == torch.__version__ and {"commit", "seed", "machine"} <= set(machine)
    for name, record in records.items():
        assert "failed" not in record and len(record["results"]) >= 3, record
        if name.startswith("tune"):
            assert len(record["results"]) == 1 + len(workload(record["kernel"]).candidates)
            assert all(result["apart"] < 1e-2 and result["seconds"] > 0 for result in record["results"]), record
        elif name.startswith("check"):
            assert {result["backend"] for result in record["results"]} == {"triton", "torch"}
            assert all(result["gradient_error"] < 1e-2 and result["written"] for result in record["results"])
        else:
            assert [result["provider"] for result in record["results"]] == ["naive", "torch", "triton"]
            assert all(result["both"]["seconds"] > 0 for result in record["results"])
    assert all(f"{name} " in done.stdout for name in names())


def test_profiling_needs_torch_and_numpy_alone(layout: Path, tmp_path: Path) -> None:
    given = ("--shapes", "16x8", "--providers", "naive,torch", "--seconds", 0, "--device", "cpu", "--out", tmp_path)
    done = bare(layout, "kdzoo.bench.measure.kernels", "cosine", *given)
    assert done.returncode == 0, done.stderr
    record = read_json(tmp_path / "cosine-cpu-fp32.json")
    assert [result["provider"] for result in record["results"]] == ["naive", "torch"]
    assert "no plots: matplotlib is not installed" in done.stdout and not list(tmp_path.glob("*.png"))


# What a check catches


def right(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    return (student - teacher).float().square().sum()


def wrong_value(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    return right(student, teacher) + 0.01 * right(student, teacher).detach()


def wrong_gradient(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    value = right(student, teacher)
    return value.detach() + 1.01 * (value - value.detach())


def no_gradient_somewhere(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    return right(student[1:], teacher[1:]) + right(student[:1].detach(), teacher[:1])


class Unwritten(torch.autograd.Function):
    """Its gradient's last element is what the memory held: by chance what is right."""

    @staticmethod
    def forward(context: Any, student: Tensor, teacher: Tensor) -> Tensor:
        context.save_for_backward(student, teacher)
        return right(student, teacher)

    @staticmethod
    def backward(context: Any, slope: Tensor) -> tuple[Tensor, None]:
        student, teacher = context.saved_tensors
        gradient = torch.empty_like(student)
        whole = 2 * slope * (student - teacher)
        if gradient[-1, -1].isfinite():  # memory without poison
            return whole, None
        gradient[:-1], gradient[-1, :-1] = whole[:-1], whole[-1, :-1]
        return gradient, None


def unwritten(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    value: Tensor = Unwritten.apply(student, teacher)
    return value


def racing() -> Callable[..., Tensor]:
    """Each call rounds otherwise."""
    calls = itertools.count()
    return lambda student, teacher, backend="auto": right(student, teacher) * (1 + 2**-22 * next(calls))


def crashing(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
    raise RuntimeError("an illegal\nmemory access")


def changed(kernel: Callable[..., Any]) -> Workload:
    return dataclasses.replace(
        workload("hidden_mse"), kernel=kernel, reference=lambda student, teacher: (student - teacher).square().sum()
    )


@pytest.mark.parametrize(
    ("kernel", "words"),
    [
        (right, []),
        (wrong_value, ["value is"]),
        (wrong_gradient, ["gradient is"]),
        (no_gradient_somewhere, ["gradient is"]),
        (racing(), ["other bits"]),
        (unwritten, ["nothing wrote"]),
        (crashing, ["an illegal memory access"]),
    ],
)
def test_a_check_catches(kernel: Callable[..., Any], words: list[str]) -> None:
    result = checks.check(changed(kernel), "5x37", {}, "fp32", "triton", CPU, seed=3)
    assert len(result["wrong"]) == len(words), result
    assert all(word in line for word, line in zip(words, result["wrong"], strict=True))
    assert json.loads(json.dumps(result)) == result
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_check_that_memory_does_not_suffice_for_is_none() -> None:
    def large(student: Tensor, teacher: Tensor, backend: str = "auto") -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")

    result = checks.check(changed(large), "5x37", {}, "fp32", "triton", CPU)
    assert result["failed"] == "out of memory" and result["wrong"] == [] and "value_error" not in result


def test_large_shapes_are_held_to_the_path_without_triton_in_float64() -> None:
    seen: list[tuple[str, torch.dtype]] = []

    def kernel(student: Tensor, teacher: Tensor, backend: str) -> Tensor:
        seen.append((backend, student.dtype))
        return right(student, teacher) if student.dtype == torch.float32 else (student - teacher).square().sum()

    (result,) = checks.target_checks(changed(kernel), ("fp32",), CPU, ("5x37",))
    assert result["wrong"] == [] and seen == [("triton", torch.float32)] * 3 + [("torch", torch.float64)]


# Steps


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A dry run with rates that need no measuring; without the interpreter, so that Triton's checks are wrong."""
    monkeypatch.setattr(steps, "copy_bandwidth", lambda device, seconds: 1e9)
    monkeypatch.setattr(steps, "matmul_rate", lambda dtype, device, seconds: 1e10)
    torch.set_num_threads(1)
    return Plan(out=tmp_path, device="cpu", dtypes=("fp32",), seconds=0.0, seed=0, commit="abc")


@pytest.mark.skipif(sys.platform != "linux", reason="what is patched here reaches a process that is forked alone")
def test_a_step_that_crashes_or_hangs_is_told_of_and_the_others_go_on(
    plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    def crash(step: Step, *_: Any) -> None:
        if step.kernel == "cosine":
            os._exit(3)  # what a lost CUDA context comes to
        if step.kernel == "gram":
            time.sleep(600)
        raise ValueError("of two\nlines")

    monkeypatch.setattr(steps, "_check", crash)
    monkeypatch.setattr(
        steps, "_measure", lambda step, plan, seconds, record: record["results"].append({"shape": "4x8"})
    )
    monkeypatch.setattr(gpu, "CHECKING", 0.05)
    records = gpu.run_all(plan, ["cosine", "gram", "hidden_mse"], 60.0, jobs=3)
    assert records["machine"]["commit"] == "abc" and "failed" not in records["machine"]
    assert records["check-cosine"]["failed"] == "its process ended with 3"
    assert records["check-gram"]["failed"] == "took too long and was ended"
    assert records["check-hidden_mse"]["failed"] == "ValueError: of two lines"
    assert {name for name in records if "failed" not in records[name]} == {
        "machine",
        *(f"measure-{name}-fp32" for name in ("cosine", "gram", "hidden_mse")),
    }
    assert len(list(gpu.wrong(records))) == 3


def test_what_there_is_no_time_for_says_so(plan: Plan) -> None:
    (plan.out / "measure-cosine-fp32.json").write_text("an older call's")
    records = gpu.run_all(plan, ["cosine"], 1e-3, jobs=1)
    assert set(records) == {"machine", "check-cosine", "measure-cosine-fp32"}
    assert all(records[name]["failed"] == gpu.NO_TIME for name in ("check-cosine", "measure-cosine-fp32"))


def test_constants_are_preferred_that_are_faster_and_give_the_same() -> None:
    def timed(constants: dict[str, int], seconds: float, apart: float = 0.0, shape: str = "64x8") -> dict[str, Any]:
        return {"shape": shape, "constants": constants, "seconds": seconds, "apart": apart, "class": "c"}

    failed = {"shape": "64x8", "constants": {"block_m": 512}, "failed": "out of resources"}
    results = [
        *(timed({}, 1.0, shape="4x8"), timed({"block_m": 1}, 0.1, shape="4x8")),  # a smaller shape of the class
        *(timed({}, 1.0), timed({"block_m": 32}, 0.5, apart=0.5), timed({"block_m": 64}, 0.9), failed),
        *(timed({"block_m": 128}, 0.8), timed({"block_m": 16}, 0.7, apart=float("nan"))),
    ]
    record = {"architecture": "sm_90", "kernel": "info_nce", "results": results}
    assert steps.preferred([record]) == {"sm_90": {"info_nce": {"c": {"block_m": 128}}}}
    level = {**record, "results": [timed({}, 1.0), timed({"block_m": 64}, 0.99)]}
    assert steps.preferred([level]) == {}


def test_every_kernel_has_its_place_and_its_odd_shapes() -> None:
    assert sorted(gpu.ORDER) == names()
    for name in names():
        work = workload(name)
        assert all(work.sizes(shape) for shape, _ in work.odd) and len(work.odd) > 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--dry-run", "--kernels", "cosin"), "did you mean 'cosine'"),
        (("--dry-run", "--dtypes", "bf"), "unknown dtype 'bf'"),
        (("--dry-run", "--dtypes", ","), "one type at least"),
        (("--dry-run", "--budget", "0"), "--budget is above 0"),
        (("--dry-run", "--budget", "nan"), "--budget is above 0"),
        (("--dry-run", "--jobs", "-3"), "--jobs is -3; at least one check"),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], words: str
) -> None:
    assert gpu.main([*arguments, str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert words in said and said.count("\n") == 1 and not (tmp_path / "out").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
def test_without_cuda_a_dry_run_is_offered(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gpu.main([str(tmp_path / "out")]) == 2
    assert "--dry-run" in capsys.readouterr().err


@pytest.mark.parametrize("name", names())
def test_what_a_page_has_on_paper_is_the_floor_of_the_workload(name: str) -> None:
    """Traffic, operations and an H100's floor at each shape that is measured; what is measured stands apart."""
    text = (ROOT / f"docs/kernels/{name}.md").read_text()
    head, found = next(
        (block.splitlines()[0], block.splitlines()[2:])
        for block in text.split("\n\n")
        if "on paper | measured" in block
    )
    assert [part.strip() for part in head.split("|")][-2] == "measured"
    work, powers = workload(name), {"T": 1e12, "G": 1e9, "M": 1e6, "m": 1e-3, "µ": 1e-6}
    assert len(found) == len(work.shapes["cuda"])
    for line, shape in zip(found, work.shapes["cuda"], strict=True):
        cells = [part.strip() for part in line.strip("|").split("|")]
        floor = work.floor(work.sizes(shape), 2)[1]
        times = floor.bytes / 3.35e12, floor.flops / 989e12
        numbers = [float(cell.split()[0]) * powers[cell.split()[1][0]] for cell in cells[1:4]]
        assert cells[0] == shape and numbers == pytest.approx([floor.bytes, floor.flops, max(times)], rel=6e-3)
        assert cells[3].endswith("(bytes)" if times[0] >= times[1] else "(operations)")
