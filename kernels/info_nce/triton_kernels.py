"""Triton code of `info_nce`: the pass over the keys. What comes before and after is in ``triton_parts.py``.

Vectors are read where they lie, (B, M, S, D) of any strides; what belongs to a row is kept by slot, (slots, rows).
Inverse norms are negative where a vector does not count, and 0 where its norm is zero or infinite: neither is read.
"""

import triton
import triton.language as tl

from kdzoo.kernels.info_nce.triton_parts import sigmoid, softplus, write_gradient


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
    positive_ptr,
    pull_ptr,
    count_ptr,
    log_ptr,
    along_ptr,
    slope_ptr,
    loss_ptr,
    gradient_ptr,
    tiles,
    slots,
    splits,
    positions,
    rows,
    number,
    start,
    width,
    written,
    rate,
    stride_a_row,
    stride_a_layer,
    stride_a_position,
    stride_k_row,
    stride_k_layer,
    stride_k_position,
    stride_g_row,
    stride_g_layer,
    stride_g_position,
    stride_i_slot,
    LOG2E: tl.constexpr,
    EPSILON: tl.constexpr,
    HELD: tl.constexpr,
    HALVES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """A tile of rows against a part of the keys, tile by tile, in logarithms of base two.

    The slopes of a tile's rows may be shared out to several programs by columns, which all find the same scores. Where
    the keys are in one part the gradient is written at once; otherwise, of each part, the log-sum-exps, the mean keys
    and, of rows that are not HELD whole, their products with the anchors of length one. With ``sum_ptr`` the
    log-sum-exps of the anchors, and perhaps of the keys, are known and weigh the keys, which are only added up.
    """
    program = tl.program_id(0)
    slot, split = (program // tiles % slots).to(tl.int64), program // tiles // slots
    layer, position = slot // positions, slot % positions
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row = program % tiles % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    out = program % tiles // row_tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    column = tl.arange(0, BLOCK_K)
    at_row = slot * rows + row
    own = tl.load(anchor_inverse_ptr + at_row, mask=row < rows, other=-1.0)
    factor = own * rate * LOG2E
    real = (own > 0)[:, None]
    from_anchor = anchor_ptr + layer * stride_a_layer + position * stride_a_position + row.to(tl.int64) * stride_a_row
    key_ptr += layer * stride_k_layer + position * stride_k_position
    key_inverse_ptr += slot * stride_i_slot
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    along = tl.zeros((BLOCK_M,), tl.float32)
    slope = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    if HELD:
        anchor = tl.load(from_anchor[:, None] + column[None, :], mask=real & (column < width)[None, :], other=0.0)
    if sum_ptr is not None:
        known = tl.load(sum_ptr + at_row, mask=row < rows, other=0.0) * LOG2E
    key_tiles = tl.cdiv(number, BLOCK_N)
    share = tl.cdiv(key_tiles, splits)
    first = split * share
    for tile in range(first, tl.minimum(first + share, key_tiles)):
        key = tile * BLOCK_N + tl.arange(0, BLOCK_N)
        from_key = key_ptr + key.to(tl.int64) * stride_k_row
        inverse = tl.load(key_inverse_ptr + key, mask=key < number, other=-1.0)
        there = (inverse > 0)[:, None]
        product = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
        if HELD:
            vector = tl.load(from_key[:, None] + column[None, :], mask=there & (column < width)[None, :], other=0.0)
            product = _score(anchor, vector, product, HALVES, PRECISION)
        else:
            for piece in range(0, width, BLOCK_K):
                at = piece + column
                inside = (at < width)[None, :]
                left = tl.load(from_anchor[:, None] + at[None, :], mask=real & inside, other=0.0)
                right = tl.load(from_key[:, None] + at[None, :], mask=there & inside, other=0.0)
                product = _score(left, right, product, HALVES, PRECISION)
        score = product * factor[:, None] * inverse[None, :] + tl.where(inverse < 0, float("-inf"), 0.0)[None, :]
        # The own key comes in at the end.
        score = tl.where(key[None, :] == row[:, None] + start, float("-inf"), score)
        if sum_ptr is not None:
            weight = tl.exp2(score - known[:, None])
            if opposite_ptr is not None:
                others = tl.load(opposite_ptr + slot * number + key, mask=key < number, other=0.0) * LOG2E
                weight += tl.exp2(score - others[None, :])
        else:
            highest = tl.maximum(top, tl.max(score, 1))
            fall = tl.exp2(top - highest)
            weight = tl.exp2(score - highest[:, None])
            total = total * fall + tl.sum(weight, 1)
            top = highest
            if gradient_ptr is not None or slope_ptr is not None:
                slope = slope * fall[:, None]
                along = along * fall
        if gradient_ptr is not None or slope_ptr is not None:
            if not HELD:
                vector = tl.load(from_key[:, None] + out[None, :], mask=there & (out < width)[None, :], other=0.0)
            weight = weight * inverse[None, :]
            if HALVES:
                # Bfloat16 has room for any norm, float16 has not.
                weight = weight.to(tl.bfloat16)
            if not HELD:
                # With weights as they are added up, and not as they were meant: the two are subtracted.
                along += tl.sum(weight.to(tl.float32) * product, 1)
            if HALVES:
                slope = tl.dot(weight, vector.to(tl.bfloat16), slope)
            else:
                slope = tl.dot(weight, vector.to(tl.float32), slope, input_precision=PRECISION)
    own = tl.load(anchor_inverse_ptr + at_row, mask=row < rows, other=-1.0)  # again, rather than held all the time
    along = along * own
    inside, to = row < rows, split.to(tl.int64) * slots * rows + at_row
    if sum_ptr is None:
        found = (top + tl.log2(total)) / LOG2E
        rest = tl.where(total == 0, 0.0, 1 / total)
        if gradient_ptr is None:
            tl.store(log_ptr + to, found, mask=inside)
    if slope_ptr is not None:
        if sum_ptr is None:
            slope, along = slope * rest[:, None], along * rest
        if along_ptr is not None:
            tl.store(along_ptr + to, along, mask=inside)
        tl.store(slope_ptr + to[:, None] * width + out[None, :], slope, mask=inside[:, None] & (out < width)[None, :])
    if gradient_ptr is not None:
        positive = tl.load(positive_ptr + at_row, mask=inside, other=0.0)
        if sum_ptr is None:
            gap = found - positive
            tl.store(loss_ptr + at_row, tl.where(own < 0, 0.0, softplus(gap)), mask=inside)
            pull = sigmoid(gap)
            slope, along, pull = slope * (pull * rest)[:, None], along * pull * rest, -pull
        else:
            pull = tl.load(pull_ptr + at_row, mask=inside, other=0.0)
        own_inverse = tl.load(key_inverse_ptr + start + row, mask=inside, other=-1.0)
        to_row = gradient_ptr + layer * stride_g_layer + position * stride_g_position
        write_gradient(
            slope,
            along,
            pull,
            positive,
            own,
            own_inverse,
            from_anchor,
            key_ptr + (row.to(tl.int64) + start) * stride_k_row,
            to_row + row.to(tl.int64) * stride_g_row,
            out,
            inside,
            width,
            written,
            rate,
            count_ptr,
            HELD,
            EPSILON,
        )
