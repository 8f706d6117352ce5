"""Labels, means and norms as every loss takes them; what a mask means is said in `kdzoo.models.masks`."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdzoo.distributed import mean_over_processes, processes
from kdzoo.errors import KdzooError
from kdzoo.kernels.backend import unit_vectors as unit_vectors
from kdzoo.models.masks import slot_mask as slot_mask

EPSILON = 1e-12
WHOLE = "problem_type='multi_label_classification' or 'regression'"


def shaped_labels(label: str, logits: Tensor, labels: Tensor) -> Tensor:
    """Labels in the shape (...) of logits (..., C); they may also be (..., 1), or flat."""
    shape = logits.shape[:-1]
    if labels.shape not in (shape, (*shape, 1), (shape.numel(),)):
        raise KdzooError(
            f"{label}: labels {tuple(labels.shape)} do not fit logits {tuple(logits.shape)}; they are (B,) for (B, C), "
            "or (B, S) for (B, S, C)"
            + (f"; a mark or a number a class takes {WHOLE}" if labels.shape == logits.shape else "")
        )
    return labels.reshape(shape)


def class_labels(label: str, logits: Tensor, labels: Tensor, slots: Tensor | None) -> Tensor:
    """Checked class ids of logits (..., C), in the shape (...) and 0 where masked."""
    classes = logits.shape[-1]
    labels = shaped_labels(label, logits, labels)
    if labels.is_floating_point():
        raise KdzooError(f"{label}: labels of {classes} classes must be integers, got {labels.dtype}")
    labels = labels.long()
    if slots is not None:
        labels = labels.masked_fill(~slots, 0)
    # On an accelerator this look at the values would stop the host at every step.
    if labels.device.type == "cpu" and not torch.compiler.is_compiling() and labels.numel():
        low, high = int(labels.min()), int(labels.max())
        if low < 0 or high >= classes:
            wrong = low if low < 0 else high
            hint = "; what is not to count is left out by mask=" if wrong == -100 else ""
            raise KdzooError(
                f"{label}: label {wrong} is out of range; with {classes} classes it is 0 to {classes - 1}{hint}"
            )
    return labels


def masked_mean(values: Tensor, mask: Tensor | None = None) -> Tensor:
    """The mean of the values that count; 0 where none does.

    Under torch.distributed the denominator is the mean count of the processes, so that the average over them,
    which DistributedDataParallel takes of the gradients, is the mean over the whole batch.

    Args:
        values: any shape.
        mask: bool of a shape that spreads to theirs, or None for all of them.
    """
    if mask is None:
        total, count = values.sum(), torch.full((), float(values.numel()), device=values.device)
    else:
        mask = mask.expand_as(values)
        total, count = torch.where(mask, values, 0.0).sum(), mask.sum()
    return total / mean_over_processes(count).clamp_min(EPSILON).to(values.dtype)


def mean_count(vectors: Tensor, mask: Tensor | None = None) -> Tensor | None:
    """What a kernel divides its sum over the vectors (..., D) by, as `masked_mean` does; None for the own count."""
    if processes() == 1:
        return None
    return mean_over_processes(torch.ones_like(vectors[..., 0], dtype=torch.bool).sum() if mask is None else mask.sum())


def reciprocal_norm(vectors: Tensor) -> Tensor:
    """1 / ‖v‖ over the last axis, kept, with the norm clamped at 1e-12; 0 for a zero vector."""
    norm = torch.linalg.vector_norm(vectors, dim=-1, keepdim=True)
    return torch.where(norm > 0, norm.clamp_min(EPSILON).reciprocal(), 0.0)


def absent(student: Tensor, teacher: Tensor) -> Tensor:
    """Which classes are at -inf on both sides, (..., C): no classes of their row."""
    return (student == -torch.inf) & (teacher == -torch.inf)


def squared_differences(student: Tensor, teacher: Tensor, factor: Tensor | float = 1.0) -> Tensor:
    """The mean over classes of (factor · teacher - student)²; a class at -inf on both sides is left out.

    Args:
        student: (..., C).
        teacher: (..., C).
        factor: on the teacher's.
    """
    none = absent(student, teacher)
    apart = factor * teacher.masked_fill(none, 0.0) - student.masked_fill(none, 0.0)
    return (apart**2).sum(-1) / (~none).sum(-1).clamp_min(1)


def affine(layer: nn.Linear, vectors: Tensor) -> Tensor:
    """A linear layer applied in the wider of its own type and the vectors', so that neither loses digits."""
    dtype = torch.promote_types(layer.weight.dtype, vectors.dtype)
    bias = None if layer.bias is None else layer.bias.to(dtype)
    return F.linear(vectors.to(dtype), layer.weight.to(dtype), bias)
