"""Fused kernels, one file a kernel; imported as ``kdzoo.kernels``."""
