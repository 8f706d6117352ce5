"""Every Triton launch of every kernel compiles for the targets without spilling, and takes no more than was recorded.

The launches are those that the case files' ``launches`` make on meta tensors: what they pass to Triton is
noted, and compiled for a GPU that need not be there. The warps that a multiprocessor holds, and the instructions and
barriers of the inner loops, are held against recorded.json, which the following writes anew (minutes)::

    python tests/kernels/test_ahead_of_time.py
"""

from __future__ import annotations

import importlib
import json
import re
import tempfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import battery
import pytest
import torch
from assembly import TARGETS, Target, innermost, resources

from kdzoo.kernels import backend
from kdzoo.kernels.backend import has_triton, interpreting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # some seconds a launch and target, when nothing else runs
    pytest.mark.skipif(interpreting() or not has_triton(), reason="needs triton's compiler"),
]

RECORD = Path(__file__).with_name("recorded.json")
TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@dataclass(frozen=True)
class Launch:
    """What Triton compiles for a call: the arguments' types, those that are constants, those that divide by 16."""

    kernel: Any
    types: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, kernel: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Launch:
        options = {name: named[name] for name in ("num_warps", "num_stages") if name in named}
        given = dict(zip(kernel.arg_names, args, strict=False)) | {n: v for n, v in named.items() if n not in options}
        types, constants, aligned = {}, {}, []
        for parameter in kernel.params:
            name, value = parameter.name, given.get(parameter.name, parameter.default)
            if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
                constants[name], types[name] = value, "constexpr"
            elif isinstance(value, torch.Tensor):
                types[name] = TYPES[value.dtype]
                aligned.append(name)
            elif isinstance(value, float):
                types[name] = "fp32"
            else:
                types[name] = "i32" if abs(value) < 2**31 else "i64"
                aligned += [name] if value % 16 == 0 else []
        parts = (tuple(part.items()) for part in (types, constants, options))
        return cls(kernel, *(next(parts) for _ in range(2)), tuple(aligned), next(parts))

    def __str__(self) -> str:
        return f"{self.kernel.__name__} {dict(self.types)} {dict(self.constants)} {dict(self.options)}"

    @property
    def key(self) -> str:
        """Its name in the record."""
        return f"{self.kernel.__name__} {zlib.crc32(str(self).encode()):08x}"

    def compiled(self, target: Target) -> Any:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        place = self.kernel.arg_names.index
        attributes = {(place(name),): [["tt.divisibility", 16]] for name in self.aligned}
        source = ASTSource(self.kernel, dict(self.types), dict(self.constants), attributes)
        return compile(source, target=GPUTarget(*target.backend), options=dict(self.options))


def launches_of(name: str, target: str) -> list[Launch]:
    """What a kernel's case launches on a target, each once; nothing is run."""
    from triton.runtime.jit import JITFunction

    found: dict[Launch, None] = {}

    def record(self: Any, *args: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        found[Launch.of(self, args, named)] = None

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend, "architecture", lambda: target)
        patch.setattr(backend, "obstacle", lambda tensor: None)
        patch.setattr(JITFunction, "run", record)
        for call in importlib.import_module(f"cases.{name}").launches():
            call()
    assert found, f"{name} launches nothing"
    return list(found)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", battery.NAMES)
def test_compiles_within_what_was_recorded(
    name: str, target: str, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    import triton

    gpu, record = TARGETS[target], json.loads(RECORD.read_text())
    case, recorded = importlib.import_module(f"cases.{name}"), record["kernels"][name][target]
    comparable = record["triton"] == triton.__version__  # another compiler makes other code
    faults = []
    launches = launches_of(name, target)
    for launch in launches:
        used = resources(launch.compiled(gpu), gpu, tmp_path)
        record_property(str(launch), used)
        print(f"{target} {used} {launch}")
        wrong = used["spilt"] or used["shared"] > gpu.program_shared or used["registers"] > gpu.thread_registers
        wrong = wrong or used["barriers"] > getattr(case, "BARRIERS", used["barriers"])
        before = recorded.get(launch.key)
        if wrong or (comparable and not _no_worse(used, before)):
            faults.append(f"{launch.key}: {used}, recorded {before}: {launch}")
    gone = {*recorded} - {launch.key for launch in launches}
    assert not faults, "\n".join(faults)
    assert not gone, f"no longer launched: {gone}; write the record anew"


def _no_worse(used: dict[str, int], before: dict[str, int] | None) -> bool:
    """Whether a launch has the warps, and no more of the rest, that were recorded of it; not so where none were."""
    if before is None or used["resident"] < before["resident"]:
        return False
    return used["barriers"] <= before["barriers"] and used["instructions"] <= before["instructions"]


def test_loops_of_an_assembly() -> None:
    """Two loops, one of which holds the other, and the jump to itself with which code ends."""
    code = """
.L_x_0:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   BAR.SYNC.DEFER_BLOCKING 0x0 ;
        /*0020*/              @!P0 BRA `(.L_x_1) ;
        /*0030*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0040*/                   BRA `(.L_x_2);
"""
    (body,) = innermost(code)
    assert len(body) == 1 and "BAR.SYNC" in body[0]
    (body,) = innermost(".LBB0_1:\n\ts_barrier\n\tv_add_f32_e32 v1, v2, v3\n\ts_cbranch_scc1 .LBB0_1\n\ts_endpgm\n")
    assert [line.split()[0] for line in body] == ["s_barrier", "v_add_f32_e32"]


@pytest.mark.parametrize(
    ("registers", "shared", "warps", "resident"),
    [
        (32, 0, 4, 64),
        (128, 0, 4, 16),
        (255, 0, 8, 8),
        (40, 100 * 1024, 4, 8),
        (33, 0, 1, 32),
        (24, 2048, 2, 64),
        (40, 0, 2, 48),
    ],
)
def test_resident_warps(registers: int, shared: int, warps: int, resident: int) -> None:
    """As NVIDIA's occupancy calculator has it for compute capability 9.0."""
    assert TARGETS["sm_90"].resident(registers, shared, warps) == resident


def _write() -> None:
    """Record what every launch takes."""
    import triton

    kernels: dict[str, dict[str, dict[str, dict[str, int]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in battery.NAMES:
            for target, gpu in TARGETS.items():
                for launch in launches_of(name, target):
                    used = resources(launch.compiled(gpu), gpu, Path(folder))
                    kept = {part: used[part] for part in ("resident", "instructions", "barriers")}
                    kernels.setdefault(name, {}).setdefault(target, {})[launch.key] = kept
    text = json.dumps({"triton": triton.__version__, "kernels": kernels}, indent=1, sort_keys=True)
    # A launch is one line.
    text = re.sub(r"\{\s+(\"barriers[^}]*?)\s+\}", lambda one: "{" + " ".join(one[1].split()) + "}", text)
    RECORD.write_text(f"{text}\n")


if __name__ == "__main__":
    _write()
