"""Triton code of `relation`."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import row_mask


@triton.jit
def _tile(vector_ptr, at, mask_m, column, width, stride_position, FINITE: tl.constexpr, BLOCK_D: tl.constexpr):
    """Columns of rows of vectors, zero where these do not count or, FINITE, the numbers are infinite."""
    columns = column + tl.arange(0, BLOCK_D)
    places = vector_ptr + at.to(tl.int64)[:, None] * stride_position + columns[None, :]
    tile = tl.load(places, mask=mask_m[:, None] & (columns < width)[None, :], other=0.0)
    if FINITE:
        tile = tl.where(tl.abs(tile) == float("inf"), 0.0, tile).to(tile.dtype)
    return tile


@triton.jit
def _scores(
    x_ptr,
    y_ptr,
    held,
    at_x,
    at_y,
    mask_x,
    mask_y,
    width,
    scale,
    stride_position,
    FINITE: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The scores of a tile of rows, ``held`` or read part by part, with another tile."""
    if held is not None:
        near = _tile(y_ptr, at_y, mask_y, 0, width, stride_position, FINITE, BLOCK_D)
        total = tl.dot(held, tl.trans(near), input_precision=PRECISION)
    else:
        total = tl.zeros((at_x.shape[0], at_y.shape[0]), tl.float32)
        for column in range(0, width, BLOCK_D):
            one = _tile(x_ptr, at_x, mask_x, column, width, stride_position, FINITE, BLOCK_D)
            two = _tile(y_ptr, at_y, mask_y, column, width, stride_position, FINITE, BLOCK_D)
            total = tl.dot(one, tl.trans(two), total, input_precision=PRECISION)
    return total * scale


@triton.jit
def pair_pointers(ptr, own, other, length, OWN_ASKS: tl.constexpr):
    """Where the pairs of a tile lie in a row's S×S matrix; positions beyond the last have the last one's place.

    A line's offset is 64-bit, as from S = 46,341 on int32 does not hold it; within the line 32 bits are enough, and
    take fewer registers.
    """
    own, other = tl.minimum(own, length - 1), tl.minimum(other, length - 1)
    if OWN_ASKS:
        return (ptr + own.to(tl.int64) * length)[:, None] + other[None, :]
    return (ptr + other.to(tl.int64) * length)[None, :] + own[:, None]


@triton.jit
def _kept(pairs_ptr, own, other, length, OWN_ASKS: tl.constexpr):
    """1 for pairs that count, 0 for others: as numbers, and from everywhere, since AMD has few registers for masks."""
    return tl.load(pair_pointers(pairs_ptr, own, other, length, OWN_ASKS)).to(tl.float32)


@triton.jit
def _probability(score, log):
    """e^score over its row's sum; at most 1, which zeros in the place of scores that do not count might exceed."""
    return tl.exp(tl.minimum(score - log, 0.0, propagate_nan=tl.PropagateNan.ALL))


@triton.jit
def sums_kernel(
    x_s_ptr,
    y_s_ptr,
    x_t_ptr,
    y_t_ptr,
    query_mask_ptr,
    key_mask_ptr,
    pairs_ptr,
    value_ptr,
    log_ptr,
    heads,
    length,
    width_s,
    width_t,
    scale_s,
    scale_t,
    stride_s_row,
    stride_s_head,
    stride_s_position,
    stride_t_row,
    stride_t_head,
    stride_t_position,
    CROSS: tl.constexpr,
    HELD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_DS: tl.constexpr,
    BLOCK_DT: tl.constexpr,
):
    """The divergences of a tile's queries, and the logarithms of both sides' Σ e^score."""
    tiles = tl.cdiv(length, BLOCK_M)
    slot = (tl.program_id(0) // tiles).to(tl.int64)
    query = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    row, head = slot // heads, slot % heads
    x_s_ptr += row * stride_s_row + head * stride_s_head
    y_s_ptr += row * stride_s_row + head * stride_s_head
    x_t_ptr += row * stride_t_row + head * stride_t_head
    y_t_ptr += row * stride_t_row + head * stride_t_head
    if key_mask_ptr is not None:
        query_mask_ptr += row * length
        key_mask_ptr += row * length
    mask_m = row_mask(query_mask_ptr, query, length, 1)
    held_s, held_t = None, None
    if HELD:
        held_s = _tile(x_s_ptr, query, mask_m, 0, width_s, stride_s_position, False, BLOCK_DS)
        held_t = _tile(x_t_ptr, query, mask_m, 0, width_t, stride_t_position, True, BLOCK_DT)
    most_s = tl.full((BLOCK_M,), -1e30, tl.float32)
    most_t = tl.full((BLOCK_M,), -1e30, tl.float32)
    sum_s = tl.zeros((BLOCK_M,), tl.float32)
    sum_t = tl.zeros((BLOCK_M,), tl.float32)
    gaps = tl.zeros((BLOCK_M,), tl.float32)
    for start in range(0, length, BLOCK_N):
        key = start + tl.arange(0, BLOCK_N)
        mask_n = row_mask(key_mask_ptr, key, length, 1)
        s = _scores(
            x_s_ptr,
            y_s_ptr,
            held_s,
            query,
            key,
            mask_m,
            mask_n,
            width_s,
            scale_s,
            stride_s_position,
            False,
            PRECISION,
            BLOCK_DS,
        )
        t = _scores(
            x_t_ptr,
            y_t_ptr,
            held_t,
            query,
            key,
            mask_m,
            mask_n,
            width_t,
            scale_t,
            stride_t_position,
            True,
            PRECISION,
            BLOCK_DT,
        )
        # What a row gathers before its first key that counts, that key's factor e^(-1e30 - m) = 0 takes out again.
        bias = tl.where(mask_n, 0.0, -1e30)[None, :]
        if pairs_ptr is not None:
            bias += _kept(pairs_ptr + row * length * length, query, key, length, True) * 1e30 - 1e30
        s += bias
        t += bias
        higher_s = tl.maximum(most_s, tl.max(s, 1))
        higher_t = tl.maximum(most_t, tl.max(t, 1))
        # Scores count from the highest so far, so that nothing of its size is lost to rounding.
        s -= higher_s[:, None]
        t -= higher_t[:, None]
        shrink = tl.exp(most_t - higher_t)
        weights = tl.exp(t)
        rise = higher_s - most_s
        if not CROSS:
            rise -= higher_t - most_t
        gaps = gaps * shrink + sum_t * shrink * rise + tl.sum(weights * (-s if CROSS else t - s), 1)
        sum_s = sum_s * tl.exp(most_s - higher_s) + tl.sum(tl.exp(s), 1)
        sum_t = sum_t * shrink + tl.sum(weights, 1)
        most_s, most_t = higher_s, higher_t
    log_s = tl.log(sum_s)
    log_t = tl.log(sum_t)
    divergence = gaps / sum_t + (log_s if CROSS else log_s - log_t)
    tl.store(value_ptr + tl.program_id(0), tl.sum(tl.where(mask_m, divergence, 0.0), 0))
    at = log_ptr + (slot * length + query) * 2
    tl.store(at, most_s + log_s, mask=query < length)
    tl.store(at + 1, most_t + log_t, mask=query < length)


@triton.jit
def slopes_kernel(
    own_s_ptr,
    other_s_ptr,
    own_t_ptr,
    other_t_ptr,
    own_mask_ptr,
    other_mask_ptr,
    pairs_ptr,
    log_ptr,
    inverse_ptr,
    gradient_ptr,
    value_ptr,
    heads,
    length,
    width_s,
    width_t,
    scale_s,
    scale_t,
    stride_s_row,
    stride_s_head,
    stride_s_position,
    stride_t_row,
    stride_t_head,
    stride_t_position,
    floor,
    BLOCK_DV: tl.constexpr,
    OWN_ASKS: tl.constexpr,
    OTHER_ASKS: tl.constexpr,
    HELD: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_DS: tl.constexpr,
    BLOCK_DT: tl.constexpr,
):
    """The gradient at a tile of one factor, by a sweep over the other; and the squared differences of its rows.

    The own rows are the queries, or the keys, or with OWN_ASKS and OTHER_ASKS both, where the factors are the same.
    """
    tiles = tl.cdiv(length, BLOCK_M)
    slot = (tl.program_id(0) // tiles).to(tl.int64)
    at_own = tl.program_id(0) % tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tl.program_id(1) * BLOCK_DV
    row, head = slot // heads, slot % heads
    own_s_ptr += row * stride_s_row + head * stride_s_head
    other_s_ptr += row * stride_s_row + head * stride_s_head
    own_t_ptr += row * stride_t_row + head * stride_t_head
    other_t_ptr += row * stride_t_row + head * stride_t_head
    if own_mask_ptr is not None:
        own_mask_ptr += row * length
        other_mask_ptr += row * length
    mask_m = row_mask(own_mask_ptr, at_own, length, 1)
    held_s, held_t = None, None
    if HELD:
        held_s = _tile(own_s_ptr, at_own, mask_m, 0, width_s, stride_s_position, False, BLOCK_DS)
        held_t = _tile(own_t_ptr, at_own, mask_m, 0, width_t, stride_t_position, True, BLOCK_DT)
    if log_ptr is not None:
        log_ptr += slot * length * 2
        log_s = tl.load(log_ptr + at_own * 2, mask=mask_m, other=0.0)
        log_t = tl.load(log_ptr + at_own * 2 + 1, mask=mask_m, other=0.0)
    value = tl.zeros((BLOCK_M,), tl.float32)
    total = tl.zeros((BLOCK_M, BLOCK_DV), tl.float32)
    for start in range(0, length, BLOCK_N):
        at_other = start + tl.arange(0, BLOCK_N)
        mask_n = row_mask(other_mask_ptr, at_other, length, 1)
        s = _scores(
            own_s_ptr,
            other_s_ptr,
            held_s,
            at_own,
            at_other,
            mask_m,
            mask_n,
            width_s,
            scale_s,
            stride_s_position,
            False,
            PRECISION,
            BLOCK_DS,
        )
        t = _scores(
            own_t_ptr,
            other_t_ptr,
            held_t,
            at_own,
            at_other,
            mask_m,
            mask_n,
            width_t,
            scale_t,
            stride_t_position,
            True,
            PRECISION,
            BLOCK_DT,
        )
        if log_ptr is not None:
            slope = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
            if OWN_ASKS:
                slope += _probability(s, log_s[:, None]) - _probability(t, log_t[:, None])
            if OTHER_ASKS:
                their_s = tl.load(log_ptr + at_other * 2, mask=mask_n, other=0.0)
                their_t = tl.load(log_ptr + at_other * 2 + 1, mask=mask_n, other=0.0)
                slope += _probability(s, their_s[None, :]) - _probability(t, their_t[None, :])
        elif floor is not None:
            slope = tl.where(s <= floor, 0.0, s) - tl.where(t <= floor, 0.0, t)
        else:
            slope = s - t
        if pairs_ptr is not None:
            slope *= _kept(pairs_ptr + row * length * length, at_own, at_other, length, OWN_ASKS)
        if log_ptr is None:
            value += tl.sum(slope * slope, 1)
            if floor is not None:
                slope = tl.where(s <= floor, 0.0, slope)
            if own_s_ptr.dtype.element_ty == tl.float16:
                slope = tl.minimum(tl.maximum(slope, -65504.0), 65504.0)
        if gradient_ptr is not None:
            near = _tile(other_s_ptr, at_other, mask_n, column, width_s, stride_s_position, False, BLOCK_DV)
            total = tl.dot(slope.to(near.dtype), near, total, input_precision=PRECISION)
    if gradient_ptr is not None:
        factor = tl.load(inverse_ptr) * scale_s
        if log_ptr is None:
            factor *= 4 if OWN_ASKS and OTHER_ASKS else 2
        columns = column + tl.arange(0, BLOCK_DV)
        at = gradient_ptr + (slot * length + at_own)[:, None] * width_s + columns[None, :]
        inside = (at_own < length)[:, None] & (columns < width_s)[None, :]
        total = tl.where(mask_m[:, None], total * factor, 0.0)
        tl.store(at, total.to(gradient_ptr.dtype.element_ty), mask=inside)
    if value_ptr is not None and tl.program_id(1) == 0:
        tl.store(value_ptr + tl.program_id(0), tl.sum(value, 0))
