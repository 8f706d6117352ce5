"""Mean of 1 - cosine of vectors: one pass with the gradient against cosine_similarity."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import of_rows
from kdzoo.kernels.cosine import cosine, cosine_reference, operator


def naive(student: Tensor, teacher: Tensor) -> Tensor:
    """As it is usually written."""
    return (1 - F.cosine_similarity(student.float(), teacher.float(), dim=-1)).mean()


# Three dot products; two products and a sum more for the gradient, and its scale.
WORKLOAD = of_rows(cosine, cosine_reference, naive, operator.decision, forward=6, both=10)
