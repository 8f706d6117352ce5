"""Relations with Triton: a program for a tile of queries of one head, which sweeps over the keys; or the reverse."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import dot_precision, power_of_2
from kdzoo.kernels.layout import as_bytes
from kdzoo.kernels.relation.sides import Masks, Pair

WHOLE = 128  # columns up to which rows of half precision are held in registers whole


def _launch(width: int, itemsize: int) -> tuple[int, int, int, int, int, int]:
    """Columns that are read and written at once, a program's rows, those it sweeps over at once, warps, stages."""
    if itemsize == 4:
        return 16, 64, 32, 32, 4, 1
    if width > WHOLE:
        return 64, 64, 64, 32, 4, 1
    return WHOLE, WHOLE, 64, 32, 4 if width <= 64 else 8, 1 if backend.architecture().startswith("gfx") else 2


def _even(side: Pair) -> tuple[Pair, tuple[int, ...]]:
    """A side with columns next to each other and both factors of the same strides, and those of row, head, position."""
    x, y = side
    if x.stride() != y.stride() or x.stride(-1) != 1:
        x, y = (x.contiguous(),) * 2 if x is y else (x.contiguous(), y.contiguous())
    return (x, y), x.stride()[:3]


def sweep(
    student: Pair,
    teacher: Pair,
    masks: Masks,
    kind: str,
    floor: float | None,
    inverse: Tensor,
    gradients: Pair | None,
) -> Tensor:
    """As `blocks.sweep`."""
    from kdzoo.kernels.relation import triton_kernels

    if student[0].dtype == torch.bfloat16 and student[0].device.type == "cpu":
        # The interpreter, which alone runs there, multiplies the bits of bfloat16 as if they were integers.
        student, teacher = ((side[0].float(), side[1].float()) for side in (student, teacher))
    (student, strides_s), (teacher, strides_t) = _even(student), _even(teacher)
    queries, keys, pairs = (as_bytes(None if mask is None else mask.contiguous()) for mask in masks)
    rows, heads, length, width = student[0].shape
    widths = width, teacher[0].shape[-1]
    read, written, block_m, block_n, warps, stages = _launch(max(widths), student[0].element_size())
    wide_s, wide_t = (max(16, power_of_2(each)) for each in widths)
    span = min(written, wide_s)
    programs = rows * heads * -(-length // block_m)
    shape = heads, length, *widths, *(1 / math.sqrt(each) for each in widths), *strides_s, *strides_t
    values = torch.empty(programs, dtype=torch.float32, device=student[0].device)
    logs = None
    options = {
        "HELD": read == WHOLE,
        "PRECISION": dot_precision(),
        "BLOCK_M": block_m,
        "BLOCK_N": block_n,
        "BLOCK_DS": min(read, wide_s),
        "BLOCK_DT": min(read, wide_t),
        "num_warps": warps,
        "num_stages": stages,
    }
    if kind != "mse":
        logs = values.new_empty((rows * heads, length, 2))
        triton_kernels.sums_kernel[(programs,)](
            *student, *teacher, queries, keys, pairs, values, logs, *shape, CROSS=kind == "ce", **options
        )
    alone = gradients is not None and gradients[0] is gradients[1]
    sweeps = [] if gradients is None and logs is not None else [0] if gradients is None or alone else [0, 1]
    for own in sweeps:
        other = 1 - own
        triton_kernels.slopes_kernel[(programs, -(-width // span) if gradients is not None else 1)](
            *(student[own], student[other], teacher[own], teacher[other]),
            *((queries, keys)[own], (queries, keys)[other], pairs, logs, inverse),
            None if gradients is None else gradients[own],
            values if logs is None and own == 0 else None,
            *shape,
            floor,
            BLOCK_DV=span,
            OWN_ASKS=own == 0,
            OTHER_ASKS=own == 1 or alone,
            **options,
        )
    return values.sum()
