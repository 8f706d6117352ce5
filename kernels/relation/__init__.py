"""Attention scores and relations of student and teacher compared from their factors, tile by tile.

A side's scores are X Yᵀ / √d: of queries and keys (attention), or of X with itself (the relations of MiniLM). They are
compared as they are (mean squared difference), or after a softmax over the keys (divergence, cross-entropy). No
scores of size S×S are kept: the softmax's sums are gathered on the way (m, Σ e^(s - m)), and the gradient at X and at
Y is summed up in further sweeps, which make the scores anew.
"""

from kdzoo.kernels.relation.blocks import BLOCK
from kdzoo.kernels.relation.operator import decision, relation, relation_count, run
from kdzoo.kernels.relation.reference import relation_reference
from kdzoo.kernels.relation.sides import Factors

__all__ = ["BLOCK", "Factors", "decision", "relation", "relation_count", "relation_reference", "run"]
