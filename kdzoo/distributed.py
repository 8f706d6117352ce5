"""What a loss needs of torch.distributed: means, sums and rows of all processes; in one process, its own.

And which of the processes that a launcher such as ``torchrun`` has started is the one to write and print.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor


def processes() -> int:
    """How many processes torch.distributed runs; 1 without it."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def launched() -> tuple[int, int]:
    """This process's rank and the number of processes, as a launcher sets them before torch.distributed is there."""
    return int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))


def mean_over_processes(tensor: Tensor) -> Tensor:
    """The mean of a tensor over the processes, in float32 or float64 and without gradient."""
    tensor = tensor.detach().to(torch.float64 if tensor.dtype == torch.float64 else torch.float32)
    if processes() == 1:
        return tensor
    tensor = tensor.clone()
    dist.all_reduce(tensor)
    return tensor / processes()


def sum_over_processes(tensor: Tensor) -> Tensor:
    """The sum of a tensor over the processes, without gradient; what a shorter one lacks counts as zero."""
    if processes() == 1:
        return tensor.detach()
    own, shapes = tuple(tensor.shape), _shapes(tensor)
    total = _padded(tensor.detach(), shapes).contiguous().clone()
    dist.all_reduce(total)
    return total[tuple(slice(size) for size in own)]


def gather_rows(rows: Tensor) -> tuple[Tensor, int]:
    """The rows of all processes in the order of their ranks, and the index at which this process's own begin.

    Differentiable: what the other processes do with this one's rows comes back in the gradient. Processes may
    have different numbers of rows and, batches being padded to their own longest row, of positions.

    Args:
        rows: (B, ..., D) or (B,), of a type that all processes share.

    Returns:
        (B of all processes, ..., D), its middle axes cut to this process's or padded with zeros to them.
    """
    if processes() == 1:
        return rows, 0
    shapes = _shapes(rows)
    gathered = _AllGather.apply(_padded(rows, shapes))
    parts = [gathered[rank, : shape[0]] for rank, shape in enumerate(shapes)]
    own = [slice(None)] + [slice(size) for size in rows.shape[1:]]
    return torch.cat(parts)[tuple(own)], sum(shape[0] for shape in shapes[: dist.get_rank()])


def _shapes(tensor: Tensor) -> list[list[int]]:
    own = torch.tensor(tensor.shape, device=tensor.device)
    everyone = [torch.empty_like(own) for _ in range(processes())]
    dist.all_gather(everyone, own)
    return [shape.tolist() for shape in everyone]


def _padded(tensor: Tensor, shapes: list[list[int]]) -> Tensor:
    missing = [max(sizes) - own for sizes, own in zip(zip(*shapes, strict=True), tensor.shape, strict=True)]
    # F.pad counts axes from the last one.
    return F.pad(tensor, [end for size in reversed(missing) for end in (0, size)]) if any(missing) else tensor


class _AllGather(torch.autograd.Function):
    """all_gather whose backward adds up the gradients of all processes."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        tensor = tensor.contiguous()
        everyone = [torch.empty_like(tensor) for _ in range(processes())]
        dist.all_gather(everyone, tensor)
        return torch.stack(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        total = gradient.contiguous().clone()
        dist.all_reduce(total)
        return total[dist.get_rank()]
