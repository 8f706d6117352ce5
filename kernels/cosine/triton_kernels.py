"""Triton code of `cosine`."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import load_unit, locate_rows


@triton.jit
def rows_kernel(
    student_ptr,
    teacher_ptr,
    mask_ptr,
    inverse_ptr,
    value_ptr,
    gradient_ptr,
    count,
    layers,
    positions,
    width,
    stride_s_row,
    stride_s_layer,
    stride_s_position,
    stride_s_column,
    stride_t_row,
    stride_t_layer,
    stride_t_position,
    stride_t_column,
    stride_m_row,
    stride_m_position,
    EPSILON: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Value and gradient of a tile of rows."""
    row, mask, batch, layer, position = locate_rows(
        mask_ptr, count, layers, positions, stride_m_row, stride_m_position, NARROW, BLOCK_M
    )
    s_start = batch * stride_s_row + layer * stride_s_layer + position * stride_s_position
    t_start = batch * stride_t_row + layer * stride_t_layer + position * stride_t_position
    s, norm, one = load_unit(student_ptr, s_start, mask, width, stride_s_column, EPSILON, BLOCK_D)
    t, _, other = load_unit(teacher_ptr, t_start, mask, width, stride_t_column, EPSILON, BLOCK_D)
    cosine = tl.sum(s * t, 1) * one * other
    tl.store(value_ptr + tl.program_id(0), tl.sum(tl.where(mask, 1 - cosine, 0.0), 0))
    if gradient_ptr is not None:
        step = one * tl.load(inverse_ptr)
        # A norm below the clamp is a constant, and bends nothing.
        bend = tl.where(norm > EPSILON, cosine * one, 0.0) * step
        slope = bend[:, None] * s - (step * other)[:, None] * t
        column = tl.arange(0, BLOCK_D)[None, :]
        at = gradient_ptr + row[:, None] * width + column
        tl.store(at, slope.to(gradient_ptr.dtype.element_ty), mask=(row < count)[:, None] & (column < width))
