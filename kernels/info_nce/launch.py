"""InfoNCE with Triton: one program for a tile of a slot's rows, or for that and a part of the keys."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.kernels import backend
from kdzoo.kernels.backend import dot_precision, power_of_2, text
from kdzoo.kernels.info_nce.side import Side
from kdzoo.kernels.tuning import Constants, tuned

BLOCK_M = 64  # rows of a tile
PROGRAMS = 256  # where there are fewer tiles of rows, the keys are split as well
LOG2E = 1.4426950408889634


def attend(
    own: Side,
    keys: Side,
    queue: Side | None,
    start: int,
    temperature: float,
    positive: Tensor,
    opposite: Tensor | None,
    with_slopes: bool,
) -> tuple[Tensor, Tensor | None]:
    """As `blocks.attend`."""
    sources = [(keys, start)] if queue is None else [(keys, start), (queue, -positive.shape[1])]
    at_once = with_slopes and opposite is None
    parts = [_launch(own, key, first, temperature, at_once) for key, first in sources]
    logs = torch.cat([found for found, _ in parts])
    losses = -F.logsigmoid(positive - logs.logsumexp(0))
    sums = positive + losses
    if not with_slopes:
        return losses, None
    if at_once:
        shares = (logs - sums).exp_().unsqueeze(-1)
        means = [mean for _, found in parts for mean in found]
        slopes = means[0].mul_(shares[0])
        for mean, share in zip(means[1:], shares[1:], strict=True):
            slopes.addcmul_(mean, share)
        return losses, slopes
    known = [(sums, opposite if key is keys else None) for key, _ in sources]
    found = [
        _launch(own, key, first, temperature, True, *sides)[1]
        for (key, first), sides in zip(sources, known, strict=True)
    ]
    return losses, sum((part.sum(0) for part in found[1:]), found[0].sum(0))


def _launch(
    own: Side,
    keys: Side,
    start: int,
    temperature: float,
    with_slopes: bool,
    sums: Tensor | None = None,
    opposite: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Of parts of the keys, without the own ones: their log-sum-exps (parts, slots, B) and means (parts, slots, B, D).

    With ``sums``, the log-sum-exps of the anchors and perhaps the keys, they weigh the keys, which are only added up.
    """
    from kdzoo.kernels.info_nce import triton_kernels

    (slots, rows, width), number = own.vectors.shape, keys.vectors.shape[1]
    constants = _tuning(width, own.vectors.dtype)
    block_m, block_n, block_k, block_d = (constants[f"block_{axis}"] for axis in "mnkd")
    (anchors, own_inverses), (others, inverses) = (
        _filled(side, block_d, max(block_m, block_n)) for side in (own, keys)
    )
    _, padded, columns = anchors.shape
    tiles = padded // block_m * (columns // block_d if with_slopes else 1)
    splits = min(others.shape[1] // block_n, -(-PROGRAMS // (tiles * slots)))
    logs = own_inverses.new_empty((splits, slots, padded))
    slopes = logs.new_empty((splits, slots, padded, columns) if with_slopes else (0, 0, 0, 0))
    triton_kernels.attend_kernel[(tiles * slots * splits,)](
        anchors,
        own_inverses,
        others,
        inverses,
        None if sums is None else F.pad(sums, (0, padded - rows)),
        None if opposite is None else F.pad(opposite, (0, others.shape[1] - number)),
        logs,
        slopes if with_slopes else None,
        tiles,
        slots,
        splits,
        padded,
        others.shape[1],
        start,
        width,
        columns,
        others.shape[1] if len(others) == slots else 0,
        LOG2E / temperature,
        LOG2E=LOG2E,
        # In float32 there are no registers for it.
        HELD=width <= block_k == block_d and own.vectors.dtype != torch.float32,
        # The interpreter multiplies the bits of bfloat16 as if they were integers.
        HALVES=own.vectors.dtype != torch.float32 and own.vectors.device.type != "cpu",
        PRECISION=dot_precision(),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=block_k,
        BLOCK_D=block_d,
        num_warps=constants["num_warps"],
        num_stages=constants["num_stages"],
    )
    return logs[..., :rows], slopes[..., :rows, :width]


def _filled(side: Side, block_d: int, block_m: int) -> tuple[Tensor, Tensor]:
    """Vectors and inverse norms filled up to whole tiles, so that no program has to look where they end.

    Vectors are zero where they are not to be looked at; inverse norms are negative where they do not count.
    """
    missing = -side.vectors.shape[1] % block_m
    vectors = side.vectors.masked_fill((side.inverse == 0).unsqueeze(-1), 0.0)
    inverse = side.inverse if side.real is None else side.inverse.masked_fill(~side.real, -1.0)
    vectors = F.pad(vectors, (0, -vectors.shape[-1] % block_d, 0, missing))
    return vectors.contiguous(), F.pad(inverse, (0, missing), value=-1.0)


def _tuning(width: int, dtype: torch.dtype) -> Constants:
    """Rows and keys of a tile, columns multiplied at once, columns of the slopes that a program holds, and the rest."""
    wide, gfx = max(16, power_of_2(width)), backend.architecture().startswith("gfx")
    if dtype == torch.float32:
        ours = {"block_k": 64, "block_d": 128, "block_n": 32, "num_warps": 4}
    else:
        ours = {"block_k": min(wide, 128), "block_d": min(wide, 256), "block_n": 32 if gfx else 64}
        ours |= {"num_warps": 4 if gfx else 8}
    return tuned("info_nce", f"{text(dtype)}-{wide}", {"block_m": BLOCK_M, **ours, "num_stages": 2})
