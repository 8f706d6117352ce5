"""Mean squared difference of vectors: one pass with the gradient against mse_loss."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import of_rows
from kdzoo.kernels.hidden_mse import hidden_mse, hidden_mse_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return F.mse_loss(student.float(), teacher.float())


# Difference, square, sum; one product for the gradient.
WORKLOAD = of_rows(hidden_mse, hidden_mse_reference, naive, operator.decision, forward=3, both=4)
