"""Triton code of `gram`; a program has a tile, or a row, of one slot's N×N matrix."""

import triton
import triton.language as tl


@triton.jit
def _edge(squares, index, mask):
    """Of squared distances: half of them, the reciprocals of the distances, half the distances; all 0 where 0."""
    square = tl.load(squares + index, mask=mask, other=0.0)
    inverse = tl.where(square == 0, 0.0, tl.rsqrt(square))
    return 0.5 * square, inverse, 0.5 * square * inverse


@triton.jit
def _clipped(gap):
    """Between -1 and 1; a NaN stays."""
    return tl.where(gap > 1, 1.0, tl.where(gap < -1, -1.0, gap))


@triton.jit
def _smooth(gap):
    slope = _clipped(gap)
    return slope * (gap - 0.5 * slope)


@triton.jit
def _tile_of_slot(program, rows, BLOCK_M: tl.constexpr):
    """The column and the row of a program's tile in a slot's N×N matrix, and the slot."""
    tiles = tl.cdiv(rows, BLOCK_M)
    return program % tiles, program // tiles % tiles, (program // (tiles * tiles)).to(tl.int64)


@triton.jit
def triangles_kernel(
    ours_ptr, theirs_ptr, value_ptr, slope_ptr, rows, start, stop, part_size, parts, BLOCK_M: tl.constexpr
):
    """Value and slope of the pairs (x, y) of a tile, over a part of the third rows z of their triangles.

    The parts are there so that few rows fill a device, too; each writes sums of its own, (slots, parts, ...).
    """
    part = tl.program_id(0) % parts
    program = tl.program_id(0) // parts
    across, down, slot = _tile_of_slot(program, rows, BLOCK_M)
    if across < down:
        tl.store(value_ptr + tl.program_id(0), 0.0)
        return
    ours_ptr += slot * rows * rows
    theirs_ptr += slot * rows * rows
    x = down * BLOCK_M + tl.arange(0, BLOCK_M)
    y = across * BLOCK_M + tl.arange(0, BLOCK_M)
    in_x, in_y = x < rows, y < rows
    mask = in_x[:, None] & in_y[None, :]
    index = x.to(tl.int64)[:, None] * rows + y[None, :]
    half, inverse, length = _edge(ours_ptr, index, mask)
    other_half, other_inverse, other_length = _edge(theirs_ptr, index, mask)
    own_x = ((x >= start) & (x < stop)).to(tl.float32)[:, None]
    own_y = ((y >= start) & (y < stop)).to(tl.float32)[None, :]
    value = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    slope = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    first = part * part_size
    line, other_line = ours_ptr + first.to(tl.int64) * rows, theirs_ptr + first.to(tl.int64) * rows
    for z in range(first, tl.minimum(first + part_size, rows)):
        x_half, x_inverse, x_length = _edge(line, x, in_x)
        y_half, y_inverse, y_length = _edge(line, y, in_y)
        x_half, x_inverse, x_length = x_half[:, None], x_inverse[:, None], x_length[:, None]
        y_half, y_inverse, y_length = y_half[None, :], y_inverse[None, :], y_length[None, :]
        s_half, s_inverse, s_length = _edge(other_line, x, in_x)
        t_half, t_inverse, t_length = _edge(other_line, y, in_y)
        s_half, s_inverse, s_length = s_half[:, None], s_inverse[:, None], s_length[:, None]
        t_half, t_inverse, t_length = t_half[None, :], t_inverse[None, :], t_length[None, :]
        line += rows
        other_line += rows
        # The angle at z: (xz² + yz² - xy²) / (2 xz yz).
        cosine = x_length * y_inverse + x_inverse * (y_length - half * y_inverse)
        target = s_length * t_inverse + s_inverse * (t_length - other_half * t_inverse)
        gap = cosine - target
        own_z = tl.where((z >= start) & (z < stop), 1.0, 0.0)
        clipped = _clipped(gap)
        value += own_z * clipped * (gap - 0.5 * clipped)
        if slope_ptr is not None:
            slope -= own_z * clipped * x_inverse * y_inverse
            # The angles at x and at y, of which xy is a side.
            cosine = length * x_inverse + inverse * (x_length - y_half * x_inverse)
            target = other_length * s_inverse + other_inverse * (s_length - t_half * s_inverse)
            turn = own_x * _clipped(cosine - target) * (x_inverse - cosine * inverse)
            cosine = length * y_inverse + inverse * (y_length - x_half * y_inverse)
            target = other_length * t_inverse + other_inverse * (t_length - s_half * t_inverse)
            turn += own_y * _clipped(cosine - target) * (y_inverse - cosine * inverse)
            slope += turn * inverse
    total = tl.sum(tl.sum(value, 1), 0)
    tl.store(value_ptr + tl.program_id(0), tl.where(across == down, total, 2 * total))
    if slope_ptr is not None:
        slope = tl.where(half == 0, 0.0, slope)
        slope_ptr += (slot * parts + part) * rows * rows
        tl.store(slope_ptr + index, slope, mask=mask)
        if across > down:
            tl.store(slope_ptr + y.to(tl.int64)[None, :] * rows + x[:, None], slope, mask=mask)


@triton.jit
def lengths_kernel(
    vector_ptr, real_ptr, length_ptr, rows, width, SMALLEST: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_D: tl.constexpr
):
    """The distances of a tile of pairs and of its mirror image."""
    across, down, slot = _tile_of_slot(tl.program_id(0), rows, BLOCK_M)
    if across < down:
        return
    x = down * BLOCK_M + tl.arange(0, BLOCK_M)
    y = across * BLOCK_M + tl.arange(0, BLOCK_M)
    in_x, in_y = x < rows, y < rows
    vector_ptr += slot * rows * width
    x_at, y_at = vector_ptr + x.to(tl.int64) * width, vector_ptr + y.to(tl.int64) * width
    square = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    for first in range(0, width, BLOCK_D):
        column = first + tl.arange(0, BLOCK_D)
        seen = column < width
        one = tl.load(x_at[:, None] + column[None, :], mask=in_x[:, None] & seen[None, :], other=0.0)
        two = tl.load(y_at[:, None] + column[None, :], mask=in_y[:, None] & seen[None, :], other=0.0)
        step = one[:, None, :] - two[None, :, :]
        square += tl.sum(step * step, 2)
    x_real = tl.load(real_ptr + slot * rows + x, mask=in_x, other=0) != 0
    y_real = tl.load(real_ptr + slot * rows + y, mask=in_y, other=0) != 0
    length = tl.sqrt(square)
    length = tl.where(length < SMALLEST, SMALLEST, length)
    length = tl.where(x_real[:, None] & y_real[None, :] & (x[:, None] != y[None, :]), length, 0.0)
    length_ptr += slot * rows * rows
    mask = in_x[:, None] & in_y[None, :]
    tl.store(length_ptr + x.to(tl.int64)[:, None] * rows + y[None, :], length, mask=mask)
    if across > down:
        tl.store(length_ptr + y.to(tl.int64)[None, :] * rows + x[:, None], length, mask=mask)


@triton.jit
def _gaps(ours_ptr, theirs_ptr, mean_ptr, slot, index, mask):
    """Our distances, and the differences of both sides' in units of their means."""
    length = tl.load(ours_ptr + index, mask=mask, other=0.0)
    other = tl.load(theirs_ptr + index, mask=mask, other=0.0)
    return length, length / tl.load(mean_ptr + 2 * slot) - other / tl.load(mean_ptr + 2 * slot + 1)


@triton.jit
def pairs_kernel(ours_ptr, theirs_ptr, mean_ptr, value_ptr, moved_ptr, rows, start, stop, BLOCK_N: tl.constexpr):
    """A row's value, and its part in the derivative by the logarithm of the mean."""
    row, slot = tl.program_id(0) % rows, (tl.program_id(0) // rows).to(tl.int64)
    value = tl.zeros((BLOCK_N,), tl.float32)
    move = tl.zeros((BLOCK_N,), tl.float32)
    if (row >= start) & (row < stop):
        for first in range(0, rows, BLOCK_N):
            column = first + tl.arange(0, BLOCK_N)
            index = (slot * rows + row) * rows + column
            length, gap = _gaps(ours_ptr, theirs_ptr, mean_ptr, slot, index, column < rows)
            value += _smooth(gap)
            move += _clipped(gap) * length
    tl.store(value_ptr + slot * rows + row, tl.sum(value, 0))
    tl.store(moved_ptr + slot * rows + row, tl.sum(move, 0) / tl.load(mean_ptr + 2 * slot))


@triton.jit
def pair_weights_kernel(
    ours_ptr,
    theirs_ptr,
    mean_ptr,
    moved_ptr,
    weight_ptr,
    rows,
    start,
    stop,
    SMALLEST: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A row of the weights that the differences of the rows have in the gradient."""
    row, slot = tl.program_id(0) % rows, (tl.program_id(0) // rows).to(tl.int64)
    mean, move = tl.load(mean_ptr + 2 * slot), tl.load(moved_ptr + slot)
    own = ((row >= start) & (row < stop)).to(tl.float32)
    for first in range(0, rows, BLOCK_N):
        column = first + tl.arange(0, BLOCK_N)
        index = (slot * rows + row) * rows + column
        length, gap = _gaps(ours_ptr, theirs_ptr, mean_ptr, slot, index, column < rows)
        both = own + ((column >= start) & (column < stop)).to(tl.float32)
        weight = (both * _clipped(gap) - 2 * move) / (mean * tl.where(length == 0, 1.0, length))
        tl.store(weight_ptr + index, tl.where(length <= SMALLEST, 0.0, weight), mask=column < rows)


@triton.jit
def _log_ratio(first, second, apart):
    """log(first / second) of positive numbers that are ``apart`` from one another, in full where they are close."""
    close = apart / (first + second)
    square = close * close
    near = 2 * close * (1 + square * (1 / 3 + square * (1 / 5 + square * (1 / 7 + square * (1 / 9)))))
    return tl.where(square < 0.015, near, tl.log(first / second))


@triton.jit
def rows_kernel(
    ours_ptr,
    theirs_ptr,
    real_ptr,
    value_ptr,
    slope_ptr,
    rows,
    start,
    stop,
    EPSILON: tl.constexpr,
    SMOOTHING: tl.constexpr,
    NEIGHBOURS: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """A row of the matrices: normalised, compared, and the derivative by each entry of the student's."""
    row, slot = tl.program_id(0) % rows, (tl.program_id(0) // rows).to(tl.int64)
    column = tl.arange(0, BLOCK_N)
    mask = column < rows
    index = (slot * rows + row) * rows + column
    if (row < start) | (row >= stop):
        tl.store(value_ptr + slot * rows + row, 0.0)
        if slope_ptr is not None:
            tl.store(slope_ptr + index, tl.zeros((BLOCK_N,), tl.float32), mask=mask)
        return
    one = tl.load(ours_ptr + index, mask=mask, other=0.0)
    two = tl.load(theirs_ptr + index, mask=mask, other=0.0)
    if NEIGHBOURS:
        counted = tl.load(real_ptr + slot * rows + column, mask=mask, other=0) != 0
        counted = counted & (tl.load(real_ptr + slot * rows + row) != 0)
        one = tl.where(counted, 0.5 * one + 0.5, 0.0)
        two = tl.where(counted, 0.5 * two + 0.5, 0.0)
        summed, other = tl.sum(one, 0), tl.sum(two, 0)
        summed = tl.where(summed == 0, 1.0, summed)
        one = one / summed
        two = two / tl.where(other == 0, 1.0, other)
        # Both sum to one, so that their difference adds 0; with it no digits are lost where they are close.
        apart = two - one
        value = tl.sum(two * _log_ratio(two + SMOOTHING, one + SMOOTHING, apart) - apart, 0)
        slope = (apart - SMOOTHING) / (one + SMOOTHING)
        slope = tl.where(counted, (tl.sum(slope * one, 0) - slope) / (2 * summed), 0.0)
    else:
        norm, other = tl.sqrt(tl.sum(one * one, 0)), tl.sqrt(tl.sum(two * two, 0))
        inverse = tl.where(norm == 0, 0.0, 1 / tl.where(norm < EPSILON, EPSILON, norm))
        one = one * inverse
        two = two * tl.where(other == 0, 0.0, 1 / tl.where(other < EPSILON, EPSILON, other))
        gap = one - two
        value = tl.sum(gap * gap, 0)
        # A norm below the clamp is a constant, and bends nothing.
        bend = tl.where(norm > EPSILON, tl.sum(gap * one, 0), 0.0)
        slope = 2 * inverse * (gap - bend * one)
    tl.store(value_ptr + slot * rows + row, value)
    if slope_ptr is not None:
        tl.store(slope_ptr + index, slope, mask=mask)
