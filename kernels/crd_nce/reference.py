"""The formula of `crd_nce`, with all drawn rows."""

from __future__ import annotations

from torch import Tensor

from kdzoo.kernels.backend import accumulator
from kdzoo.kernels.operators import without_autocast

EPSILON = 1e-7  # the authors', beside the noise's density


@without_autocast
def crd_nce_reference(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor,
    *,
    sample_ids: Tensor | None = None,
    temperature: float = 0.07,
) -> Tensor:
    """The formula with all drawn rows gathered, (B, K, D) of either bank; see `crd_nce`."""
    dtype = accumulator(student.dtype)
    student, teacher, student_bank, teacher_bank = (
        rows.to(dtype) for rows in (student, teacher, student_bank.detach(), teacher_bank.detach())
    )
    ours, theirs = (student, teacher) if sample_ids is None else (student_bank[sample_ids], teacher_bank[sample_ids])
    noise = ids.shape[1] / max(len(student_bank), 1)
    value = student.new_zeros(())
    for anchors, positives, bank, z in (
        (student, theirs, teacher_bank, normaliser[0]),
        (teacher, ours, student_bank, normaliser[1]),
    ):
        p = ((anchors * positives).sum(-1) / temperature).exp() / z
        value = value - (p / (p + noise + EPSILON)).log().sum()
        p = ((anchors.unsqueeze(1) * bank[ids]).sum(-1) / temperature).exp() / z
        value = value - (noise / (p + noise + EPSILON)).log().sum()
    return value / max(len(student), 1)
