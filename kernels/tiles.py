"""What the Triton code of several kernels reads tiles with. Imports Triton, so it is imported at the first launch.

Here and in every ``triton_kernels.py``: a program works on BLOCK_M rows at a time, each BLOCK_D columns wide, against
BLOCK_N others; ``mask`` is what a load or store is masked with, and an address that can pass 2^31 is 64-bit.
"""

import triton
import triton.language as tl


@triton.jit
def row_mask(mask_ptr, row, rows, stride):
    """Which of a tile's rows are there and, with a mask of bytes, count."""
    mask = row < rows
    if mask_ptr is not None:
        mask = tl.load(mask_ptr + row.to(tl.int64) * stride, mask=mask, other=0) != 0
    return mask


@triton.jit
def load_unit(
    ptr, start, mask, width, stride_column, EPSILON: tl.constexpr, BLOCK_D: tl.constexpr, KEPT: tl.constexpr = ""
):
    """Whole rows in float32, their norms and the norms' inverses; all zero where a norm is infinite or masked.

    Multiplied by its inverse a row has length one. ``start`` are the rows' 64-bit offsets; KEPT, in the L2 cache, is
    an eviction policy.
    """
    column = tl.arange(0, BLOCK_D)
    at = ptr + start[:, None] + column.to(tl.int64)[None, :] * stride_column
    inside = mask[:, None] & (column < width)[None, :]
    tile = tl.load(at, mask=inside, other=0.0, eviction_policy=KEPT).to(tl.float32)
    norm = tl.sqrt(tl.sum(tile * tile, 1))
    infinite = norm == float("inf")
    tile = tl.where(infinite[:, None], 0.0, tile)
    return tile, norm, tl.where(infinite | (norm == 0), 0.0, 1 / tl.maximum(norm, EPSILON))


@triton.jit
def locate_rows(
    mask_ptr, count, layers, positions, stride_m_row, stride_m_position, NARROW: tl.constexpr, BLOCK_M: tl.constexpr
):
    """The rows of this program's tile of (B, M, S), whether they count, and where they lie in B, M and S.

    NARROW where no row's number passes 2^31: a division in 64 bits takes several times as long, before the first load.
    """
    if NARROW:
        row = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    else:
        row = tl.program_id(0).to(tl.int64) * BLOCK_M + tl.arange(0, BLOCK_M)
    line = row // positions
    batch, layer, position = line // layers, line % layers, row % positions
    row, batch, layer, position = row.to(tl.int64), batch.to(tl.int64), layer.to(tl.int64), position.to(tl.int64)
    mask = row < count
    if mask_ptr is not None:
        at = mask_ptr + batch * stride_m_row + position * stride_m_position
        mask = mask & (tl.load(at, mask=mask, other=0) != 0)
    return row, mask, batch, layer, position


@triton.jit
def scale(ptr, factor_ptr, count, BLOCK_SIZE: tl.constexpr):
    """In place, all values times one number; without reading them where it is 1."""
    factor = tl.load(factor_ptr)
    if factor != 1.0:
        offset = tl.program_id(0).to(tl.int64) * BLOCK_SIZE + tl.arange(0, BLOCK_SIZE)
        mask = offset < count
        value = tl.load(ptr + offset, mask=mask, other=0.0)
        tl.store(ptr + offset, (value.to(tl.float32) * factor).to(ptr.dtype.element_ty), mask=mask)
