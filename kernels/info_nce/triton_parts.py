"""Triton code of `info_nce` around the pass over the keys: norms before it, and what joins its parts after it."""

import triton
import triton.language as tl

from kdzoo.kernels.tiles import locate_rows


@triton.jit
def _inverse_norm(squares, there, EPSILON: tl.constexpr):
    norm = tl.sqrt(squares)
    inverse = tl.where((norm == 0) | (norm == float("inf")), 0.0, 1 / tl.maximum(norm, EPSILON))
    # A NaN stays what it is.
    return tl.where(there, tl.where(norm != norm, norm, inverse), -1.0)


@triton.jit
def norms_kernel(
    key_ptr,
    anchor_ptr,
    mask_ptr,
    inverse_ptr,
    anchor_inverse_ptr,
    positive_ptr,
    count,
    layers,
    positions,
    number,
    rows,
    start,
    width,
    rate,
    stride_k_row,
    stride_k_layer,
    stride_k_position,
    stride_a_row,
    stride_a_layer,
    stride_a_position,
    stride_m_row,
    stride_m_position,
    EPSILON: tl.constexpr,
    NARROW: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Inverse norms of keys and, of the anchors that have theirs among them, inverse norms and scores with these."""
    line, mask, batch, layer, position = locate_rows(
        mask_ptr, count, layers, positions, stride_m_row, stride_m_position, NARROW, BLOCK_M
    )
    slot, own = layer * positions + position, batch - start
    paired = mask & (own >= 0) & (own < rows)
    from_key = key_ptr + batch * stride_k_row + layer * stride_k_layer + position * stride_k_position
    squares = tl.zeros((BLOCK_M,), tl.float32)
    if anchor_ptr is not None:
        from_anchor = anchor_ptr + own * stride_a_row + layer * stride_a_layer + position * stride_a_position
        anchor_squares = tl.zeros((BLOCK_M,), tl.float32)
        product = tl.zeros((BLOCK_M,), tl.float32)
    for piece in range(0, width, BLOCK_D):
        column = piece + tl.arange(0, BLOCK_D)
        inside = (column < width)[None, :]
        key = tl.load(from_key[:, None] + column[None, :], mask=mask[:, None] & inside, other=0.0).to(tl.float32)
        squares += tl.sum(key * key, 1)
        if anchor_ptr is not None:
            at = from_anchor[:, None] + column[None, :]
            anchor = tl.load(at, mask=paired[:, None] & inside, other=0.0).to(tl.float32)
            anchor_squares += tl.sum(anchor * anchor, 1)
            product += tl.sum(anchor * key, 1)
    inverse = _inverse_norm(squares, mask, EPSILON)
    tl.store(inverse_ptr + slot * number + batch, inverse, mask=line < count)
    if anchor_ptr is not None:
        there = (line < count) & (own >= 0) & (own < rows)
        anchor_inverse = _inverse_norm(anchor_squares, mask, EPSILON)
        tl.store(anchor_inverse_ptr + slot * rows + own, anchor_inverse, mask=there)
        # Of an infinite vector the product is none.
        none = (inverse <= 0) | (anchor_inverse <= 0)
        score = tl.where(none, 0.0, product * inverse * anchor_inverse * rate)
        tl.store(positive_ptr + slot * rows + own, score, mask=there)


@triton.jit
def softplus(gap):
    """log(1 + e^gap), with all digits of a small one."""
    small = tl.exp(-tl.abs(gap))
    # The quotient undoes what the sum has rounded.
    more = 1 + small
    rest = tl.where(more == 1, small, tl.log(more) * small / tl.where(more == 1, 1.0, more - 1))
    return tl.maximum(gap, 0.0) + rest


@triton.jit
def sigmoid(gap):
    """1 / (1 + e^-gap), with all digits of a small one."""
    small = tl.exp(-tl.abs(gap))
    return tl.where(gap > 0, 1.0, small) / (1 + small)


@triton.jit
def _own_share(loss):
    """e^-loss - 1, with all digits of a small one."""
    series = loss * (1 - loss / 2 * (1 - loss / 3 * (1 - loss / 4 * (1 - loss / 5))))
    return tl.where(loss < 0.1, -series, tl.exp(-loss) - 1)


@triton.jit
def write_gradient(
    slope,
    along,
    pull,
    positive,
    anchor_inverse,
    key_inverse,
    anchor_ptr,
    key_ptr,
    gradient_ptr,
    column,
    there,
    width,
    written,
    rate,
    count_ptr,
    WHOLE: tl.constexpr,
    EPSILON: tl.constexpr,
):
    """The gradient from what the other keys, weighted, add up to, and from the own key.

    ``along`` is the slope's product with the anchor of length one, found here of rows that are WHOLE; pointers are
    those of rows, ``there`` says which there are, and ``rate`` is 1 / τ.
    """
    scale = anchor_inverse * rate
    if count_ptr is not None:
        scale = scale / tl.load(count_ptr)
    inside = (column < width)[None, :]
    anchor = tl.load(anchor_ptr[:, None] + column[None, :], mask=(anchor_inverse > 0)[:, None] & inside, other=0.0)
    anchor = anchor.to(tl.float32)
    if WHOLE:
        along = tl.sum(slope * anchor, 1) * anchor_inverse
    # A norm below the clamp is a constant, and bends nothing.
    bend = tl.where(anchor_inverse < 1 / EPSILON, along + pull * positive / rate, 0.0) * anchor_inverse * scale
    slope = slope * scale[:, None] - bend[:, None] * anchor
    # One after the other: there are no registers for both.
    tl.debug_barrier()
    key = tl.load(key_ptr[:, None] + column[None, :], mask=(key_inverse > 0)[:, None] & inside, other=0.0)
    slope += (tl.where(key_inverse > 0, pull * key_inverse, 0.0) * scale)[:, None] * key.to(tl.float32)
    # A vector of no length, or that does not count, has no gradient; a NaN stays one.
    slope = tl.where((anchor_inverse <= 0)[:, None], 0.0, slope)
    at = gradient_ptr[:, None] + column[None, :]
    tl.store(at, slope.to(gradient_ptr.dtype.element_ty), mask=there[:, None] & (column < written)[None, :])


@triton.jit
def losses_kernel(
    log_ptr,
    positive_ptr,
    inverse_ptr,
    other_ptr,
    sum_ptr,
    pull_ptr,
    loss_ptr,
    parts,
    lines,
    BLOCK_M: tl.constexpr,
):
    """Of anchors their losses, log-sum-exps and what their own keys weigh, from the parts' log-sum-exps.

    ``other_ptr`` has the losses of the other side, which are added.
    """
    line = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    mask = line < lines
    top = tl.full((BLOCK_M,), -1e30, tl.float32)
    total = tl.zeros((BLOCK_M,), tl.float32)
    for _ in range(parts):
        found = tl.load(log_ptr + line, mask=mask, other=0.0)
        highest = tl.maximum(top, found)
        total = total * tl.exp(top - highest) + tl.exp(found - highest)
        top = highest
        log_ptr += lines
    positive = tl.load(positive_ptr + line, mask=mask, other=0.0)
    gap = top + tl.log(total) - positive
    loss, pull = softplus(gap), -sigmoid(gap)
    tl.store(sum_ptr + line, positive + loss, mask=mask)
    if other_ptr is not None:
        other = tl.load(other_ptr + line, mask=mask, other=0.0)
        loss, pull = loss + other, pull + _own_share(other)
    if pull_ptr is not None:
        tl.store(pull_ptr + line, pull, mask=mask)
    inverse = tl.load(inverse_ptr + line, mask=mask, other=0.0)
    tl.store(loss_ptr + line, tl.where(inverse < 0, 0.0, loss), mask=mask)


@triton.jit
def join_kernel(
    log_ptr,
    sum_ptr,
    along_ptr,
    slope_ptr,
    pull_ptr,
    positive_ptr,
    anchor_ptr,
    anchor_inverse_ptr,
    key_ptr,
    key_inverse_ptr,
    gradient_ptr,
    count_ptr,
    parts,
    tiles,
    positions,
    lines,
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
    EPSILON: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """The gradient from what `attend_kernel` found of each part: means of the parts' keys or, without logs, sums."""
    program = tl.program_id(0)
    slot = (program // tiles).to(tl.int64)
    layer, position = slot // positions, slot % positions
    row_tiles = tl.cdiv(rows, BLOCK_M)
    row = (program % tiles % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)).to(tl.int64)
    column = program % tiles // row_tiles * BLOCK_D + tl.arange(0, BLOCK_D)
    mask, line = row < rows, slot * rows + row
    slope = tl.zeros((BLOCK_M, BLOCK_D), tl.float32)
    along = tl.zeros((BLOCK_M,), tl.float32)
    if log_ptr is not None:
        known = tl.load(sum_ptr + line, mask=mask, other=0.0)
    at, inside = line[:, None] * width + column[None, :], mask[:, None] & (column < width)[None, :]
    for _ in range(parts):
        found = tl.load(slope_ptr + at, mask=inside, other=0.0)
        share = tl.full((BLOCK_M,), 1.0, tl.float32)
        if log_ptr is not None:
            share = tl.exp(tl.load(log_ptr + line, mask=mask, other=0.0) - known)
            log_ptr += lines
        slope += found * share[:, None]
        slope_ptr += lines * width
        if along_ptr is not None:
            along += tl.load(along_ptr + line, mask=mask, other=0.0) * share
            along_ptr += lines
    from_anchor = anchor_ptr + layer * stride_a_layer + position * stride_a_position
    from_key = key_ptr + layer * stride_k_layer + position * stride_k_position
    to_row = gradient_ptr + layer * stride_g_layer + position * stride_g_position
    write_gradient(
        slope,
        along,
        tl.load(pull_ptr + line, mask=mask, other=0.0),
        tl.load(positive_ptr + line, mask=mask, other=0.0),
        tl.load(anchor_inverse_ptr + line, mask=mask, other=-1.0),
        tl.load(key_inverse_ptr + slot * number + start + row, mask=mask, other=-1.0),
        from_anchor + row * stride_a_row,
        from_key + (row + start) * stride_k_row,
        to_row + row * stride_g_row,
        column,
        mask,
        width,
        written,
        rate,
        count_ptr,
        along_ptr is None,
        EPSILON,
    )
