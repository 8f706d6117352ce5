"""StructureLoss, the base of losses on how the rows of a batch lie to one another."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from kdzoo.distributed import gather_rows, mean_over_processes
from kdzoo.kernels.gram import gram
from kdzoo.losses.base import DistillationLoss
from kdzoo.losses.options import check_backend
from kdzoo.losses.reduction import EPSILON, slot_mask


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


class GramLoss(StructureLoss):
    """A loss whose sum is one of the relations of `kdzoo.kernels.gram.gram`; a subclass implements `count`."""

    relation: ClassVar[str]

    def __init__(self, *, variant: str = "paper", backend: str = "auto") -> None:
        super().__init__(variant=variant)
        self.backend = check_backend(self.label, backend)

    def structure(self, student: Tensor, teacher: Tensor, real: Tensor, own: slice) -> tuple[Tensor, Tensor]:
        relation = self.relation if self.variant == "paper" else f"{self.relation}_{self.variant}"
        total = gram(student, teacher, relation, mask=real, own=own, backend=self.backend)
        return total, self.count(real, own, total.dtype)

    def count(self, real: Tensor, own: slice, dtype: torch.dtype) -> Tensor:
        """The number of values that this process's share is the sum of, from (slots, N) bool."""
        raise TypeError(f"{type(self).__name__} must implement count()")


def _by_slot(vectors: Tensor) -> Tensor:
    """(B, ..., D) as (slots, B, D)."""
    return vectors.unsqueeze(1).flatten(1, -2).transpose(0, 1)


def real_pairs(real: Tensor) -> Tensor:
    """(slots, N, N) bool: both rows are real."""
    return real.unsqueeze(1) & real.unsqueeze(2)
