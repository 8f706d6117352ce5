"""The errors kdzoo raises for bad input: one line that says what was wrong and what would be right."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

MOST = 6  # names that hold what was asked for, offered at once


class KdzooError(ValueError):
    """A request that cannot work: bad arguments, bad data or a composition that makes no sense.

    The command line prints its message on one line and exits with code 2.
    """


class KdzooWarning(UserWarning):
    """Something that works and yet does less than its name says; the command line prints it on one line."""


class DistillationFailure(RuntimeError):
    """A run that started well and then failed, such as a loss that became infinite.

    The command line prints its message on one line and exits with code 1.
    """


def unknown(kind: str, name: object, valid: Iterable[str]) -> KdzooError:
    """The error for a name that is not there.

    Args:
        kind: what the name should have been, in the singular, such as ``"loss"``.
        name: what was asked for.
        valid: the names that exist.
    """
    names = sorted(valid)
    lowered = str(name).lower().replace("-", "_")
    near = [known for known in names if known.lower() == lowered]
    if not near and len(lowered) > 2:
        near = [known for known in names if lowered in known.lower()]
    if not near or len(near) > MOST:
        near = difflib.get_close_matches(lowered, names, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names) or 'none'}"
    return KdzooError(f"unknown {kind} {name!r}; {hint}")
