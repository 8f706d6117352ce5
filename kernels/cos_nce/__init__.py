"""COS-NCE in one operator: all layers, positions and rows at once, linear in the rows; the gradient with the value.

With in-batch negatives the cosines of an anchor with all other rows of its slot (a layer and position) add up to one
dot product with the slot's total T = Σ_j t̂_j. So there are two passes: over the teacher for the totals, then over
student and teacher for value and gradient. Student and teacher are read once, the gradient is written once, and
the second pass takes the rows in reverse, so that what it reads of the teacher a second time is still in the cache.
"""

from kdzoo.kernels.cos_nce.operator import MAX_WIDTH, cos_nce, cos_nce_totals, decision, run, run_totals
from kdzoo.kernels.cos_nce.reference import cos_nce_reference

__all__ = ["MAX_WIDTH", "cos_nce", "cos_nce_reference", "cos_nce_totals", "decision", "run", "run_totals"]
