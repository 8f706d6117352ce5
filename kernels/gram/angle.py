"""RKD's angles: the cosine at each row between each two others.

N³/2 cosines a side, each from the three sides of a triangle of rows. In Triton a program holds the matrix's tile (x, y)
in registers and walks over all third rows z, adding up the value, and what the triangle's three angles give to the side
xy; no two programs write to one place. On a CPU tiles of two rows' indices against all vertices stay in the cache.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from kdzoo.kernels.backend import block_elements
from kdzoo.kernels.gram.shared import BLOCK, Result, squared_distances, symmetric, weighed

FILLED = 2048  # programs of two warps, half of them idle: what keeps some 130 multiprocessors busy
SHORTEST = 8  # rows of a part


def angle(ours: Tensor, theirs: Tensor, real: Tensor, own: slice, with_gradient: bool, fused: bool) -> Result:
    moved, own_squares = squared_distances(ours, real, exact=True)
    sides = own_squares, squared_distances(theirs, real, exact=True)[1]
    total, slope = (_triton_angle if fused else _torch_angle)(*sides, own, with_gradient)
    return total, None if slope is None else weighed(moved, slope).mul_(2)


def _torch_angle(ours: Tensor, theirs: Tensor, own: slice, with_gradient: bool) -> Result:
    """The sum over all triangles, and its derivative by each squared distance, which is 0 where rows coincide.

    The cosine at the vertex i is (d_ij² + d_ik² - d_jk²) / (2 d_ij d_ik). From tiles (j, k) × all vertices.
    """
    slots, rows = ours.shape[:2]
    vertices = own.stop - own.start
    total = ours.new_zeros(())
    if vertices == 0:
        return total, torch.zeros_like(ours) if with_gradient else None
    halves, tables = [], []
    for side in (ours, theirs):
        half, inverse = side / 2, side.rsqrt().masked_fill_(side == 0, 0.0)[..., own].contiguous()
        halves.append(half.unsqueeze(-1))
        tables.append((inverse, inverse * half[..., own]))
    size = block_elements(ours.device, BLOCK)
    tall = max(1, min(rows, math.isqrt(size // vertices)))
    deep = max(1, min(slots, size // (tall * tall * vertices)))
    room = torch.empty((3, deep * tall * tall * vertices), dtype=ours.dtype, device=ours.device)
    along, turned = (torch.zeros_like(tables[0][0]) for _ in range(2))
    across = torch.empty_like(ours)
    for slot in range(0, slots, deep):
        at = slice(slot, slot + deep)
        for one in range(0, rows, tall):
            j = slice(one, one + tall)
            from_j = [(inverse[at, j, None], distance[at, j, None]) for inverse, distance in tables]
            for two in range(one, rows, tall):
                k = slice(two, two + tall)
                tile = (min(deep, slots - slot), min(tall, rows - one), min(tall, rows - two), vertices)
                flat = room[:, : math.prod(tile)]
                cosine, gap, slope = flat.view(3, *tile)
                from_k = [(inverse[at, None, k], distance[at, None, k]) for inverse, distance in tables]
                for out, half, (j_inverse, j_distance), (k_inverse, k_distance) in zip(
                    (cosine, gap), halves, from_j, from_k, strict=True
                ):
                    torch.addcmul(j_distance, half[at, j, k], j_inverse, value=-1, out=out)
                    out.mul_(k_inverse).addcmul_(j_inverse, k_distance)
                torch.clamp(torch.sub(cosine, gap, out=gap), -1, 1, out=slope)
                # h = slope · gap - ½ slope²; every tile off the diagonal stands for its mirror image.
                times = 1 if one == two else 2
                total.add_(flat[1] @ flat[2], alpha=times).sub_(flat[2] @ flat[2], alpha=times / 2)
                if not with_gradient:
                    continue
                (j_inverse, _), (k_inverse, _) = from_j[0], from_k[0]
                turn = cosine.mul_(slope)
                turned[at, j] += turn.sum(2)
                pull = torch.mul(slope, k_inverse, out=gap)
                along[at, j] += pull.sum(2)
                opposite = pull.mul_(j_inverse).sum(-1)
                across[at, j, k] = opposite
                if one != two:
                    across[at, k, j] = opposite.mT
                    turned[at, k] += turn.sum(1)
                    along[at, k] += torch.mul(slope, j_inverse, out=gap).sum(1)
    if not with_gradient:
        return total, None
    beside = torch.zeros_like(ours)
    inverse = tables[0][0]
    beside[..., own] = along.addcmul_(turned, inverse, value=-1).mul_(inverse)
    return total, symmetric(beside).sub_(across).masked_fill_(ours == 0, 0.0)


def _triton_angle(ours: Tensor, theirs: Tensor, own: slice, with_gradient: bool) -> Result:
    """As `_torch_angle`; a program has a tile of one triangle of the matrix, and its mirror image."""
    from kdzoo.kernels.gram import triton_kernels

    slots, rows = ours.shape[:2]
    side = 16 if rows <= 1024 else 32  # small tiles are more programs, and fill the device sooner
    across = -(-rows // side)
    parts = _parts(rows, slots * across * across)
    size = -(-rows // parts)
    values = ours.new_empty((slots, across, across, parts))  # one of each program
    slope = ours.new_empty((slots, parts, rows, rows)) if with_gradient else None
    triton_kernels.triangles_kernel[(values.numel(),)](
        ours,
        theirs,
        values,
        slope,
        rows,
        own.start,
        own.stop,
        size,
        parts,
        BLOCK_M=side,
        num_warps=side // 8,
    )
    if slope is not None:
        slope = slope.squeeze(1) if parts == 1 else slope.sum(1)
    return values.sum(), slope


def _parts(rows: int, programs: int) -> int:
    """In how many parts the third rows are gone through: several where the tiles alone would leave a device idle.

    Half of the programs have a mirror image's tile, and nothing to do; a short part would be begun for little.
    """
    return max(1, min(FILLED // max(programs, 1), rows // SHORTEST))
