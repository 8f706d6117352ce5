"""The errors kdzoo raises for bad input: one line that says what was wrong and what would be right."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

MOST = 6  # names that hold what was asked for, offered at once
LONGEST = 2000  # characters of a message, which may quote what a file holds
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
TAKEN = {"teacher": "a task's teacher goes by that name", "all": "it stands for every recipe"}


class KdzooError(ValueError):
    """A request that cannot work: bad arguments, bad data or a composition that makes no sense.

    The command line prints its message on one line and exits with code 2. What a message quotes is printable in any
    terminal, and not longer than a screen.
    """

    def __init__(self, message: str = "") -> None:
        super().__init__(brief(printable(message)))


class KdzooWarning(UserWarning):
    """Something that works and yet does less than its name says; the command line prints it on one line."""


class DistillationFailure(RuntimeError):
    """A run that started well and then failed, such as a loss that became infinite.

    The command line prints its message on one line and exits with code 1.
    """


def printable(text: object) -> str:
    """A text with what would steer a terminal, or cannot be written at all, as escapes."""
    return "".join(
        letter
        if letter.isprintable() or letter in "\n\t"
        else letter.encode("unicode_escape", "backslashreplace").decode("ascii")
        for letter in str(text).encode("utf-8", "backslashreplace").decode("utf-8")
    )


def brief(text: str) -> str:
    """A text, of which what is in the middle is left out where it is long."""
    half = LONGEST // 2
    return text if len(text) <= LONGEST else f"{text[:half]} ... {text[-half:]}"


def check_name(kind: str, name: object) -> str:
    """The name of a recipe, a method or a task, which becomes a part of paths, tables, plots and pages.

    Args:
        kind: what it is the name of, in the singular, such as ``"recipe"``.
        name: the name.

    Raises:
        KdzooError: for one that has a meaning of its own in any of these, or is longer than 64 characters.
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        shown = repr(name) if len(str(name)) <= 80 else f"{str(name)[:60]!r}... ({len(str(name))} characters)"
        raise KdzooError(
            f"a {kind} cannot be called {shown}; a name is 1 to 64 of the letters a to z, digits, '_', '-' and '.', "
            "and does not begin with '-' or '.'"
        )
    if kind != "task" and name.lower() in TAKEN:
        raise KdzooError(f"a {kind} cannot be called {name!r}: {TAKEN[name.lower()]}; choose another name")
    return name


def out_of_memory(error: BaseException) -> str | None:
    """What to do about an error that says that memory has run out; None for any other."""
    if isinstance(error, DistillationFailure):  # which says it already
        return None
    said = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    # PyTorch's own for accelerators; on a CPU it raises a plain RuntimeError.
    full = ("out of memory", "can't allocate memory", "not enough memory")
    if not isinstance(error, MemoryError) and not (isinstance(error, RuntimeError) and any(f in said for f in full)):
        return None
    return (
        f"out of memory ({brief(said)}); lower --batch-size (--gradient-accumulation makes up for it), --max-length or "
        "the models' sizes, or run fewer trainings at the same time with --workers"
    )


def unknown(kind: str, name: object, valid: Iterable[str]) -> KdzooError:
    """The error for a name that is not there.

    Args:
        kind: what the name should have been, in the singular, such as ``"loss"``.
        name: what was asked for.
        valid: the names that exist.
    """
    names = sorted(valid)
    lowered = str(name)[:100].lower().replace("-", "_")
    near = [known for known in names if known.lower() == lowered]
    if not near:  # a slip of one letter, before a name that happens to have these letters within it
        near = difflib.get_close_matches(lowered, names, n=1, cutoff=0.85)
    if not near and len(lowered) > 2:
        near = [known for known in names if lowered in known.lower()]
    if not near or len(near) > MOST:
        near = difflib.get_close_matches(lowered, names, n=1, cutoff=0.4)
    hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"known: {', '.join(names) or 'none'}"
    return KdzooError(f"unknown {kind} {name!r}; {hint}")
