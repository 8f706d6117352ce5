"""Puts the tables of committed records into the pages: the board, and what each ``<!-- kdzoo table ... -->`` prints.

Run from the project's root, with the pages to refresh or for all of them.
"""

from __future__ import annotations

import re
import runpy
import shlex
import sys
from pathlib import Path

from typer.testing import CliRunner

from kdzoo.bench.files import write_atomically
from kdzoo.cli.main import make_app

ROOT = Path(__file__).parent.parent
REGION = re.compile(r"(<!-- kdzoo (board|table [^\n]*?) -->\n).*?(<!-- end -->)", re.DOTALL)


def pages() -> list[Path]:
    """Those that have such tables."""
    found = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
    return [page for page in found if REGION.search(page.read_text(encoding="utf-8"))]


def refreshed(page: Path) -> str:
    """A page's text with its tables printed anew.

    Raises:
        Exception: of a command that fails.
    """
    return REGION.sub(lambda region: region[1] + _printed(region[2]) + region[3], page.read_text(encoding="utf-8"))


def _printed(command: str) -> str:
    if command == "board":
        return str(runpy.run_path(str(ROOT / "docs/board.py"))["board"]())
    done = CliRunner().invoke(make_app(), shlex.split(command), catch_exceptions=False)
    if done.exit_code:
        raise SystemExit(f"kdzoo {command}: {done.output}")
    return done.stdout


if __name__ == "__main__":
    for page in [Path(name).resolve() for name in sys.argv[1:]] or pages():
        write_atomically(page, refreshed(page))
        print(page.relative_to(ROOT))
