"""Triton code of `divergence`."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import locate_rows


@triton.jit
def _logits(pointer, start, mask, column, width, stride_column, LIMIT: tl.constexpr):
    """A tile of logits; what lies outside is so low that it has no probability."""
    at = pointer + start[:, None] + column.to(tl.int64)[None, :] * stride_column
    inside = mask[:, None] & (column < width)[None, :]
    tile = tl.load(at, mask=inside, other=0.0).to(tl.float32)
    # With comparisons, which a NaN passes through.
    tile = tl.where(tile > LIMIT, LIMIT, tl.where(tile < -LIMIT, -LIMIT, tile))
    return tl.where(inside, tile, -2 * LIMIT)


@triton.jit
def _grow(tile, top, total, inverse_temperature):
    """The running maxima and sums of exponentials after one more tile, by lane; what the older sums shrink by, and the
    tile's exponentials.

    Maxima are of logits, and the temperature divides what is below them: large logits keep their digits. Each lane has
    its own, so that no lane waits for another. Of the two factors one is 1, so that one exponential does.
    """
    step = (tile - top) * inverse_temperature
    less = tl.exp(-tl.abs(step))
    higher = step > 0
    shrink, weight = tl.where(higher, less, 1.0), tl.where(higher, 1.0, less)
    return tl.where(higher, tile, top), total * shrink + weight, shrink, weight


@triton.jit
def _gathered(top, total, inverse_temperature):
    """The maximum and the sum of a row out of its lanes', and by what a lane's sum shrinks."""
    highest = tl.max(top, 1)
    shrink = tl.exp((top - highest[:, None]) * inverse_temperature)
    return highest, tl.sum(total * shrink, 1), shrink


@triton.jit
def _terms(log_s, log_t, mixture, KIND: tl.constexpr, MIXED: tl.constexpr, TINY: tl.constexpr):
    """Of each class what it adds to the value, the gradient at log s, and s."""
    s, t = tl.exp(log_s), tl.exp(log_t)
    if KIND == "tvd":
        value = tl.abs(t - s) * 0.5
        slope = tl.where(s > t, 0.5, tl.where(s < t, -0.5, 0.0)) * s
    elif KIND == "jsd":
        m = tl.maximum(s + mixture * (t - s), TINY)
        slope = (1 - mixture) * s * tl.log(tl.maximum(s / m, TINY))
        value = mixture * t * tl.log(tl.maximum(t / m, TINY)) + slope
    else:
        first, log_first, second, log_second = t, log_t, s, log_s
        if KIND == "reverse_kl":
            first, log_first, second, log_second = s, log_s, t, log_t
        ratio = log_first - log_second
        if MIXED:
            second = tl.maximum(second + mixture * (first - second), TINY)
            ratio = tl.log(tl.maximum(first / second, TINY))
            log_second = tl.log(second)
        # Both sum to one, so that their difference adds 0; with it, an error in the sums does not enter the value.
        value = first * ratio + (second - first)
        if KIND == "cross_entropy":
            value = -first * log_second
        # The ones add up to a multiple of s, which the centring takes away; with them, equal sides have slopes of zero.
        if KIND == "reverse_kl":
            slope = s * (ratio + mixture * (1 - first / second)) if MIXED else s * ratio
        else:
            slope = (1 - mixture) * s * (1 - first / second) if MIXED else s - t
    return value, slope, s


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
    mixture,
    inverse_temperature,
    KIND: tl.constexpr,
    MIXED: tl.constexpr,
    LIMIT: tl.constexpr,
    TINY: tl.constexpr,
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
    tiles = tl.cdiv(width, BLOCK_D)
    # What is summed up is summed by lane, and over the lanes once a row: no tile waits for all of them.
    nothing = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    lowest = nothing - 2 * LIMIT
    s_top, t_top, s_sum, t_sum, along = lowest, lowest, nothing, nothing, nothing
    for tile in range(tiles):
        column = tile * BLOCK_D + tl.arange(0, BLOCK_D)
        s = _logits(student_ptr, s_start, mask, column, width, stride_s_column, LIMIT)
        t = _logits(teacher_ptr, t_start, mask, column, width, stride_t_column, LIMIT)
        s_before, t_before, sum_before = s_top, t_top, s_sum
        s_top, s_sum, shrink, weight = _grow(s, s_top, s_sum, inverse_temperature)
        t_top, t_sum, _, _ = _grow(t, t_top, t_sum, inverse_temperature)
        if KIND == "reverse_kl" and not MIXED:
            # Of what lies below the maxima, as they are by now: large logits keep their digits here, too.
            moved = ((s_before - s_top) - (t_before - t_top)) * inverse_temperature
            along = (along + sum_before * moved) * shrink + weight * (((s - s_top) - (t - t_top)) * inverse_temperature)
    s_highest, s_total, shrink = _gathered(s_top, s_sum, inverse_temperature)
    t_highest, t_total, _ = _gathered(t_top, t_sum, inverse_temperature)
    s_log, t_log = tl.log(s_total), tl.log(t_total)
    # What the gradient at log s adds up to over the classes: known before the second sweep, or found in one between.
    centre = tl.zeros((BLOCK_M,), tl.float32)
    if KIND == "reverse_kl" and not MIXED:
        moved = ((s_top - s_highest[:, None]) - (t_top - t_highest[:, None])) * inverse_temperature
        centre = tl.sum((along + s_sum * moved) * shrink, 1) / s_total - (s_log - t_log)
    BETWEEN: tl.constexpr = MIXED or KIND == "tvd"
    value = nothing
    if BETWEEN:
        slopes = nothing
        # Backwards, and forwards in the next: what was read last is still in the cache.
        for back in range(tiles):
            column = (tiles - 1 - back) * BLOCK_D + tl.arange(0, BLOCK_D)
            s = _logits(student_ptr, s_start, mask, column, width, stride_s_column, LIMIT)
            t = _logits(teacher_ptr, t_start, mask, column, width, stride_t_column, LIMIT)
            log_s = (s - s_highest[:, None]) * inverse_temperature - s_log[:, None]
            log_t = (t - t_highest[:, None]) * inverse_temperature - t_log[:, None]
            added, slope, _ = _terms(log_s, log_t, mixture, KIND, MIXED, TINY)
            value += added
            slopes += slope
        centre, total = tl.sum(slopes, 1), tl.sum(value, 1)
    if gradient_ptr is not None or not BETWEEN:
        scale = tl.load(inverse_ptr) * inverse_temperature
        for turn in range(tiles):
            tile = turn if BETWEEN else tiles - 1 - turn
            column = tile * BLOCK_D + tl.arange(0, BLOCK_D)
            s = _logits(student_ptr, s_start, mask, column, width, stride_s_column, LIMIT)
            t = _logits(teacher_ptr, t_start, mask, column, width, stride_t_column, LIMIT)
            log_s = (s - s_highest[:, None]) * inverse_temperature - s_log[:, None]
            log_t = (t - t_highest[:, None]) * inverse_temperature - t_log[:, None]
            added, slope, s = _terms(log_s, log_t, mixture, KIND, MIXED, TINY)
            if not BETWEEN:
                value += added
            if gradient_ptr is not None:
                slope = tl.where(mask[:, None], (slope - s * centre[:, None]) * scale, 0.0)
                at = gradient_ptr + row[:, None] * width + column[None, :]
                inside = (row < count)[:, None] & (column < width)[None, :]
                tl.store(at, slope.to(gradient_ptr.dtype.element_ty), mask=inside)
    if not BETWEEN:
        total = tl.sum(value, 1)
    tl.store(value_ptr + tl.program_id(0), tl.sum(tl.where(mask, total, 0.0), 0))
