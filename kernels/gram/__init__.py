"""How the rows of a batch lie to one another, student against teacher: RKD's distances and angles, SP, PKT and CKA."""

from kdzoo.kernels.gram.checks import RELATIONS
from kdzoo.kernels.gram.operator import decision, gram, run
from kdzoo.kernels.gram.reference import gram_reference
from kdzoo.kernels.gram.shared import slot_shares, squared_distances
from kdzoo.kernels.gram.similarity import MAX_ROWS

__all__ = [
    "MAX_ROWS",
    "RELATIONS",
    "decision",
    "gram",
    "gram_reference",
    "run",
    "slot_shares",
    "squared_distances",
]
