"""Every Triton launch of every kernel compiles for the targets without spilling, within their shared memory.

Where a case says how many barriers a loop may have, they are counted in the assembly.

The launches are those that the case files' ``launches`` make on meta tensors: what they pass to Triton is
recorded, and compiled for a GPU that need not be there. Registers and spills are read from the binaries.
"""

from __future__ import annotations

import importlib
import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import battery
import pytest
import torch

from kdzoo.kernels import backend
from kdzoo.kernels.backend import has_triton, interpreting

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # some seconds a launch and target, when nothing else runs
    pytest.mark.skipif(interpreting() or not has_triton(), reason="needs triton's compiler"),
]

# (backend, architecture, threads of a warp), bytes of shared memory that one program may have, registers of a thread
TARGETS = {
    "sm_80": (("cuda", 80, 32), 163 * 1024, 255),
    "sm_90": (("cuda", 90, 32), 227 * 1024, 255),
    "gfx942": (("hip", "gfx942", 64), 64 * 1024, 512),
}
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

    def compiled(self, target: tuple[Any, ...]) -> Any:
        from triton.backends.compiler import GPUTarget
        from triton.compiler import ASTSource, compile

        place = self.kernel.arg_names.index
        attributes = {(place(name),): [["tt.divisibility", 16]] for name in self.aligned}
        source = ASTSource(self.kernel, dict(self.types), dict(self.constants), attributes)
        return compile(source, target=GPUTarget(*target), options=dict(self.options))


def launches_of(calls: Callable[[], Any], monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """What the calls launch, each once; nothing is run."""
    from triton.runtime.jit import JITFunction

    found: dict[Launch, None] = {}

    def record(self: Any, *args: Any, grid: Any, warmup: bool = False, **named: Any) -> None:
        found[Launch.of(self, args, named)] = None

    monkeypatch.setattr(JITFunction, "run", record)
    monkeypatch.setattr(backend, "_obstacle", lambda tensor: None)
    for call in calls():
        call()
    return list(found)


def barriers(code: str) -> int:
    """The most times that a loop of the assembly, of either maker's, has all warps wait for each other."""
    lines = code.splitlines()
    at, most = {}, 0
    for number, line in enumerate(lines):
        if label := re.match(r"(\$L__BB\d+_\d+|\.LBB\d+_\d+):", line):
            at[label[1]] = number
        jump = re.search(r"\bs?_?c?bra(?:nch)?\S*\s+(\$L__BB\d+_\d+|\.LBB\d+_\d+)", line)
        if jump and jump[1] in at:  # backwards
            body = lines[at[jump[1]] : number]
            most = max(most, sum("bar.sync" in line or "s_barrier" in line for line in body))
    return most


def resources(compiled: Any, platform: str, folder: Path) -> dict[str, int]:
    """Registers of a thread, bytes or registers spilt, and bytes of shared memory, out of the binary."""
    if platform == "hip":
        text = compiled.asm["amdgcn"]
        found = re.findall(r"\.(\w+_count|\w+_segment_fixed_size):\s*(\d+)", text)
        read = {name: int(number) for name, number in found}
        spilt = read["vgpr_spill_count"] + read["sgpr_spill_count"] + read["private_segment_fixed_size"]
        return {"registers": read["vgpr_count"], "spilt": spilt, "shared": compiled.metadata.shared}
    import triton

    binary = folder / "kernel.cubin"
    binary.write_bytes(compiled.asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    text = subprocess.run([tool, "-res-usage", binary], capture_output=True, text=True, check=True).stdout
    read = {name: int(number) for name, number in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", text)}
    return {"registers": read["REG"], "spilt": read["STACK"] + read["LOCAL"], "shared": compiled.metadata.shared}


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("name", battery.NAMES)
def test_compiles_without_spilling(
    name: str, target: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    where, shared, registers = TARGETS[target]
    monkeypatch.setattr(backend, "architecture", lambda: target)
    case = importlib.import_module(f"cases.{name}")
    launches = launches_of(case.launches, monkeypatch)
    assert launches, f"{name} launches nothing"
    assembly = "amdgcn" if where[0] == "hip" else "ptx"
    faults = []
    for launch in launches:
        compiled = launch.compiled(where)
        used = resources(compiled, where[0], tmp_path) | {"barriers": barriers(compiled.asm[assembly])}
        record_property(str(launch), used)
        print(f"{target} {used} {launch}")
        waits = used["barriers"] > getattr(case, "BARRIERS", used["barriers"])
        if used["spilt"] or used["shared"] > shared or used["registers"] > registers or waits:
            faults.append(f"{launch}: {used}")
    assert not faults, "\n".join(faults)
