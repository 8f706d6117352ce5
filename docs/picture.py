"""Takes docs/report.png, the picture of a report: of committed records, by a Chromium or Chrome that is installed.

Run from the project's root: ``make picture``.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from kdzoo.bench.report.page import write_results

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs/results/glue-minilm-l6-to-4x312.jsonl.gz"
PICTURE = ROOT / "docs/report.png"
SIZE = (1080, 975)  # pixels: the head of the page and its first table
COLOURS = 64  # which text and lines get by with


def take(picture: Path, browser: str) -> None:
    """Draw the report and take its picture.

    Raises:
        SystemExit: when the browser took none.
    """
    with tempfile.TemporaryDirectory() as folder:
        page, shot = Path(folder) / "report.html", Path(folder) / "shot.png"
        write_results(RECORDS, page)
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
        command += [f"--user-data-dir={folder}/profile", f"--window-size={SIZE[0]},{SIZE[1]}", f"--screenshot={shot}"]
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, check=False, timeout=120)
        if not shot.exists():
            raise SystemExit(f"{browser} took no picture: {done.stderr.strip()}")
        Image.open(shot).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


if __name__ == "__main__":
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("the picture needs Chromium or Chrome, and none was found")
    take(PICTURE, found)
    print(PICTURE.relative_to(ROOT))
