"""Writing and reading files whole: atomic writes, JSON, and what a full disk makes of it."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdzoo.errors import DistillationFailure, KdzooError

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)


class DamagedRecord(KdzooError):
    """A record that cannot be read, or is none."""


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is there whole or not at all.

    Raises:
        DistillationFailure: when the disk is full or the folder cannot be written.
    """
    write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """The same for a file that is no text."""
    scratch = path.with_name(f".{path.name}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        scratch.unlink(missing_ok=True)
        raise DistillationFailure(f"cannot write {path}: {error.strerror or error}") from error


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    """What a full disk makes of it: each library says it with an error of its own."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not _of_torch(error):
            raise
        reason = f"a file came out short, as on a full disk ({error})" if _of_torch(error) else error
        raise DistillationFailure(f"cannot write to {folder}: {reason}; what was finished before is kept") from error


def is_full_disk(error: BaseException | None) -> bool:
    """Whether an error says that nothing more can be written, so that going on makes no sense."""
    from safetensors import SafetensorError

    if isinstance(error, DistillationFailure):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno in FULL
    return _of_torch(error) or (
        isinstance(error, SafetensorError) and any(said in str(error) for said in ("I/O error", "IoError"))
    )


def _of_torch(error: BaseException | None) -> bool:
    """Whether it is what torch.save raises for a file that came out short."""
    said = str(error)
    return isinstance(error, RuntimeError) and ("PytorchStreamWriter" in said or "inline_container" in said)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file.

    Raises:
        DamagedRecord: when it is not one; the file is named.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise KdzooError(f"{path} cannot be read: {error.strerror or error}") from None
    except ValueError as error:
        raise DamagedRecord(f"{path} cannot be read: {error}; remove it, and what it held is computed again") from None
    if not isinstance(data, dict):
        raise DamagedRecord(f"{path} is not a record; remove it, and what it held is computed again")
    return data


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
