"""What each place that names are written to gives a meaning to, and how it is taken away from them there.

A method, a task or an error may hold any characters. Each function makes a text safe for one place: it is shown as it
is, and does nothing.
"""

from __future__ import annotations

import re
import unicodedata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.text import Text

PLOT = {"text.parse_math": False}  # matplotlib's setting under which $ is a dollar
MINUS = re.compile(r"(?<![\w.])-(?=\d)")
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "–": "--",
         "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}",
         "[": "{[}", "]": "{]}",  # after \\ and \midrule they would hold an argument
         **{sign: f"\\{sign}" for sign in "&%$#_{}"}}  # fmt: skip
ACCENTS = "\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327"
PLAIN = re.compile(r"[-+](\d+(\.\d+)?([eE][-+]?\d+)?)?")  # a number with its sign, or a sign alone: computes nothing
FORMULA = ("=", "+", "-", "@", "\t", "\r")  # what a spreadsheet takes for the beginning of a formula


def printable(text: object) -> str:
    """With control characters, which move a cursor or turn a line around, written out as ``\\x1b``.

    Enough for HTML, whose template escapes its own signs, and for plots under ``PLOT``.
    """
    return "".join(sign if _shows(sign) else sign.encode("unicode_escape").decode() for sign in str(text))


def _shows(sign: str) -> bool:
    return sign == "\n" or unicodedata.category(sign) not in ("Cc", "Cf", "Cs", "Zl", "Zp")


def terminal(text: object, style: str = "") -> Text:
    """For a rich console: no markup, no emoji codes, no escapes; on one line."""
    from rich.text import Text  # here, since profiling goes without

    return Text(" ".join(printable(text).split("\n")), style=style)


def markdown(text: object) -> str:
    """For a cell of a Markdown table."""
    shown = " ".join(printable(text).split("\n")).replace("\\", "\\\\")
    shown = re.sub(r"([|*`]|\](?=[(\[]))", r"\\\1", shown)
    return shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def latex(text: object) -> str:
    """For LaTeX, with minus signs for those of numbers; what pdflatex has no letter for is written as its number."""
    shown = " ".join(printable(text).split("\n"))
    return MINUS.sub("$-$", "".join(LATEX.get(sign, sign if _set(sign) else _numbered(sign)) for sign in shown))


def _set(sign: str) -> bool:
    """Whether LaTeX's own fonts have it: ASCII, and Latin letters with an accent that they have."""
    parts = unicodedata.normalize("NFD", sign)
    accented = len(parts) == 2 and parts[0].isascii() and parts[0].isalpha() and parts[1] in ACCENTS
    return sign.isascii() or accented or sign in "ßæœøÆŒØ"


def _numbered(sign: str) -> str:
    return rf"\texttt{{U+{ord(sign):04X}}}"


def csv(value: Any) -> Any:
    """For a cell of a CSV file: a text that a spreadsheet would compute begins with an apostrophe; numbers stay."""
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if shown.startswith(FORMULA) and not PLAIN.fullmatch(shown) else shown
