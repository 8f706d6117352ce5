"""CRD's contrast with banks: negatives scored as they are read against the tensor of all that are drawn."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import Floor, Inputs, Workload
from kdzoo.kernels.crd_nce import EPSILON, crd_nce, crd_nce_reference, decision

TEMPERATURE = 0.07


def inputs(sizes: dict[str, int], dtype: torch.dtype, device: torch.device) -> Inputs:
    rows, drawn, size = sizes["B"], sizes["K"], sizes["N"]

    def vectors(number: int) -> Tensor:
        return F.normalize(torch.randn(number, sizes["D"], device=device), dim=-1).to(dtype)

    return {
        "student": vectors(rows),
        "teacher": vectors(rows),
        "student_bank": vectors(size),
        "teacher_bank": vectors(size),
        "ids": torch.randint(size, (rows, drawn), device=device),
        "normaliser": torch.full((2,), 2.0 * size, device=device),
        "sample_ids": torch.randint(size, (rows,), device=device),
    }


def naive(
    student: Tensor,
    teacher: Tensor,
    student_bank: Tensor,
    teacher_bank: Tensor,
    ids: Tensor,
    normaliser: Tensor,
    sample_ids: Tensor,
) -> Tensor:
    """Positives and negatives gathered into (B, K + 1, D) for each side, as it is usually written."""
    noise = ids.shape[1] / len(student_bank)
    candidates = torch.cat([sample_ids.unsqueeze(1), ids], dim=1)
    total = student.new_zeros((), dtype=torch.float32)
    for anchors, bank, z in ((student, teacher_bank, normaliser[0]), (teacher, student_bank, normaliser[1])):
        scores = torch.bmm(bank[candidates], anchors.unsqueeze(-1)).squeeze(-1).float()
        p = (scores / TEMPERATURE).exp() / z
        total = total - (p[:, 0] / (p[:, 0] + noise + EPSILON)).log().sum()
        total = total - (noise / (p[:, 1:] + noise + EPSILON)).log().sum()
    return total / len(student)


def floor(sizes: dict[str, int], item: int) -> tuple[Floor, Floor]:
    """The rows of either bank that are drawn at all read once, as many as are to be expected, with ids and embeddings;
    a product with each negative of either side and, for the gradient, one more."""
    rows, drawn, size, width = (sizes[letter] for letter in "BKND")
    touched = size * -math.expm1(-rows * (drawn + 1) / size)
    read = 2 * (touched + rows) * width * item + rows * drawn * 8
    product = 4 * rows * (drawn + 1) * width
    return Floor(read, product), Floor(read + 2 * rows * width * item, 2 * product)


WORKLOAD = Workload(
    axes=("BKND",),
    shapes={
        "cpu": ("32x4096x3668x128", "32x4096x67349x128", "64x16384x67349x128"),
        "cuda": ("64x16384x67349x128", "256x16384x392702x128"),
    },
    inputs=inputs,
    gradient=("student", "teacher"),
    kernel=crd_nce,
    naive=naive,
    reference=crd_nce_reference,
    floor=floor,
    decide=lambda given: decision(given["student"]),
    odd=(("5x33x97x37", {}), ("17x130x1001x128", {"temperature": 0.2})),
)
