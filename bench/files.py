"""Writing and reading files whole: atomic writes, JSON, and what a full disk makes of it."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from kdzoo.errors import DistillationFailure, KdzooError

DEEPEST = 40  # lists and mappings within each other, in a file of ours
_AGAIN = "remove it, and what it held is computed again"
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
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
    """The same for a file that is no text. Where a link is, the file behind it is written."""
    check_file(path)
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    scratch = path.with_name(f".{path.name[:200]}-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with scratch.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, path)
    except OSError as error:
        with suppress(OSError):
            scratch.unlink(missing_ok=True)
        raise DistillationFailure(f"cannot write {path}: {error.strerror or error}") from error


def check_file(path: Path) -> None:
    """Refuse to write a file where there is a folder, a device, a pipe or the like, which would be replaced by it.

    Raises:
        KdzooError: says what is there.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return
    except (OSError, ValueError) as error:  # a link to itself, a name too long, a file in place of a folder
        raise KdzooError(f"cannot write {path}: {getattr(error, 'strerror', None) or error}") from None
    if not stat.S_ISREG(mode):
        raise KdzooError(f"cannot write {path}: it is {_what(mode)}; name a file")


def _what(mode: int) -> str:
    kinds = {stat.S_ISDIR: "a folder", stat.S_ISFIFO: "a pipe", stat.S_ISSOCK: "a socket"}
    return next((name for is_, name in kinds.items() if is_(mode)), "a device")


def make_folder(folder: Path) -> None:
    """Make an output folder where there is none, and see that files can be written in it.

    Raises:
        KdzooError: when it cannot be written.
    """
    try:
        for path in (folder, *folder.parents):
            if path.exists() and not path.is_dir():
                raise KdzooError(
                    f"cannot write to the output folder {folder}: {path} is no folder; choose another --out"
                )
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, ValueError) as error:
        if isinstance(error, KdzooError):
            raise
        said = getattr(error, "strerror", None) or error
        raise KdzooError(f"cannot write to the output folder {folder}: {said}; choose another --out") from None


def scratch_folder(folder: Path, name: str) -> Path:
    """A new folder within another, hidden and with the rights that a new folder has (``tempfile``'s is for its owner
    alone), to be renamed when it is whole."""
    scratch = folder / f".{name}-{uuid.uuid4().hex[:8]}"
    scratch.mkdir()
    return scratch


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
        mode = path.stat().st_mode
        if not stat.S_ISREG(mode):  # a pipe would be waited for
            raise DamagedRecord(f"{path} cannot be read: it is {_what(mode)}; {_AGAIN}")
        text = path.read_text(encoding="utf-8")
        data = json.loads(text)
        if _SURROGATE.search(text):
            json.dumps(data, ensure_ascii=False).encode()  # one half of a letter, which nothing can be written with
        if _depth(data) > DEEPEST:
            raise RecursionError("it is nested too deep")
    except OSError as error:
        raise KdzooError(f"{path} cannot be read: {error.strerror or error}") from None
    except DamagedRecord:
        raise
    except (ValueError, OverflowError, RecursionError, MemoryError) as error:
        raise DamagedRecord(f"{path} cannot be read: {error or type(error).__name__}; {_AGAIN}") from None
    if not isinstance(data, dict):
        raise DamagedRecord(f"{path} is not a record; {_AGAIN}")
    return data


def _depth(data: Any) -> int:
    """How deep lists and mappings lie in each other, at most one more than is allowed."""
    level, depth = [data], 0
    while depth <= DEEPEST:
        inner = [of.values() if isinstance(of, dict) else of for of in level if isinstance(of, (dict, list))]
        if not inner:
            break
        level = [part for of in inner for part in of if isinstance(part, (dict, list))]
        depth += 1
    return depth


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
