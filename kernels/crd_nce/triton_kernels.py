"""Triton code of `crd_nce`."""

import triton
import triton.language as tl


@triton.jit
def score_kernel(
    anchor_ptr,
    bank_ptr,
    id_ptr,
    shift_ptr,
    value_ptr,
    slope_ptr,
    drawn,
    width,
    rate,
    SUMS: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """An anchor against a part of its negatives, each of which is read once."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    column = tl.arange(0, BLOCK_D)
    mask_d = column < width
    anchor = tl.load(anchor_ptr + row * width + column, mask=mask_d, other=0.0).to(tl.float32)
    shift = tl.load(shift_ptr)
    share = tl.cdiv(tl.cdiv(drawn, tl.num_programs(1)), BLOCK_N) * BLOCK_N
    first, last = part * share, tl.minimum(part * share + share, drawn)
    if SUMS:
        # Known, it takes no scores.
        last = tl.where(shift > 0, 0, last)
    value = tl.zeros((BLOCK_N,), tl.float32)
    slope = tl.zeros((BLOCK_N, BLOCK_D), tl.float32)
    for start in range(first, last, BLOCK_N):
        negative = start + tl.arange(0, BLOCK_N)
        mask = negative < last
        chosen = tl.load(id_ptr + row * drawn + negative, mask=mask, other=0).to(tl.int64)
        at = bank_ptr + chosen[:, None] * width + column[None, :]
        vector = tl.load(at, mask=mask[:, None] & mask_d[None, :], other=0.0).to(tl.float32)
        score = tl.sum(vector * anchor[None, :], 1) * rate
        if SUMS:
            value += tl.where(mask, tl.exp(score), 0.0)
        else:
            odds = score - shift
            # log(1 + e) loses the digits of a small e.
            small = tl.exp(-tl.abs(odds))
            rest = tl.where(small < 1e-3, small - 0.5 * small * small, tl.log(1 + small))
            value += tl.where(mask, tl.maximum(odds, 0.0) + rest, 0.0)
            if slope_ptr is not None:
                # What is not real is a vector of zeros.
                slope += vector / (1 + tl.exp(-odds))[:, None]
    to = part.to(tl.int64) * tl.num_programs(0) + row
    tl.store(value_ptr + to, tl.sum(value, 0))
    if slope_ptr is not None:
        tl.store(slope_ptr + to * width + column, tl.sum(slope, 0), mask=mask_d)


@triton.jit
def update_kernel(bank_ptr, new_ptr, id_ptr, rows, width, momentum, BLOCK_D: tl.constexpr):
    """One row of a bank, by the last of the batch's rows that has its id."""
    row, column = tl.program_id(0), tl.arange(0, BLOCK_D)
    own = tl.load(id_ptr + row).to(tl.int64)
    later = tl.zeros((128,), tl.int32)
    for start in range(row + 1, rows, 128):
        other = start + tl.arange(0, 128)
        later += (tl.load(id_ptr + other, mask=other < rows, other=-1) == own).to(tl.int32)
    if tl.sum(later, 0) == 0:
        at = bank_ptr + own * width + column
        old = tl.load(at, mask=column < width, other=0.0).to(tl.float32)
        fresh = tl.load(new_ptr + row.to(tl.int64) * width + column, mask=column < width, other=0.0).to(tl.float32)
        mixed = fresh + momentum * (old - fresh)
        norm = tl.sqrt(tl.sum(mixed * mixed, 0))
        mixed = tl.where((norm == 0) | (norm == float("inf")), 0.0, mixed / tl.maximum(norm, 1e-12))
        tl.store(at, mixed.to(bank_ptr.dtype.element_ty), mask=column < width)
