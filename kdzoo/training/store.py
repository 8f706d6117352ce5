"""One safetensors file of a teacher's cache: written row by row, named when it is whole, read back checked."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from kdzoo import hashing
from kdzoo.errors import KdzooError

FORMAT = "3"
PRECISIONS = {"fp32": (torch.float32, "F32"), "bf16": (torch.bfloat16, "BF16"), "fp16": (torch.float16, "F16")}
NUMBERS = {torch.int64: "I64", torch.int32: "I32"} | dict(PRECISIONS.values())
NO_HASH = "0" * 64


class Growing:
    """A file with one tensor, written row by row, and there under its name only when it is whole.

    Args:
        path: where it grows.
        shape: of the tensor.
        key: of what it belongs to.
        dtype: of the numbers.
        by: what a row of it is: a ``"row"`` of the training set, a ``"token"``, or one of a ``"target"``.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], key: str, dtype: torch.dtype, *, by: str) -> None:
        self._path, self._shape, self._dtype = path, shape, dtype
        self._about = {"format": FORMAT, "key": key, "by": by}
        header = self._header(NO_HASH)
        size = int(np.prod(shape)) * dtype.itemsize
        with path.open("wb") as file:
            file.write(header)
            # Taken from the disk at once: a hole in a memory-mapped file that finds the disk full ends the process.
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), len(header), size)
            else:
                file.truncate(len(header) + size)
        kinds = {2: np.int16, 4: np.int32 if dtype == torch.int32 else np.float32, 8: np.int64}
        kind = kinds[dtype.itemsize]
        self._values: Any = np.memmap(path, kind, "r+", len(header), shape) if size else np.empty(shape, kind)

    def _header(self, sha256: str) -> bytes:
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        values = {"dtype": NUMBERS[self._dtype], "shape": list(self._shape), "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": self._about | {"sha256": sha256}, "values": values}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def put(self, index: np.ndarray[Any, Any], values: Tensor) -> None:
        """Write some of its rows.

        Raises:
            KdzooError: for numbers that its type cannot hold.
        """
        kept = values.detach().to("cpu", self._dtype).contiguous()
        if self._dtype.itemsize == 2:
            if not torch.equal(kept.isfinite(), values.detach().cpu().isfinite()):
                raise KdzooError("the teacher's activations are too large for fp16; keep them in bf16 or fp32")
            kept = kept.view(torch.int16)
        self._values[index] = kept.numpy()

    def finish(self, final: Path) -> None:
        """Give it its checksum and its name."""
        if isinstance(self._values, np.memmap):
            self._values.flush()
        with self._path.open("r+b") as file:
            file.write(self._header(_of_values(self._path)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._path, final)

    def discard(self) -> None:
        """Remove what is not finished."""
        self._path.unlink(missing_ok=True)


def read(path: Path, key: str, *, check: bool) -> tuple[Tensor, str]:
    """A file's tensor, memory-mapped, and what its rows are (`Growing`).

    Args:
        path: the file.
        key: of what it has to belong to.
        check: compute its checksum.

    Raises:
        ValueError: where it is another's, or damaged. SafetensorError and OSError tell of damage too.
    """
    with safe_open(path, "pt") as file:
        about = file.metadata() or {}
        if about.get("key") != key or about.get("format") != FORMAT:
            raise ValueError("it was made by another teacher or from other rows")
        if check and _of_values(path) != about.get("sha256"):
            raise ValueError("its checksum is not the one it was written with")
        return file.get_tensor("values"), str(about.get("by"))


def _of_values(path: Path) -> str:
    """Of everything after a file's header."""
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little") + 8
    return hashing.of_files([path], skip=header, named=False)
