"""Triton code of `cos_nce`; a program has a slot, or a part of its rows."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import load_unit, row_mask


@triton.jit
def _sum_tiles(
    vector_ptr,
    mask_ptr,
    first,
    last,
    rows,
    width,
    stride_row,
    stride_column,
    stride_m_row,
    EPSILON: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The sum of the unit vectors of tiles of rows, and how many they are; the vectors are soon read again."""
    total = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)  # added up over its rows once, at the end
    count = tl.zeros((BLOCK_M,), tl.float32)
    for tile in tl.range(first, last, num_stages=STAGES):
        row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = row_mask(mask_ptr, row, rows, stride_m_row)
        vector, _, inverse = load_unit(
            vector_ptr, row.to(tl.int64) * stride_row, mask, width, stride_column, EPSILON, BLOCK_D, "evict_last"
        )
        total += vector * inverse[:, None]
        count += mask.to(tl.float32)
    return tl.sum(total, 0), tl.sum(count, 0)


@triton.jit
def totals_kernel(
    vector_ptr,
    mask_ptr,
    total_ptr,
    count_ptr,
    first_slot,
    rows,
    layers,
    positions,
    width,
    stride_v_outer,
    stride_v_row,
    stride_v_layer,
    stride_v_position,
    stride_v_column,
    stride_m_row,
    stride_m_position,
    EPSILON: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The sum of the unit vectors of a part of a slot's rows, and how many they are."""
    slot, split = first_slot + tl.program_id(0).to(tl.int64), tl.program_id(1)
    outer, layer, position = slot // (layers * positions), slot // positions % layers, slot % positions
    vector_ptr += outer * stride_v_outer + layer * stride_v_layer + position * stride_v_position
    if mask_ptr is not None:
        mask_ptr += position * stride_m_position
    tiles = tl.cdiv(rows, BLOCK_M)
    share = tl.cdiv(tiles, tl.num_programs(1))
    first, last = split * share, tl.minimum(split * share + share, tiles)
    summed, count = _sum_tiles(
        vector_ptr,
        mask_ptr,
        first,
        last,
        rows,
        width,
        stride_v_row,
        stride_v_column,
        stride_m_row,
        EPSILON,
        STAGES,
        BLOCK_M,
        BLOCK_D,
    )
    column = tl.arange(0, BLOCK_D)
    at = split.to(tl.int64) * tl.num_programs(0) + tl.program_id(0)
    tl.store(total_ptr + at * width + column, summed, mask=column < width)
    tl.store(count_ptr + at, count)


@triton.jit
def values_kernel(
    student_ptr,
    teacher_ptr,
    mask_ptr,
    towards_ptr,
    count_ptr,
    scale_ptr,
    value_ptr,
    gradient_ptr,
    first_slot,
    slots,
    parts,
    rows,
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
    stride_w_row,
    stride_w_layer,
    stride_w_position,
    stride_g_row,
    stride_g_layer,
    stride_g_position,
    EPSILON: tl.constexpr,
    PER_ROW: tl.constexpr,
    STAGES: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Value and gradient of a part of a slot's rows, from the slot's total, which may be in parts, or from what is
    found of it here; or, PER_ROW, from each row's mean negative."""
    slot, split = first_slot + tl.program_id(0).to(tl.int64), tl.program_id(1)
    layer, position = slot // positions, slot % positions
    student_ptr += layer * stride_s_layer + position * stride_s_position
    teacher_ptr += layer * stride_t_layer + position * stride_t_position
    if mask_ptr is not None:
        mask_ptr += position * stride_m_position
    tiles = tl.cdiv(rows, BLOCK_M)
    share = tl.cdiv(tiles, tl.num_programs(1))
    first, last = split * share, tl.minimum(split * share + share, tiles)
    column = tl.arange(0, BLOCK_D)
    repel, attract = 0.5, 1.5
    if not PER_ROW:
        if towards_ptr is None:
            total, count = _sum_tiles(
                teacher_ptr,
                mask_ptr,
                0,
                tiles,
                rows,
                width,
                stride_t_row,
                stride_t_column,
                stride_m_row,
                EPSILON,
                STAGES,
                BLOCK_M,
                BLOCK_D,
            )
        else:
            total, count = tl.zeros((BLOCK_D,), tl.float32), 0.0
            for part in range(parts):
                at = part * tl.num_programs(0).to(tl.int64) + tl.program_id(0)
                total += tl.load(towards_ptr + at * width + column, mask=column < width, other=0.0)
                count += tl.load(count_ptr + at)
        repel = tl.where(count > 1, 0.5 / tl.maximum(count - 1, 1), 0.0)
        attract = 1.5 + repel  # the own vector is in the total, and no negative
        direction = total[None, :]
    scale = tl.load(scale_ptr)
    value = tl.zeros((BLOCK_M,), tl.float32)
    for back in tl.range(first, last, num_stages=STAGES):
        row = (first + last - 1 - back) * BLOCK_M + tl.arange(0, BLOCK_M)
        mask = row_mask(mask_ptr, row, rows, stride_m_row)
        inside = mask[:, None] & (column < width)[None, :]
        s, norm, one = load_unit(
            student_ptr, row.to(tl.int64) * stride_s_row, mask, width, stride_s_column, EPSILON, BLOCK_D, "evict_first"
        )
        t, _, other = load_unit(
            teacher_ptr, row.to(tl.int64) * stride_t_row, mask, width, stride_t_column, EPSILON, BLOCK_D, "evict_first"
        )
        if PER_ROW:
            at = towards_ptr + layer * stride_w_layer + position * stride_w_position
            at += row.to(tl.int64)[:, None] * stride_w_row
            direction = tl.load(at + column[None, :], mask=inside, other=0.0)
        pull = repel * tl.sum(s * direction, 1) * one - attract * tl.sum(s * t, 1) * one * other
        value += tl.where(mask, pull + 2, 0.0)
        if gradient_ptr is not None:
            step = one * scale
            # A norm below the clamp is a constant, and bends nothing.
            bend = tl.where(norm > EPSILON, pull * one, 0.0) * step
            slope = (repel * step)[:, None] * direction - (attract * step * other)[:, None] * t - bend[:, None] * s
            slope = tl.where(mask[:, None], slope, 0.0)
            at = gradient_ptr + layer * stride_g_layer + position * stride_g_position
            at += row.to(tl.int64)[:, None] * stride_g_row
            written = (row < rows)[:, None] & (column < width)[None, :]
            slope = slope.to(gradient_ptr.dtype.element_ty)
            # Out of the way of the teacher's rows, which are to stay in the L2 cache until they are read again.
            tl.store(at + column[None, :], slope, mask=written, eviction_policy="evict_first")
    tl.store(value_ptr + split.to(tl.int64) * slots + slot, tl.sum(value, 0))
