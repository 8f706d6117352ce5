"""CRD's contrast with banks in one operator: negatives are scored as they are read; the gradient with the value.

Once Z is known, a negative's score says at once what it adds to the value and how far it pushes the gradient. So the
Triton kernel reads each drawn row of a bank a single time, and no more of them are ever held than a tile: not
(B, K + 1, D). The CPU holds the scores, (B, K), and gathers a part of the rows at a time; of a bank that has few rows,
drawn often, it takes the products with all instead.
"""

from kdzoo.kernels.crd_nce.operator import (
    MAX_WIDTH,
    crd_nce,
    crd_nce_sums,
    crd_nce_update,
    decision,
    run,
    run_sums,
    run_update,
)
from kdzoo.kernels.crd_nce.reference import EPSILON, crd_nce_reference

__all__ = [
    "EPSILON",
    "MAX_WIDTH",
    "crd_nce",
    "crd_nce_reference",
    "crd_nce_sums",
    "crd_nce_update",
    "decision",
    "run",
    "run_sums",
    "run_update",
]
