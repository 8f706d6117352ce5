"""A comparison that was never trained, and its report as a test or a browser reads it."""

from __future__ import annotations

import html
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np

RATES = {"teacher": 0.95, "none": 0.7, "kd": 0.8, "p_k.d": 0.79, "late": 0.6}
TASKS = ("rte", "sst2", "stsb")
RECORDS = Path(__file__).parents[1] / "docs" / "results"
WIDTHS = (1400, 400)  # pixels: a desktop's and a phone's
# What a page's own script finds in a browser: what is wider than the page, cut off by its plot, or over other text.
MEASURE = """<script>
document.querySelectorAll("details").forEach(of => of.open = true);
const found = {page: document.documentElement.scrollWidth, width: innerWidth, texts: 0, wide: [], cut: [], over: []};
for (const of of document.querySelectorAll("body *")) {
  const {left, right} = of.getBoundingClientRect();
  if (of.closest(".scroll") && !of.matches(".scroll")) continue;
  if (right > innerWidth + 1 || left < -1) found.wide.push(of.tagName + of.textContent.slice(0, 40));
}
for (const plot of document.querySelectorAll("svg.plot")) {
  const box = plot.getBoundingClientRect(), title = plot.querySelector("title").textContent;
  const texts = [...plot.querySelectorAll("text")].map(of => [of.textContent, of.getBoundingClientRect()]);
  found.texts += texts.length;
  texts.forEach(([text, a], place) => {
    const inside = a.left > box.left - 1 && a.right < box.right + 1 && a.top > box.top - 1 && a.bottom < box.bottom + 1;
    if (!inside) found.cut.push(title + ": " + text);
    for (const [other, b] of texts.slice(place + 1)) {
      const across = Math.min(a.right, b.right) - Math.max(a.left, b.left);
      const down = Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top);
      if (across > 1 && down > 0.3 * Math.min(a.height, b.height)) found.over.push(title + ": " + text + ", " + other);
    }
  });
}
const told = document.createElement("pre");
told.id = "measured";
told.textContent = JSON.stringify(found);
document.body.append(told);
</script>"""


def record(task: str, method: str, seed: int, rows: int = 80) -> dict[str, Any]:
    """A cell whose predictions are right at the method's rate."""
    rng = np.random.default_rng([seed, len(task), len(method)])
    labels = np.random.default_rng(len(task)).integers(2, size=rows)
    right = np.where(rng.random(rows) < RATES[method], labels, 1 - labels)
    score = float(100 * np.corrcoef(right, labels)[0, 1] if task == "stsb" else 100 * np.mean(right == labels))
    speed = 10.0 * (1 + len(method)) + seed
    of_teacher = {"references": {"validation": labels.astype(float).tolist()}} if method == "teacher" else {}
    return {
        "format": 1, "task": task, "method": method, "seed": seed, "configuration": {"method": method},
        "metrics": {"accuracy": score / 100}, "score": score, **of_teacher,
        "predictions": {"validation": right.astype(float).tolist()},
        "samples_per_second": speed, "tokens_per_second": 20 * speed, "train_seconds": 600 / speed, "steps": 20,
        "step_seconds": dict.fromkeys(("teacher", "forward", "loss", "backward", "optimizer", "other"), 0.01),
        "curve": [{"step": 10, "seconds": 300 / speed, "score": score / 2},
                  {"step": 20, "seconds": 600 / speed, "score": score}],
        "inference": {batch: {"latency_ms": 5.0, "rows_per_second": 100 * speed} for batch in ("1", "32")},
        "history": [{"step": s, "loss": 2 / s, "loss/ce": 1 / s, "loss/kd": 0.0} for s in (5, 10)] + [{"step": 20}],
        "flops": 67_117_312, "peak_memory": 1_500_000_000, "parameters": 17_400_000, "loss_parameters": 99,
        "evaluation_samples_per_second": 50.0, "device": "CPU x86_64", "threads": 1,
        "versions": {"torch": "2.13.0"}, "started": "2026-01-01T00:00:00", "finished": "2026-01-01T00:01:00",
    }  # fmt: skip


def write(folder: Path, *leaving_out: str) -> Path:
    """A comparison of two seeds; the last method lacks a task."""
    for task in TASKS:
        for method in RATES:
            if (task, method) == ("stsb", "late"):
                continue
            for seed in range(1 if method == "teacher" else 2):
                path = folder / "cells" / f"{task}-{method}-{seed}.json"
                if method == "teacher":
                    path = folder / "teachers" / task / "record.json"
                path.parent.mkdir(parents=True, exist_ok=True)
                kept = {name: value for name, value in record(task, method, seed).items() if name not in leaving_out}
                path.write_text(json.dumps(kept))
    order = {"tasks": TASKS, "methods": list(RATES)[1:]}
    config = {"format": 1, "order": order, "shared": {"teacher": "big", "student": "4x312", "budget": {"epochs": 3.0}},
              "commands": ["kdzoo compare --seeds 2 --methods 'kd, <b>'", "kdzoo compare --methods p_k&d"]}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "failed").mkdir()
    failure = {
        "task": "sst2",
        "method": "crd",
        "seed": 1,
        "error": "ce became <nan> & more",
        "traceback": "Trace\nback",
    }
    (folder / "failed" / "sst2-crd-1.json").write_text(json.dumps(failure))
    return folder


class Page(HTMLParser):
    """What a page holds: its tables by caption, plots, downloads, ids, and all its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self.marked: set[tuple[str, str]] = set()  # class, and the text of the cell
        self.plots: list[dict[str, str]] = []
        self.downloads: dict[str, str] = {}
        self.ids: list[str] = []
        self.links: list[str] = []
        self.tags: set[str] = set()
        self.text = ""
        self._rows: list[list[str]] = []
        self._within: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        of = dict(attrs)
        self.tags.add(tag)
        self.ids += [of["id"]] if of.get("id") else []
        self.links += [value for name in ("href", "src", "xlink:href") if (value := of.get(name))]
        if tag == "a" and "download" in of:
            self.downloads[of["download"] or ""] = of["href"] or ""
        if tag == "table":
            self._rows = []
        if tag == "tr":
            self._rows.append([])
        if tag in ("td", "th"):
            self._rows[-1].append("")
            assert tag == "td" or of["scope"] in ("row", "col")
        if tag == "svg":
            self.plots.append({"role": of.get("role") or "", "labels": of.get("aria-labelledby") or ""})
        if tag not in ("meta", "br"):
            self._within.append((tag, of))

    def handle_endtag(self, tag: str) -> None:
        while self._within and self._within.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        inside = [tag for tag, _ in self._within]
        self.text += data
        if inside[-1:] == ["caption"]:
            self.tables[data] = self._rows
        elif {"td", "th"} & set(inside):
            self._rows[-1][-1] += f" {data.strip()}" if inside[-1] == "small" else data.strip()
            for tag, of in self._within:
                if tag in ("td", "th") and of.get("class") and inside[-1] in ("td", "th", "strong"):
                    self.marked.add((of["class"] or "", data.strip()))
        if inside[-1:] in (["title"], ["desc"]) and "svg" in inside:
            self.plots[-1][inside[-1]] = data


def in_browser(browser: str, path: Path, scratch: Path) -> tuple[str, list[str]]:
    """A page as a browser has it in the end, and what the page, not the browser itself, asked the network for."""
    log = scratch / "net.json"
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
         f"--user-data-dir={scratch / 'profile'}", f"--log-net-log={log}", "--dump-dom", path.as_uri()],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = [line for line in log.read_text().splitlines() if '"network_isolation_key":"file:' in line]
    return done.stdout, re.findall(r'"url":"([^"]*)"', "".join(asked))


def measured(browser: str, path: Path, width: int, scratch: Path) -> dict[str, Any]:
    """What `MEASURE` finds in a page that is so wide."""
    text = path.read_text().replace("</body>", MEASURE + "</body>")
    text = re.sub("<meta http-equiv[^>]*>", "", text)  # which forbids scripts
    # No browser window is as narrow as a phone, but a frame is.
    onload = "document.body.append(this.contentDocument.getElementById('measured'))"
    style = f"width: {width}px; height: 900px; border: 0"
    frame = f'<iframe style="{style}" onload="{onload}" srcdoc="{html.escape(text)}">'
    (scratch / "frame.html").write_text(f"<body>{frame}</iframe></body>")
    written, _ = in_browser(browser, scratch / "frame.html", scratch)
    found: dict[str, Any] = json.loads(html.unescape(written.split('<pre id="measured">')[1].split("</pre>")[0]))
    return found


def of_method(table: list[list[str]], method: str) -> dict[str, str]:
    (row,) = [row for row in table[1:] if row[0].split(" ")[0] == method]
    return dict(zip(table[0], row, strict=True))
