"""InfoNCE in one operator: streamed over the keys with an online log-sum-exp; the gradient with the value.

The gradient at an anchor is the softmax's mean key less its own key, which is what attention computes with the keys as
values. So one pass over the keys takes scores, their log-sum-exp and the gradient together, two products of
rows × keys × width in all, and of the scores no more than a tile is ever held. The own key is left out of the
softmax and comes in at the end: value and gradient of an anchor that found its key keep all their digits.

The symmetric side is the same pass with sides exchanged, for its log-sum-exps; then both softmaxes weigh the keys.
"""

from kdzoo.kernels.info_nce.operator import decision, info_nce, info_nce_rows, run, run_rows
from kdzoo.kernels.info_nce.reference import info_nce_reference

__all__ = ["decision", "info_nce", "info_nce_reference", "info_nce_rows", "run", "run_rows"]
