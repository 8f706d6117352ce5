"""Squared distance of normalised vectors (PKD): one pass with the gradient against normalize and a difference."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import of_rows
from kdzoo.kernels.normalized_mse import normalized_mse, normalized_mse_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return (F.normalize(student.float(), dim=-1) - F.normalize(teacher.float(), dim=-1)).square().sum(-1).mean()


# Two norms, two products, and the difference's square and sum; for the gradient a product, a difference and two
# products more.
WORKLOAD = of_rows(normalized_mse, normalized_mse_reference, naive, operator.decision, forward=9, both=13)
