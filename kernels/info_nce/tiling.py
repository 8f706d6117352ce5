"""The tiles that InfoNCE's pass over the keys takes, as far as registers and shared memory hold them."""

from __future__ import annotations

from itertools import product

import torch

from kdzoo.kernels import backend
from kdzoo.kernels.backend import KernelError, power_of_2, text
from kdzoo.kernels.tuning import Constants, tuned

WHOLE = 256  # columns of half precision that a program keeps whole, as far as there is shared memory
PROGRAMS = 256  # where there are fewer tiles of rows, the keys are split as well


def tiling(rows: int, slots: int, width: int, dtype: torch.dtype) -> Constants:
    """Rows and keys of a tile, columns multiplied at once, columns of the slopes that a program holds, and the rest.

    Raises:
        KernelError: for constants of a file that need more shared memory than the GPU has.
    """
    wide = max(16, power_of_2(width))
    # Where the slots are short and many, the pass waits for memory, and lower tiles write the gradient themselves.
    tall = rows > 256 or (rows > 64 and rows * slots < 64 * PROGRAMS)
    ours = _ours(wide, tall, dtype)
    found = tuned("info_nce", f"{text(dtype)}-{wide}-{'tall' if tall else 'short'}", ours)
    if (needed := shared(found, wide, dtype)) > backend.shared_bytes():
        raise KernelError(
            f"info_nce: {found} need {needed // 1024} KB of shared memory and {backend.architecture()} has "
            f"{backend.shared_bytes() // 1024}; take fewer rows, columns or stages"
        )
    return found


def held(tile: Constants, width: int, dtype: torch.dtype) -> bool:
    """Whether a program has its rows whole. In float32 there are no registers for it."""
    return width <= tile["block_k"] == tile["block_d"] and dtype != torch.float32


def writes(tile: Constants, dtype: torch.dtype) -> bool:
    """Whether a program has the registers to join its slopes with what else the gradient is made of."""
    lanes = 64 if backend.architecture().startswith("gfx") else 32
    most = 64 if backend.architecture() == "sm_90" else 32
    return dtype != torch.float32 and tile["block_m"] * tile["block_d"] <= most * lanes * tile["num_warps"]


def shared(tile: Constants, width: int, dtype: torch.dtype) -> int:
    """The most bytes of shared memory that the pass takes: what is loaded ahead, and rows that are kept."""
    rows, keys, stages = tile["block_m"], tile["block_n"], tile["num_stages"]
    loaded = rows + stages * keys if held(tile, width, dtype) else stages * (rows + keys)
    return loaded * tile["block_k"] * dtype.itemsize + 1024


def _ours(wide: int, tall: bool, dtype: torch.dtype) -> Constants:
    gfx = backend.architecture().startswith("gfx")
    if dtype == torch.float32:
        pieces = {"block_m": 64, "block_n": 32, "block_k": 64, "block_d": 128}
        return {**pieces, "num_warps": 4 if gfx else 8, "num_stages": 2}
    pieces = {"block_m": 64, "block_n": 64, "block_k": min(wide, 128), "block_d": min(wide, 256)}
    if gfx:
        return {**pieces, "block_n": 32, "num_warps": 4, "num_stages": 2}
    # Of 256 columns, higher tiles spill where products are added up in fewer registers.
    high = tall and (wide < WHOLE or backend.architecture() == "sm_90")
    for rows, stages in product((128, 64) if high else (64,), (3, 2) if wide == WHOLE else (2,)):
        whole = {"block_m": rows, "block_n": 64, "block_k": wide, "block_d": wide, "num_warps": 8}
        whole["num_stages"] = stages
        if wide <= WHOLE and shared(whole, wide, dtype) <= backend.shared_bytes():
            return whole
    return {**pieces, "num_warps": 8, "num_stages": 2}
