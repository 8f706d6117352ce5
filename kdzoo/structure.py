"""StructureLoss, the base of losses on how the rows of a batch lie to one another, and the geometry they share."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdzoo.distributed import gather_rows, mean_over_processes
from kdzoo.loss import EPSILON, DistillationLoss, slot_mask

# Numbers in the largest temporary of the triplets: what a processor's cache holds, and what keeps a GPU busy.
CHUNK_ON_CPU, CHUNK = 2**18, 2**24


class StructureLoss(DistillationLoss):
    """A loss between the student's and the teacher's relations of the rows, each in its own width.

    Layers and positions are slots, each compared by itself: the rows of all processes that are real there. A subclass
    implements `structure`.
    """

    features: ClassVar[tuple[str, ...]] = ("cls", "hidden")
    top_only = True
    contrastive = True

    def __init__(self, *, variant: str = "paper") -> None:
        super().__init__(variant=variant)

    @classmethod
    def fit(cls, options: dict[str, Any], **context: Any) -> dict[str, Any]:
        return options  # relations of rows have no width

    def compute(self, student: Tensor, teacher: Tensor, *, mask: Tensor | None, **context: Any) -> Tensor:
        if student.dim() < 2 or student.shape[:-1] != teacher.shape[:-1]:
            rule = "must agree in all but the last axis, as (B, D), (B, S, D), (B, M, D) or (B, M, S, D)"
            raise self._mismatch(student, teacher, rule)
        slots = slot_mask(self.label, student, mask)
        if slots is None:
            slots = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
        else:
            student, teacher = (side.masked_fill(~slots.unsqueeze(-1), 0.0) for side in (student, teacher))
        # Other processes may have fewer positions: those count as padding.
        everyone, own = gather_rows(slots.to(torch.uint8).unsqueeze(-1))
        ours, theirs = _by_slot(gather_rows(student)[0]), _by_slot(gather_rows(teacher)[0])
        real = _by_slot(everyone).squeeze(-1) != 0
        total, count = self.structure(ours, theirs, real, slice(own, own + len(student)))
        return total / mean_over_processes(count.to(total.dtype)).clamp_min(EPSILON)

    def structure(self, student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        """The sum of this process's share of the loss, and the number of values it is the sum of.

        Args:
            student: (slots, N, D_s) the rows of all processes, zero where not real.
            teacher: (slots, N, D_t).
            real: (slots, N) bool.
            own: which of the rows are this process's own.
        """
        raise TypeError(f"{type(self).__name__} must implement structure()")


def _by_slot(vectors: Tensor) -> Tensor:
    """(B, ..., D) as (slots, B, D)."""
    return vectors.unsqueeze(1).flatten(1, -2).transpose(0, 1)


def real_pairs(real: Tensor) -> Tensor:
    """(slots, N, N) bool: both rows are real."""
    return real.unsqueeze(1) & real.unsqueeze(2)


def geometry(vectors: Tensor, real: Tensor) -> tuple[Tensor, Tensor]:
    """Dot products of the rows less their mean, and the reciprocals of their distances, (slots, N, N) both.

    A reciprocal is 0 where a row is not real, and where two rows coincide: are no further apart than what the rounding
    of their products leaves to see, which would be noise with a huge gradient.

    Args:
        vectors: (slots, N, D), zero where not real.
        real: (slots, N) bool.
    """
    # Smaller products, smaller rounding errors; no difference of rows depends on the mean, which needs no gradient.
    mean = vectors.sum(1) / real.sum(1).clamp_min(1).to(vectors.dtype).unsqueeze(-1)
    moved = vectors - mean.detach().unsqueeze(1)
    gram = moved @ moved.mT
    squares = gram.diagonal(dim1=1, dim2=2)
    sizes = squares.unsqueeze(1) + squares.unsqueeze(2)
    apart = sizes - 2 * gram
    seen = real_pairs(real) & (apart > 64 * torch.finfo(gram.dtype).eps * sizes)
    return gram, torch.where(seen, torch.where(seen, apart, 1.0).rsqrt(), 0.0)


def angle_loss(student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> Tensor:
    """Smooth-L1 of the cosines of all ordered triplets of real rows with the vertex in ``own``, summed.

        Σ_i Σ_j Σ_k h(cos(s_j - s_i, s_k - s_i), cos(t_j - t_i, t_k - t_i))

    with h(a, b) = ½ (a - b)² up to a difference of 1. Where two of the three rows coincide the cosine is 0. The cosines
    come from the dot products of the rows, so a triplet costs the same in any width, and are made a few vertices at a
    time: O(N³) time and O(N²) memory a slot, forward and backward.

    Args:
        student: (slots, N, D_s) float32 or float64.
        teacher: (slots, N, D_t).
        real: (slots, N) bool.
        own: which of the N rows are vertices.
    """
    return _AngleLoss.apply(*geometry(student, real), *geometry(teacher, real), own.start, own.stop)


class _AngleLoss(torch.autograd.Function):
    """`angle_loss` of dot products and reciprocal distances; the forward makes the gradient as well.

    Autograd would keep the (slots, N, N, N) cosines.
    """

    @staticmethod
    def forward(
        ctx: Any, gram: Tensor, inverse: Tensor, other_gram: Tensor, other_inverse: Tensor, start: int, stop: int
    ) -> Tensor:
        slots, rows = gram.shape[:2]
        chunk = CHUNK_ON_CPU if gram.device.type == "cpu" else CHUNK
        step = max(1, chunk // max(1, slots * rows * rows))
        total, to_gram, to_inverse = gram.new_zeros(()), torch.zeros_like(gram), torch.zeros_like(inverse)
        for first in range(start, stop, step):
            vertices = slice(first, min(first + step, stop))
            products, scales = _triplets(gram, inverse, vertices)
            targets = torch.mul(*_triplets(other_gram, other_inverse, vertices))
            ours = products * scales
            total = total + F.smooth_l1_loss(ours, targets, reduction="sum")
            slope = ours.sub_(targets).clamp_(-1, 1)
            # Every cosine stands twice, as (j, k) and (k, j).
            to_inverse[:, vertices] = 2 * (products.mul_(slope) * inverse[:, vertices].unsqueeze(2)).sum(-1)
            to_product = scales.mul_(slope)
            summed = to_product.sum(-1)
            to_gram += to_product.sum(1)
            to_gram[:, vertices] -= 2 * summed
            to_gram.diagonal(dim1=1, dim2=2)[:, vertices] += summed.sum(-1)
        ctx.save_for_backward(to_gram, to_inverse)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        to_gram, to_inverse = ctx.saved_tensors
        return gradient * to_gram, gradient * to_inverse, None, None, None, None


def _triplets(gram: Tensor, inverse: Tensor, vertices: slice) -> tuple[Tensor, Tensor]:
    """(x_j - x_i) · (x_k - x_i) and 1 / (|x_j - x_i| |x_k - x_i|), (slots, vertices, N, N) both."""
    own, scale = gram[:, vertices], inverse[:, vertices]
    at = gram.diagonal(dim1=1, dim2=2)[:, vertices, None, None]
    products = gram.unsqueeze(1) - own.unsqueeze(2) - own.unsqueeze(3) + at
    return products, scale.unsqueeze(2) * scale.unsqueeze(3)
