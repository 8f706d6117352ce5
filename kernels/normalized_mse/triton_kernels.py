"""Triton code of `normalized_mse`."""

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
    s, t = s * one[:, None], t * other[:, None]
    apart = s - t
    tl.store(value_ptr + tl.program_id(0), tl.sum(apart * apart))
    if gradient_ptr is not None:
        step = 2 * one * tl.load(inverse_ptr)
        # A norm below the clamp is a constant, and bends nothing.
        bend = tl.where(norm > EPSILON, tl.sum(s * t, 1), 1.0)
        slope = (bend[:, None] * s - t) * step[:, None]
        column = tl.arange(0, BLOCK_D)[None, :]
        at = gradient_ptr + row[:, None] * width + column
        tl.store(at, slope.to(gradient_ptr.dtype.element_ty), mask=(row < count)[:, None] & (column < width))
