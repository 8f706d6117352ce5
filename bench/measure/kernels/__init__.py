"""`kdzoo profile`: a kernel's time, traffic, memory and distance from the hardware's floor, against other providers.

``python -m kdzoo.bench.measure.kernels`` is the same for a machine that has torch, triton and numpy alone.
"""

from kdzoo.bench.measure.kernels.measuring import measure, setting_of
from kdzoo.bench.measure.kernels.record import Older, record_path, write_record
from kdzoo.bench.measure.kernels.request import Request, explain, listing
from kdzoo.bench.measure.kernels.showing import profile_columns, warnings

__all__ = [
    "Older",
    "Request",
    "explain",
    "listing",
    "measure",
    "profile_columns",
    "record_path",
    "setting_of",
    "warnings",
    "write_record",
]
