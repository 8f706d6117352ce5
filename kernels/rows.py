"""What the kernels over rows share: a value of each row of student and teacher, averaged, with its gradient.

A kernel gives what it makes of a block of rows on the CPU and of a tile of them with Triton. Here are the checks, the
walk over blocks that stay in the cache, the launch, and the registered operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels import backend, operators
from kdzoo.kernels.backend import (
    EPSILON,
    Decision,
    KernelError,
    accumulator,
    block_elements,
    check_kind,
    check_mask,
    choose,
    direct,
    plain,
    power_of_2,
)
from kdzoo.kernels.layout import SHAPES, as_bytes, by_row, counted, divisor, four_axes, spread
from kdzoo.kernels.operators import gradient_room

BLOCK = 131072  # elements of a block that the CPU keeps in its cache, for each thread
MAX_WIDTH = 16384  # where a row is held in registers whole

# (student rows, teacher rows, buffers of their shape, where the gradient goes or None, what it is times of, *options)
# to a value of each row. The first two buffers may hold the rows, and the gradient's memory may be the last.
Block = Callable[..., Tensor]


class Buffers:
    """Four buffers of a block's shape, each made when it is first asked for: memory that comes and goes with every
    block costs more than the work on it."""

    def __init__(self, rows: int, width: int, like: Tensor, dtype: torch.dtype) -> None:
        self.rows = self.length = rows
        self.width, self.like, self.dtype = width, like, dtype
        self.made: list[Tensor | None] = [None] * 4

    def __getitem__(self, place: int) -> Tensor:
        buffer = self.made[place]
        if buffer is None:
            buffer = self.made[place] = self.like.new_empty((self.rows, self.width), dtype=self.dtype)
        return buffer if self.length == self.rows else buffer[: self.length]

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.__getitem__, range(len(self.made)))


def check(
    kernel: str, student: Tensor, teacher: Tensor, mask: Tensor | None, count: Tensor | None
) -> tuple[Tensor, Tensor | None, Tensor | int]:
    """The checked inputs of a kernel: the teacher without gradient, the mask as booleans, the number of rows counted.

    That of all rows is a plain number on a CPU where nothing follows what is done, and otherwise a tensor.

    Raises:
        KernelError: for shapes, types or devices that do not go together.
    """
    check_kind(kernel, student=student, teacher=teacher)
    shape = student.shape
    if shape != teacher.shape or not 2 <= len(shape) <= 4:
        raise KernelError(
            f"{kernel}: student {tuple(shape)} and teacher {tuple(teacher.shape)} must have one shape, {SHAPES}"
        )
    if teacher.requires_grad:
        teacher = teacher.detach()
    if mask is None and count is None and backend.values_at_hand(student):
        return teacher, None, max(math.prod(shape[:-1]), 1)
    mask = check_mask(kernel, mask, student)
    return teacher, mask, divisor(student, mask, count)


def _alike(student: Tensor, teacher: Tensor) -> bool:
    shape, dtype = student.shape, student.dtype
    go_together = shape == teacher.shape and dtype == teacher.dtype and student.device == teacher.device
    return go_together and 2 <= len(shape) <= 4 and dtype.is_floating_point


def prepared(student: Tensor, teacher: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """For a reference: both sides in the type that sums are taken in and zero where masked, and which rows count."""
    dtype, real = accumulator(student.dtype), spread(mask, student)
    if real is None:
        return student.to(dtype), teacher.to(dtype), None
    padding = ~real.unsqueeze(-1)
    return student.to(dtype).masked_fill(padding, 0.0), teacher.to(dtype).masked_fill(padding, 0.0), real


def total(values: Tensor, real: Tensor | None) -> Tensor:
    """For a reference: the sum of the values of the rows that count."""
    return (values if real is None else torch.where(real, values, 0.0)).sum()


# The operator


class Operator:
    """``kdzoo::<kernel>``: the mean of a value over rows, and its gradient at the student."""

    def __init__(
        self,
        kernel: str,
        options: str,
        block: Block,
        triton_sweep: Callable[..., Tensor],
        *,
        widest: int | None = None,
        room: float = 1.0,
        of_entries: bool = False,
        whole: Callable[..., tuple[Tensor, Tensor] | None] | None = None,
        simple: Callable[..., Tensor | None] | None = None,
        few: int = 0,
    ) -> None:
        """
        Args:
            kernel: its name.
            options: the schema of what it takes beyond what all of them take, such as ``"float temperature"``.
            block: what it makes of rows on the CPU.
            triton_sweep: the same by Triton: (student, teacher, mask, inverse, gradient, *options) to the sum of the
                values, with the gradient times ``inverse`` written where it is not None.
            widest: the widest row that the Triton form holds.
            room: what a float16 gradient is written times of, where its entries would be too small for the type.
            of_entries: the mean is over the entries of the rows.
            whole: (student, teacher, what the gradient is times of) to the sum of the values of rows (N, D) on a CPU
                and their gradient, at once and without blocks; or None where it is not to be had so.
            simple: (student, teacher, *options) to the mean of all rows on a CPU, by autograd, in so few steps that
                it takes less than a backward pass of our own; or None where it is not to be had so.
            few: elements under which that is faster.
        """
        self.kernel, self.block, self.triton_sweep = kernel, block, triton_sweep
        self.widest, self.room, self.of_entries = widest, room, of_entries
        self.whole, self.simple, self.few = whole, simple, few
        arguments = "Tensor student, Tensor teacher, Tensor? mask, Tensor count, bool with_gradient, str backend"
        arguments = f"{arguments}{', ' if options else ''}{options}"
        self.operator = operators.Operator(kernel, self.run, arguments, wanted=4, count=3, room=room)

    def __call__(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        count: Tensor | None,
        backend: str,
        *options: Any,
    ) -> Tensor:
        """The mean.

        Raises:
            KernelError: for inputs that do not go together, or a backend that is not there.
        """
        here, shape = direct(student, backend), student.shape
        number: Tensor | int
        if not (here and mask is None and count is None and _alike(student, teacher)):
            teacher, mask, number = check(self.kernel, student, teacher, mask, count)
        else:  # what `check` finds, in a few steps
            number = max(math.prod(shape[:-1]), 1)
            if teacher.requires_grad:
                teacher = teacher.detach()
        if here and backend == "auto" and 0 < student.numel() < self.few and not isinstance(number, Tensor):
            assert self.simple is not None
            value = self.simple(student, teacher, *options)
            if value is not None:
                return value
        if self.of_entries:
            number = number * max(shape[-1], 1)
        with_gradient = student.requires_grad and torch.is_grad_enabled()
        if here:
            return self.operator.direct(student, teacher, mask, number, with_gradient, "torch", *options)
        if not isinstance(number, Tensor):
            number = torch.full((), number, dtype=accumulator(student.dtype), device=student.device)
        return self.operator(student, teacher, mask, number, with_gradient, backend, *options)

    def plain(self, student: Tensor, backend: str = "auto") -> bool:
        """Whether the reference is to be called in place of the operator."""
        return plain(self.kernel, student, backend)

    def decision(self, student: Tensor, backend: str = "auto") -> Decision:
        """The backend for a student, and why."""
        if self.plain(student, backend):
            return Decision("torch", "inside torch.compile or torch.func the plain formula is what can be followed")
        return self._choose(student, backend)

    def _choose(self, student: Tensor, backend: str) -> Decision:
        width = student.shape[-1]
        unfit = f"a width of {width} is above {self.widest}" if width > (self.widest or width) else None
        return choose(self.kernel, student, backend, unfit)

    def run(
        self,
        student: Tensor,
        teacher: Tensor,
        mask: Tensor | None,
        count: Tensor | float,
        with_gradient: bool,
        backend: str,
        *options: Any,
    ) -> tuple[Tensor, Tensor]:
        """What the operator does: the mean, and its gradient where that is wanted."""
        plainly = with_gradient and not isinstance(count, Tensor) and student.dtype == accumulator(student.dtype)
        if self.whole is not None and plainly and student.numel():
            sides = (side if side.dim() == 2 else side.flatten(0, -2) for side in (student, teacher))
            found = self.whole(*sides, 1 / count)
            if found is not None:
                return found[0] / count, found[1].view(student.shape)
        gradient = gradient_room(student, with_gradient)
        fused = backend != "torch" and self._choose(student, backend).triton and student.numel() > 0
        # Float16 has no room for the quotients by a large number: there the backward pass divides.
        inverse: Tensor | float = self.room
        if student.dtype != torch.float16:
            inverse = count.reciprocal() if isinstance(count, Tensor) else 1 / count
        elif isinstance(count, Tensor):
            inverse = torch.full_like(count, self.room)
        written = gradient if with_gradient else None
        if not fused:
            value = _torch_sweep(self.block, student, teacher, mask, inverse, written, *options)
        else:
            with torch.cuda.device_of(student):
                value = self.triton_sweep(student, teacher, mask, inverse, written, *options)
        return value / count, gradient


# Without Triton: block by block, so that all but the first reading of a block comes from the cache


def _torch_sweep(
    block: Block,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    inverse: Tensor | float,
    gradient: Tensor | None,
    *options: Any,
) -> Tensor:
    dtype, shape = accumulator(student.dtype), student.shape
    width = shape[-1]
    size = max(1, block_elements(student.device, BLOCK) // max(width, 1))
    number = shape[0] if len(shape) == 2 else math.prod(shape[:-1])
    buffers = Buffers(min(size, number), width, student, dtype)
    if mask is None and number <= size and student.dtype == dtype:
        if len(shape) > 2:
            student, teacher = student.flatten(0, -2), teacher.flatten(0, -2)
            gradient = None if gradient is None else gradient.flatten(0, -2)
        return block(student, teacher, buffers, gradient, inverse, *options).sum()
    real = counted(mask, student)
    student, teacher = by_row(student), by_row(teacher)
    written = None if gradient is None else by_row(gradient)
    value = torch.zeros((), dtype=dtype, device=student.device)
    rows, slots, width = student.shape
    cpu = backend.on_host(student.device)
    for part in _parts(rows, slots, size):
        here = None if real is None else real[part].flatten()
        # Rows that do not count are left out on a CPU; elsewhere they are zeros, as asking how many count takes time.
        index = here.nonzero().squeeze(1) if here is not None and cpu else None
        zeroed = None if here is None or cpu else ~here
        s, t = (side[part].flatten(0, 1) for side in (student, teacher))
        buffers.length = len(s) if index is None else len(index)
        s, t = _fetch(s, index, buffers, 0), _fetch(t, index, buffers, 1)
        if zeroed is not None:
            s, t = (side.masked_fill(zeroed.unsqueeze(-1), 0.0) for side in (s, t))
        # Of contiguous memory, a view.
        target = None if written is None else written[part].flatten(0, 1)
        direct = target is None or (index is None and target.dtype == dtype)
        slope = target if direct else buffers[3]
        values = block(s, t, buffers, slope, inverse, *options)
        if zeroed is not None:
            values = values.masked_fill(zeroed, 0.0)
            if slope is not None:
                slope.masked_fill_(zeroed.unsqueeze(-1), 0.0)
        value += values.sum()
        if direct or target is None or slope is None:
            continue
        if index is not None:
            target.zero_()
            target.index_copy_(0, index, slope.to(target.dtype))
        else:
            target.copy_(slope)
    return value


def _parts(rows: int, slots: int, size: int) -> Iterator[tuple[slice, slice]]:
    """Parts of (rows, slots) of at most ``size``: some slots of one row, or all slots of some rows."""
    across = max(1, min(slots, size))
    down = max(1, size // across)
    for row in range(0, rows, down):
        for slot in range(0, slots, across):
            yield slice(row, row + down), slice(slot, slot + across)


def _fetch(part: Tensor, index: Tensor | None, buffers: Buffers, place: int) -> Tensor:
    """The rows of a part that count, in the buffers' type; in one of them where they are not there as they are."""
    if index is None:
        return part if part.dtype == buffers.dtype else buffers[place].copy_(part)
    if part.dtype == buffers.dtype:
        return torch.index_select(part, 0, index, out=buffers[place])
    return buffers[place].copy_(part.index_select(0, index))


def unit_block(vectors: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Vectors, their norms and the norms' inverses; all zero where a norm is infinite.

    The norms are None where a look has told that none is zero, infinite or below the clamp; off the CPU such a look
    would wait for the device.
    """
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    if norm.numel() and backend.on_host(vectors.device):
        least, most = torch.aminmax(norm)
        if least.item() > EPSILON and most.item() < math.inf:
            return vectors, None, norm.reciprocal_()
    endless = norm == torch.inf
    vectors, norm = vectors.masked_fill(endless, 0.0), norm.masked_fill(endless, 0.0)
    return vectors, norm, norm.clamp_min(EPSILON).reciprocal().masked_fill_(norm == 0, 0.0)


# With Triton: one program for a tile of rows


def unit_tiling(student: Tensor) -> tuple[int, int, int]:
    """Rows of a tile, their width and warps, for a kernel that holds whole rows."""
    block_d = power_of_2(student.shape[-1])
    block_m = min(power_of_2(student.numel() // student.shape[-1]), max(1, 4096 // block_d), 16)
    return block_m, block_d, min(16, max(1, block_m * block_d // 512))


def tiling(student: Tensor, most: int, per_warp: int) -> tuple[int, int, int]:
    """The same for a kernel that goes through a row in parts.

    Args:
        student: (..., D).
        most: numbers of a tile.
        per_warp: numbers of a warp.
    """
    width = student.shape[-1]
    block_d = min(power_of_2(width), most)
    block_m = min(power_of_2(student.numel() // width), max(1, most // block_d), 64)
    return block_m, block_d, max(1, block_m * block_d // per_warp)


def launch(
    program: Any,
    student: Tensor,
    teacher: Tensor,
    mask: Tensor | None,
    inverse: Tensor,
    gradient: Tensor | None,
    *options: float,
    tile: tuple[int, int, int],
    **constants: Any,
) -> Tensor:
    """Launch a kernel's Triton program over all rows, and add up the values.

    Args:
        program: it takes the parameters that are given below, in their order.
        student, teacher, mask, inverse, gradient: what a sweep is given.
        options: numbers that the program takes after the strides.
        tile: rows of a tile, their width, and warps.
        constants: further constants of the program.
    """
    s, t = four_axes(student), four_axes(teacher)
    rows, layers, positions, width = s.shape
    count = rows * layers * positions
    block_m, block_d, warps = tile
    programs = -(-count // block_m)
    values = torch.empty(programs, dtype=torch.float32, device=s.device)
    program[(programs,)](
        s,
        t,
        as_bytes(mask),
        inverse,
        values,
        gradient,
        count,
        layers,
        positions,
        width,
        *s.stride(),
        *t.stride(),
        *((0, 0) if mask is None else mask.stride()),
        *options,
        NARROW=programs * block_m < 2**31,
        BLOCK_M=block_m,
        BLOCK_D=block_d,
        num_warps=warps,
        **constants,
    )
    return values.sum()
