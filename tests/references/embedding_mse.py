"""Jiao et al. 2020, equation 9: the same as for hidden states."""

from references.hidden_mse import AT_EQUAL, reference

__all__ = ["AT_EQUAL", "reference"]
