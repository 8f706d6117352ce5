"""Triton code of `hidden_mse`."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import locate_rows


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
    NARROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Value and gradient of a tile of rows."""
    row, mask, batch, layer, position = locate_rows(
        mask_ptr, count, layers, positions, stride_m_row, stride_m_position, NARROW, BLOCK_M
    )
    student_ptr += (batch * stride_s_row + layer * stride_s_layer + position * stride_s_position)[:, None]
    teacher_ptr += (batch * stride_t_row + layer * stride_t_layer + position * stride_t_position)[:, None]
    scale = 2 * tl.load(inverse_ptr)
    value = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    for tile in range(tl.cdiv(width, BLOCK_D)):
        column = (tile * BLOCK_D + tl.arange(0, BLOCK_D)).to(tl.int64)[None, :]
        read = mask[:, None] & (column < width)
        s = tl.load(student_ptr + column * stride_s_column, mask=read, other=0.0).to(tl.float32)
        t = tl.load(teacher_ptr + column * stride_t_column, mask=read, other=0.0).to(tl.float32)
        apart = s - t
        value += apart * apart
        if gradient_ptr is not None:
            inside = (row < count)[:, None] & (column < width)
            at = gradient_ptr + row[:, None] * width + column
            tl.store(at, (apart * scale).to(gradient_ptr.dtype.element_ty), mask=inside)
    tl.store(value_ptr + tl.program_id(0), tl.sum(value))
