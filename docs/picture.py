"""Takes the pictures of a report that the pages show, of committed records, by a Chromium or Chrome that is installed.

On a desktop, whole at 1400 pixels and its head as docs/report.png; on a phone, in the dark, and printed. Run from the
project's root: ``make picture``. The printed page needs pdftoppm (poppler-utils), too.
"""

from __future__ import annotations

import html
import shutil
import subprocess
import tempfile
from pathlib import Path

from PIL import Image

from kdzoo.bench.report.page import write_results

ROOT = Path(__file__).parent.parent
RECORDS = ROOT / "docs/results/lrc-mrpc-cola.jsonl.gz"
HEAD = (1080, 850)  # pixels: the head of the page and its first table
DESKTOP, PHONE = (1400, 1500), (400, 900)
DARK = "--blink-settings=preferredColorScheme=0"
COLOURS = 64  # which text and lines get by with


def take(page: Path, picture: Path, size: tuple[int, int], browser: str, *flags: str) -> None:
    """Take the picture of a page.

    Args:
        page: an HTML file.
        picture: where it goes.
        size: of the window.
        browser: the command.
        flags: more of the browser's.

    Raises:
        SystemExit: when the browser took none.
    """
    shot = page.with_name("shot.png")
    if size[0] < 500:  # no window is as narrow as a phone, but a frame is
        framed = page.with_name("framed.html")
        style = f"border: 0; width: {size[0]}px; height: {size[1]}px"
        content = html.escape(page.read_text(encoding="utf-8"))
        framed.write_text(f'<body style="margin: 0"><iframe style="{style}" srcdoc="{content}">', encoding="utf-8")
        page = framed
    _run(browser, page, f"--window-size={max(size[0], 500)},{size[1]}", f"--screenshot={shot}", *flags)
    if not shot.exists():
        raise SystemExit(f"{browser} took no picture of {page.name}")
    found = Image.open(shot).convert("RGB").crop((0, 0, *size))
    found.quantize(COLOURS).save(picture, optimize=True)
    shot.unlink()


def take_print(page: Path, picture: Path, browser: str) -> None:
    """Take the picture of the first page on paper.

    Raises:
        SystemExit: when there is no pdftoppm.
    """
    converter = shutil.which("pdftoppm")
    if converter is None:
        raise SystemExit("the picture of the printed page needs pdftoppm (poppler-utils), and it was not found")
    pdf = page.with_suffix(".pdf")
    _run(browser, page, "--no-pdf-header-footer", f"--print-to-pdf={pdf}")
    subprocess.run([converter, "-png", "-r", "80", "-singlefile", pdf, pdf.with_suffix("")], check=True, timeout=60)
    Image.open(pdf.with_suffix(".png")).convert("RGB").quantize(COLOURS).save(picture, optimize=True)


def _run(browser: str, page: Path, *flags: str) -> None:
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"]
    command += [f"--user-data-dir={page.parent}/profile", *flags, page.as_uri()]
    subprocess.run(command, capture_output=True, check=False, timeout=120)


if __name__ == "__main__":
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if found is None:
        raise SystemExit("the pictures need Chromium or Chrome, and none was found")
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.html"
        write_results(RECORDS, report)
        pictures = ROOT / "docs/pictures"
        pictures.mkdir(exist_ok=True)
        take(report, ROOT / "docs/report.png", HEAD, found)
        take(report, pictures / "report-desktop.png", DESKTOP, found)
        take(report, pictures / "report-phone.png", PHONE, found)
        take(report, pictures / "report-dark.png", HEAD, found, DARK)
        take_print(report, pictures / "report-print.png", found)
