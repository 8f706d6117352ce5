"""The relations there are, their constants, and the checks of their inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from kdzoo.kernels.backend import KernelError, check_kind, check_mask

RELATIONS = ("distance", "angle", "sp", "pkt", "pkt_released", "cka")
SMALLEST = 1e-6  # the least distance of two different rows
SMOOTHING = 1e-7  # PKT's, in the logarithm, and at the norms in the authors' code


def checked(
    student: Tensor, teacher: Tensor, relation: str, mask: Tensor | None, own: slice
) -> tuple[Tensor, Tensor, Tensor, slice]:
    """The sides with their axis of slots, the mask as booleans, and the own rows."""
    check_kind("gram", student=student, teacher=teacher)
    if relation not in RELATIONS:
        raise KernelError(f"gram: relation {relation!r} is not known; it is one of {', '.join(RELATIONS)}")
    if student.shape[:-1] != teacher.shape[:-1] or student.dim() not in (2, 3):
        raise KernelError(
            f"gram: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must agree in all but the last "
            "axis, as (N, D) or (slots, N, D)"
        )
    real = check_mask("gram", mask, student)
    if student.dim() == 2:
        student, teacher = student.unsqueeze(0), teacher.unsqueeze(0)
    if real is None:
        real = torch.ones(student.shape[:-1], dtype=torch.bool, device=student.device)
    rows = student.shape[1]
    start, stop = own.start or 0, rows if own.stop is None else own.stop
    if not 0 <= start <= stop <= rows or own.step not in (None, 1):
        raise KernelError(f"gram: own is {own}; of {rows} rows it is a slice from 0 to {rows} without a step")
    return student, teacher, real, slice(start, stop)
