"""Triton code of `info_nce`."""

import triton
import triton.language as tl


@triton.jit
def _score(left, right, score, HALVES: tl.constexpr, PRECISION: tl.constexpr):
    if not HALVES:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, tl.trans(right), score, input_precision=PRECISION)


@triton.jit
def attend_kernel(
    anchor_ptr,
    anchor_inverse_ptr,
    key_ptr,
    key_inverse_ptr,
    sum_ptr,
    opposite_ptr,
    log_ptr,
    slope_ptr,
    tiles,
    slots,
    splits,
    rows,
    number,
    start,
    width,
    columns,
    stride_slot,
    scale,
    LOG2E: tl.constexpr,
    HELD: tl.constexpr,
    HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of rows against a part of the keys, tile by tile, in logarithms of base two.

    The slopes of a tile's rows may be shared out to several programs by columns, which all find the same scores. A key
    whose inverse norm is negative does not count.
    """
    program = tl.program_id(0)
    slot, split = (program // tiles % slots).to(tl.int64), program // tiles // slots
    row_tiles = rows // BLOCK_M
    row = program % tiles % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    out = program % tiles // row_tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    column = tl.arange(0, BLOCK_K)
    factor = tl.load(anchor_inverse_ptr + slot * rows + row) * scale
    from_row = anchor_ptr + (slot * rows + row)[:, None] * columns
    key_ptr += slot * stride_slot * columns
    key_inverse_ptr += slot * stride_slot
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    slope = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if HELD:
        anchor = tl.load(from_row + column[None, :])
    if sum_ptr is not None:
        known = tl.load(sum_ptr + slot * rows + row) * LOG2E
    key_tiles = number // BLOCK_N
    share = tl.cdiv(key_tiles, splits)
    first = split * share
    for tile in range(first, tl.minimum(first + share, key_tiles)):
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        from_key = key_ptr + key.to(tl.int64)[:, None] * columns
        score = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if HELD:
            vector = tl.load(from_key + column[None, :])
            score = _score(anchor, vector, score, HALVES, PRECISION)
        else:
            for piece in range(0, width, BLOCK_K):
                left = tl.load(from_row + (piece + column)[None, :])
                right = tl.load(from_key + (piece + column)[None, :])
                score = _score(left, right, score, HALVES, PRECISION)
        inverse = tl.load(key_inverse_ptr + key)
        score = score * factor[:, None] * inverse[None, :] + tl.where(inverse < 0, float("-inf"), 0.0)[None, :]
        # The own key comes in at the end.
        score = tl.where(key[None, :] == row[:, None] + start, float("-inf"), score)
        if sum_ptr is not None:
            weight = tl.exp2(score - known[:, None])
            if opposite_ptr is not None:
                weight += tl.exp2(score - (tl.load(opposite_ptr + slot * number + key) * LOG2E)[None, :])
        else:
            highest = tl.maximum(top, tl.max(score, 1))
            fall = tl.exp2(top - highest)
            weight = tl.exp2(score - highest[:, None])
            total = total * fall + tl.sum(weight, 1)
            top = highest
            slope = slope * fall[:, None]
        if slope_ptr is not None:
            if not HELD:
                vector = tl.load(from_key + out[None, :])
            weight = weight * inverse[None, :]
            # Bfloat16 has room for any norm, float16 has not.
            if HALVES:
                slope = tl.dot(weight.to(tl.bfloat16), vector.to(tl.bfloat16), slope)
            else:
                slope = tl.dot(weight, vector.to(tl.float32), slope, input_precision=PRECISION)
    to = (split.to(tl.int64) * slots + slot) * rows + row
    if sum_ptr is None:
        tl.store(log_ptr + to, (top + tl.log2(total)) / LOG2E)
        slope = slope / tl.where(total == 0, 1.0, total)[:, None]
    if slope_ptr is not None:
        tl.store(slope_ptr + to[:, None] * columns + out[None, :], slope)
