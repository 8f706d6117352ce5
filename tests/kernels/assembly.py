"""What a compiled kernel takes of a GPU: registers, spills, shared memory, resident warps, and what its loops do.

The registers are in the binary, the loops in its disassembly. How many warps a multiprocessor holds follows from the
registers and the shared memory (CUDA C++ programming guide, table of compute capabilities; AMD's CDNA 3 instruction set
architecture, section 3).
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Target:
    """A GPU that is compiled for.

    Attributes:
        backend: Triton's name of the maker, the architecture, and the threads of a warp.
        shared: bytes of shared memory that a multiprocessor has; ``program_shared`` those that one program may have,
            and ``reserved`` those that each takes beside its own.
        registers: for each thread of a warp, in each of a multiprocessor's four parts; ``thread_registers`` the most
            that a thread may have.
        warps: the most of a multiprocessor; ``programs`` the most of these.
    """

    backend: tuple[str, int | str, int]
    shared: int
    program_shared: int
    reserved: int
    warps: int
    thread_registers: int
    registers: int = 512
    programs: int = 32

    @property
    def is_hip(self) -> bool:
        return self.backend[0] == "hip"

    def resident(self, registers: int, shared: int, warps: int) -> int:
        """How many warps a multiprocessor holds of a kernel whose programs have some."""
        taken = max(-(-registers // GRANULE), 1) * GRANULE
        fit = min(self.warps, 4 * (self.registers // taken)) // warps
        if shared + self.reserved:
            fit = min(fit, self.shared // (shared + self.reserved))
        return min(fit, self.programs) * warps


KB = 1024
GRANULE = 8  # registers of a thread are handed out in so many
TARGETS = {
    "sm_80": Target(("cuda", 80, 32), 164 * KB, 163 * KB, reserved=KB, warps=64, thread_registers=255),
    "sm_90": Target(("cuda", 90, 32), 228 * KB, 227 * KB, reserved=KB, warps=64, thread_registers=255),
    "gfx942": Target(("hip", "gfx942", 64), 64 * KB, 64 * KB, reserved=0, warps=32, thread_registers=512),
}


def resources(compiled: Any, target: Target, folder: Path) -> dict[str, int]:
    """What a compiled kernel takes.

    Args:
        compiled: as Triton's compiler gives it.
        target: what it was compiled for.
        folder: for a file.

    Returns:
        ``registers`` of a thread, ``spilt`` bytes or registers, ``shared`` bytes, ``resident`` warps of a
        multiprocessor, and of the loops within which there is no other: ``instructions`` of the longest and
        ``barriers`` of the one with most.
    """
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    if target.is_hip:
        code = compiled.asm["amdgcn"]
        found = re.findall(r"\.(\w+_count|\w+_segment_fixed_size):\s*(\d+)", code)
        read = {name: int(number) for name, number in found}
        registers = read["vgpr_count"]
        spilt = read["vgpr_spill_count"] + read["sgpr_spill_count"] + read["private_segment_fixed_size"]
    else:
        binary = folder / "kernel.cubin"
        binary.write_bytes(compiled.asm["cubin"])
        used = re.findall(r"(REG|STACK|LOCAL):(\d+)", _tool("cuobjdump", "-res-usage", binary))
        read = {name: int(number) for name, number in used}
        registers, spilt = read["REG"], read["STACK"] + read["LOCAL"]
        code = _tool("nvdisasm", "-c", binary)
    inner = innermost(code)
    return {
        "registers": registers,
        "spilt": spilt,
        "shared": shared,
        "resident": target.resident(registers, shared, warps),
        "instructions": max((len(body) for body in inner), default=0),
        "barriers": max((sum(map(_waits, body)) for body in inner), default=0),
    }


def _tool(name: str, option: str, binary: Path) -> str:
    import triton

    tool = Path(triton.__file__).parent / "backends/nvidia/bin" / name
    return subprocess.run([tool, option, binary], capture_output=True, text=True, check=True).stdout


def innermost(code: str) -> list[list[str]]:
    """The instructions of each loop of an assembly, of either maker's, within which there is no other loop."""
    lines = code.splitlines()
    label = re.compile(r"(\.L_x_\d+|\.LBB\d+_\d+):")
    jump = re.compile(r"\b(?:BRA|s_c?branch\w*)\b.*?(\.L_x_\d+|\.LBB\d+_\d+)")
    at = {found[1]: number for number, line in enumerate(lines) if (found := label.match(line))}
    jumps = ((number, found[1]) for number, line in enumerate(lines) if (found := jump.search(line)))
    # A jump to itself is how a kernel's code ends.
    loops = [(at[to], number) for number, to in jumps if to in at and at[to] < number - 1]
    inner = [one for one in loops if not any(_within(other, one) for other in loops)]
    return [[line for line in lines[start:end] if _is_instruction(line)] for start, end in inner]


def _within(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one != other and other[0] <= one[0] and one[1] <= other[1]


_instruction: Callable[[str], Any] = re.compile(r"\s+(/\*[0-9a-f]+\*/|[a-z]+_\w+)(?:\s|$)").match


def _is_instruction(line: str) -> bool:
    return _instruction(line) is not None


def _waits(line: str) -> bool:
    """Whether an instruction has all warps of a program wait for each other."""
    return "BAR.SYNC" in line or "s_barrier" in line
