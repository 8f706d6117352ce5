"""The checks of CRD's inputs."""

from __future__ import annotations

from torch import Tensor

from kdzoo.kernels.backend import KernelError, accumulator, check_kind, text, why_not_positive


def check(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor | None,
    sample_ids: Tensor | None,
    temperature: float,
) -> None:
    """Refuse embeddings, banks, ids, a normaliser and a temperature that do not go together.

    Raises:
        KernelError: naming what was wrong.
    """
    banks = {"student_bank": student_bank, "teacher_bank": teacher_bank}
    check_kind("crd_nce", student=student, teacher=teacher, **banks)
    if student.dim() != 2 or student.shape != teacher.shape:
        raise KernelError(
            f"crd_nce: student {tuple(student.shape)} and teacher {tuple(teacher.shape)} must have one shape, (B, D)"
        )
    rows, width = student.shape
    for name, bank in banks.items():
        if bank.dim() != 2 or bank.shape[1] != width or bank.shape != student_bank.shape:
            raise KernelError(
                f"crd_nce: {name} {tuple(bank.shape)} does not fit student {tuple(student.shape)} and student_bank "
                f"{tuple(student_bank.shape)}; both banks are (n, {width})"
            )
    for name, given, axes in (("ids", ids, 2), ("sample_ids", sample_ids, 1)):
        if given is None:
            continue
        if given.is_floating_point() or given.dim() != axes or len(given) != rows:
            raise KernelError(
                f"crd_nce: {name} {text(given.dtype)} {tuple(given.shape)} must be integers "
                f"({rows},{' K' if axes == 2 else ''}), for each row of student {tuple(student.shape)}"
            )
        if given.device != student.device:
            raise KernelError(f"crd_nce: {name} are on {given.device} and student is on {student.device}")
    if normaliser is not None:
        dtype, types = accumulator(student.dtype), (student.dtype, accumulator(student.dtype))
        if normaliser.shape != (2,) or normaliser.dtype not in types or normaliser.device != student.device:
            raise KernelError(
                f"crd_nce: a normaliser {tuple(normaliser.shape)} of {text(normaliser.dtype)} on {normaliser.device} "
                f"must be (2,) of {text(dtype)} on {student.device}, Z of the student's side and of the teacher's"
            )
    wrong = why_not_positive(temperature)
    if wrong is not None:
        raise KernelError(f"crd_nce: temperature is {wrong}")
