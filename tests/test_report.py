"""The report of a comparison: its figures, what it does with missing ones, and the page in a browser."""

from __future__ import annotations

import csv
import html
import io
import json
import re
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from statistics import fmean, stdev
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from command_line import Commands
from conftest import program
from matplotlib.figure import Figure
from matplotlib.text import Text
from rich.console import Console

from kdzoo.bench import escape
from kdzoo.bench.packed import Study, pack
from kdzoo.bench.report import costs, course, labels, plots, scores
from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.findings import Findings
from kdzoo.bench.report.guess import Guess
from kdzoo.bench.report.page import html as page_of
from kdzoo.bench.report.page import write_results
from kdzoo.bench.report.plots import Point, front
from kdzoo.bench.report.ranking import ranking
from kdzoo.bench.report.table import PARTS, csv_table, latex_table, markdown_table, read_records, terminal_table

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


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(capsys)


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


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with its report."""
    found = write(tmp_path_factory.mktemp("comparison"))
    statistics.RESAMPLES, kept = 100, statistics.RESAMPLES
    files = write_results(found)
    statistics.RESAMPLES = kept
    assert files == [found / name for name in ("report.html", "results.csv", "results.tex")]
    return found


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


def test_a_browser_shows_all_of_it_and_asks_for_nothing(folder: Path, tmp_path: Path, browser: str) -> None:
    text, asked = in_browser(browser, folder / "report.html", tmp_path)
    page = Page(text)
    assert asked == []
    (tmp_path / "other.html").write_text('<img src="http://localhost:9/picture.png">')
    assert "http://localhost:9/picture.png" in in_browser(browser, tmp_path / "other.html", tmp_path)[1], (
        "it would be seen"
    )
    assert list(page.tables) == ["Validation scores", "Points ahead of no teacher",
                                 "Points ahead of the best student of the column", "The best two",
                                 "What training costs", "Seconds of training to reach a score",
                                 "What inference costs", "Failed cells"]  # fmt: skip
    # Ranks, two of throughput, steps, two of curves a task, losses of the four students.
    assert len(page.plots) == 1 + 2 + 1 + 2 * len(TASKS) + 4
    assert all(plot["role"] == "img" and plot["title"] and len(plot["desc"]) > 20 for plot in page.plots)
    assert all(label in page.ids for plot in page.plots for label in plot["labels"].split())
    assert len(page.ids) == len(set(page.ids))
    assert len(page.downloads) == 2 + 1 + 1 + len(TASKS) + 2 * (4 * len(TASKS) - 1)
    source = Page((folder / "report.html").read_text())
    assert (source.tables, source.downloads) == (page.tables, page.downloads)


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_cut_off_or_lies_on_another(folder: Path, tmp_path: Path, width: int, browser: str) -> None:
    found = measured(browser, folder / "report.html", width, tmp_path)
    assert found["width"] == width and found["page"] <= width and found["texts"] > 100
    assert (found["wide"], found["cut"], found["over"]) == ([], [], [])
    bad = tmp_path / "bad.html"
    text = (folder / "report.html").read_text().replace("<main>", '<main><div style="width: 1600px">wide</div>')
    bad.write_text(text.replace("translate(", "translate(300 "))
    found = measured(browser, bad, width, tmp_path)
    assert "DIVwide" in found["wide"] and found["page"] > width, "it would be seen"


def test_on_paper_no_page_is_nearly_empty_and_the_losses_are_there(folder: Path, tmp_path: Path, browser: str) -> None:
    pdftotext = program("BROWSER", "pdftotext")
    command = [browser, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
               "--no-pdf-header-footer", f"--print-to-pdf={tmp_path / 'report.pdf'}"]  # fmt: skip
    subprocess.run([*command, (folder / "report.html").as_uri()], check=True, capture_output=True)
    done = subprocess.run([pdftotext, "-layout", "report.pdf", "-"], cwd=tmp_path, check=True, capture_output=True)
    pages = done.stdout.decode().rstrip("\f").split("\f")
    assert "Validation scores" in pages[0], "the first page is not its heading alone"
    assert all(len(page.split()) > 40 for page in pages[:-1]), [len(page.split()) for page in pages]
    losses = done.stdout.decode().split("Losses")[1].split("Failures")[0]
    assert all(losses.count(task) >= 3 for task in TASKS), "the panels of every method, none of them folded away"
    for caption in ("Points ahead of no teacher", "What training costs", "Seconds of training to reach a score"):
        (page,) = [page for page in pages if caption in page]
        assert "kd" in page.split(caption)[1].split("method", 1)[-1], "its rows stand on its page"


def test_nothing_in_the_page_points_outside(folder: Path) -> None:
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.links), page.links
    assert not page.tags & {"script", "link", "img", "iframe", "object"}
    assert "@import" not in text and not re.search(r"url\((?!#)", text)
    assert "default-src 'none'" in text, "and a browser is told to refuse it"


def test_every_record_can_be_downloaded(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())

    def saved(name: str) -> str:
        return unquote(page.downloads[name].split(",", 1)[1])

    for path in folder.glob("cells/*.json"):
        assert json.loads(saved(path.name)) == json.loads(path.read_text())
    for task in TASKS:
        assert json.loads(saved(f"{task}-teacher-0.json")) == record(task, "teacher", 0)
    assert json.loads(saved("failed-sst2-crd-1.json"))["traceback"] == "Trace\nback"
    for name in ("results.csv", "results.tex"):
        assert saved(name) == (folder / name).read_text()


def test_the_scores(folder: Path) -> None:
    page, found = Page((folder / "report.html").read_text()), read_records(folder)
    table = page.tables["Validation scores"]
    assert [row[0] for row in table] == ["method", "teacher", "larger class", "kd", "p_k.d", "none", "late", "crd"], (
        "sorted by the average"
    )
    scores = {task: [r["score"] for r in found if (r["task"], r["method"]) == (task, "kd")] for task in TASKS}
    kd = of_method(table, "kd")
    for task, values in scores.items():
        assert f"{fmean(values):.1f} ± {stdev(values):.1f}" in kd[task]
    averages = [fmean(values) for values in zip(*scores.values(), strict=True)]
    assert f"{fmean(averages):.1f} ± {stdev(averages):.1f}" in kd["average"]
    teacher = fmean(r["score"] for r in found if r["method"] == "teacher")
    assert kd["retention"].startswith(f"{fmean(averages) / teacher:.1%}")
    drawn = statistics.Bootstrap(found)
    interval, gain = drawn.score("kd"), drawn.difference("kd", "none")
    assert interval and kd["average"].endswith(f" {interval.low:.1f} to {interval.high:.1f}")
    ahead = page.tables["Points ahead of no teacher"]
    assert gain and f"{gain.low:+.1f} to {gain.high:+.1f}; p" in of_method(ahead, "kd")["average"]
    assert ("best", f"{fmean(averages):.1f} ± {stdev(averages):.1f}") in page.marked
    assert of_method(table, "late") == of_method(table, "late") | dict.fromkeys(("stsb", "average", "retention"), "–")
    assert "2 of 3 tasks" in of_method(page.tables["Points ahead of no teacher"], "late")["average"]


@pytest.mark.parametrize("score", [0.0, -3.0])
def test_nothing_is_retained_of_a_teacher_that_knows_nothing(folder: Path, score: float) -> None:
    found = [r | {"score": score} if r["method"] == "teacher" else r for r in read_records(folder)]
    head, *lines = (line.split("|") for line in markdown_table(found).splitlines())
    place = [name.strip() for name in head].index("retention")
    assert {row[1].strip(): row[place].strip() for row in lines if "kd" in row[1]} == {"kd": ""}


@pytest.mark.parametrize(("kind", "metric"), [("spans", "f1"), ("seq2seq", "exact_match")])
def test_answers_that_read_as_numbers_have_no_mean(kind: str, metric: str) -> None:
    right = {"validation": [["1990"], ["2001"], ["1848"]]}
    of = {"task": "years", "method": "teacher", "seed": 0, "kind": kind, "headline": [metric], "references": right}
    found = Guess([of | {"predictions": {"validation": ["1990", "in 2001", "1848"]}}])
    assert (found.name, found.scores) == ("", {})


def test_the_difference_to_the_best_of_each_column(folder: Path) -> None:
    page, drawn = Page((folder / "report.html").read_text()), statistics.Bootstrap(read_records(folder))
    table = page.tables["Points ahead of the best student of the column"]
    assert table[0][:2] == ["method", "average, to kd"]
    assert of_method(table, "kd")["average, to kd"] == "0(best)"
    gap = drawn.difference("none", "kd", "rte")
    (rte,) = [name for name in table[0] if name.startswith("rte, to")]
    assert gap is not None and rte == "rte, to kd"
    assert f"{gap.value:+.1f} {gap.low:+.1f} to {gap.high:+.1f}; p" in of_method(table, "none")[rte]


def test_seeds_that_failed_or_are_missing_are_told(tmp_path: Path, commands: Commands) -> None:
    write(tmp_path)
    (tmp_path / "cells" / "rte-kd-1.json").unlink()
    (tmp_path / "failed" / "rte-none-0.json").write_text(
        json.dumps({"task": "rte", "method": "none", "seed": 0, "error": "gone"})
    )
    (tmp_path / "cells" / "rte-none-0.json").unlink()
    table = Page(write_results(tmp_path)[0].read_text()).tables["Validation scores"]
    assert of_method(table, "kd")["rte"].endswith("; 1 of 2 seeds") and "seeds" not in of_method(table, "kd")["sst2"]
    assert of_method(table, "none")["rte"].endswith("; 1 failed") and "seed" not in of_method(table, "teacher")["rte"]
    assert of_method(table, "crd") == of_method(table, "crd") | {"sst2": "– 1 failed", "rte": "–"}
    for text in (commands.works("table", tmp_path, "--markdown"), (tmp_path / "results.tex").read_text()):
        (kd,) = [line for line in text.splitlines() if line.lstrip("| ").startswith("kd ")]
        (none,) = [line for line in text.splitlines() if line.lstrip("| ").startswith("none ")]
        assert kd.count("1 of 2 seeds") == 1 and none.count("1 failed") == 1
        assert any(line.lstrip("| ").startswith("crd ") and "1 failed" in line for line in text.splitlines())


def test_the_time_to_reach_a_score_that_is_asked_for(tmp_path: Path, commands: Commands) -> None:
    write(tmp_path)
    commands.works("report", tmp_path, "--reach", "rte=12.5")
    page = Page((tmp_path / "report.html").read_text())
    times = page.tables["Seconds of training to reach a score"]
    assert times[0][1] == "rte, 12.5" and times[0][2] != "sst2, 12.5"
    assert of_method(times, "kd")["rte, 12.5"].endswith("10 steps"), "half of the score is there at step 10"
    assert "95% of the best student's but for rte" in page.text
    commands.fails("report", tmp_path, "--reach", "rta=12.5", says=("unknown task 'rta'; did you mean 'rte'",))
    commands.fails("report", tmp_path, "--reach", "rte", says=("--reach is 'rte'; give TASK=SCORE",))


def test_costs_times_and_settings(folder: Path) -> None:
    page = Page((folder / "report.html").read_text())
    kd = of_method(page.tables["What training costs"], "kd")
    assert list(kd.values()) == ["kd", "30.5", "610", "60.0", "19.7", "1.5 GB", "99"]
    # The records' models are all of one size, the teacher's too; a speed is 100 (10 (1 + letters) + seed).
    ((_, *costs),) = page.tables["What inference costs"][1:]
    found = read_records(folder)
    speeds = [(r["method"], r["inference"]["32"]["rows_per_second"]) for r in found]
    each = [fmean(speed for method, speed in speeds if method == name) for name in RATES]
    mean = fmean(speed for _, speed in speeds)
    assert costs == ["17.4 M", "67.1 M", "5.0", "5.0", f"{mean:,.0f} ± {stdev(each):,.0f}"]
    times = page.tables["Seconds of training to reach a score"]
    aim = float(times[0][1].split(", ")[1])
    best = max(fmean(r["score"] for r in read_records(folder) if (r["task"], r["method"]) == ("rte", m)) for m in RATES
               if m != "teacher")  # fmt: skip
    assert aim == pytest.approx(0.95 * best, abs=0.05)
    assert of_method(times, "late")[times[0][1]] == "not reached"
    assert "20 steps" in of_method(times, "kd")[times[0][1]]
    for text in (
        "kdzoo compare --seeds 2 --methods 'kd, <b>'",
        "kdzoo compare --methods p_k&d",
        "budget.epochs",
        "2.13.0",
        "ce became <nan> & more",
    ):
        assert text in page.text
    assert page.tables["Failed cells"][1][:3] == ["sst2", "crd", "1"]


def test_the_csv_has_every_figure(folder: Path) -> None:
    rows = list(csv.DictReader(io.StringIO((folder / "results.csv").read_text())))
    assert len(rows) == len(read_records(folder))
    (kd,) = [row for row in rows if (row["task"], row["method"], row["seed"]) == ("rte", "kd", "1")]
    whole = record("rte", "kd", 1)
    assert float(kd["score"]) == whole["score"] and float(kd["tokens_per_second"]) == whole["tokens_per_second"]
    assert float(kd["step_backward_seconds"]) == 0.01 and float(kd["inference_32_rows_per_second"]) == 3100
    assert float(kd["flops"]) == whole["flops"] and kd["device"] == "CPU x86_64"


def test_latex(folder: Path, commands: Commands) -> None:
    text = commands.works("table", folder, "--latex")
    assert text == (folder / "results.tex").read_text()
    assert r"p\_k.d & " in text and r"$\pm$" in text and "95\\%" in text and "±" not in text
    assert text.count(r"\begin") == text.count(r"\end") == 2
    lines = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len({line.count("&") - line.count(r"\&") for line in lines}) == 1, "as many cells in every row"
    kd = next(line for line in lines if line.startswith("kd"))
    assert r"\textbf" in kd and next(line for line in lines if line.startswith("none")).count(r"\textbf") == 0
    names = [{**r, "method": r"50%_#1 ~{x}^\$", "score": -1.0} for r in read_records(folder) if r["method"] == "kd"]
    assert (
        r"50\%\_\#1 \textasciitilde{}\{x\}\textasciicircum{}\textbackslash{}\$ & \textbf{$-$1.0 $\pm$ 0.0}"
        in latex_table(names)
    )
    commands.fails("table", folder, "--latex", "--markdown", says=("two forms of one table",))


def test_latex_compiles(folder: Path, tmp_path: Path, pdflatex: str) -> None:
    kd = [r for r in read_records(folder) if r["method"] == "kd"]
    hostile = latex_table([{**r, "method": name} for name in HOSTILE for r in kd])
    tables = [(folder / "results.tex").read_text(), hostile]
    (tmp_path / "paper.tex").write_text(
        "\n".join([r"\documentclass{article}\usepackage{booktabs}\begin{document}", *tables, r"\end{document}"])
    )
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size


# Names that mean something to one place or another: markup, formulas, commands, escapes, columns and lines.
HOSTILE = [
    "[/]", "[bold]x", ":smile:", "$x^2$", "$", "a_b^c", r"50%_#1 ~{x}^\$<|>&", r"\input{/etc/passwd}", "[x]", "]",
    "x \\", "=1+1", "+1", "-1", "@SUM(A1)", "\t=1", 'a,b;"c"', "a|b", "a\nb", "`x`", "*x*", "[x](http://y)",
    "<b>", "&amp;", "<script>alert(1)</script>", "</title>", "'\"><img src=x>", "{{ 1 }}",
    "\x1b[2J\x1b]0;x\x07", "\x00", "\x9b31m", "\u202egnp", "\ud800", "ę é ß", "日本", "😀", "../../x", "x" * 60,
]  # fmt: skip


def test_hostile_names_are_shown_and_do_nothing(folder: Path, tmp_path: Path) -> None:
    """One list of names through every place that names are written to."""
    kept = [r for r in read_records(folder) if r["method"] in ("teacher", "none")]
    kept += [{**r, "method": name} for r in read_records(folder) if r["method"] == "kd" for name in HOSTILE]
    study = Study({"shared": {"teacher": HOSTILE[0], "student": HOSTILE[-2]}, "commands": HOSTILE}, kept, [
        {"task": "sst2", "method": name, "seed": 9, "error": name} for name in HOSTILE])  # fmt: skip
    shown = [escape.printable(name) for name in HOSTILE]
    assert all(text.isprintable() or text == "a\nb" for text in shown)

    console = Console(width=4000, record=True, file=io.StringIO(), force_terminal=True)
    console.print(terminal_table(kept, HOSTILE[0]))
    written = console.export_text()
    assert all(" ".join(text.split("\n")) in written for text in shown)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", written)

    lines = markdown_table(kept).splitlines()
    assert len(lines) == 2 + 3 + len(HOSTILE)
    assert {len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) for line in lines} == {9}, "as many cells in every row"
    assert "<" not in "".join(lines) and not re.search(r"(?<!\\)\]\(", "".join(lines))

    rows = list(csv.reader(io.StringIO(csv_table(kept))))
    assert len(rows) == 1 + len(kept) and {len(row) for row in rows} == {len(rows[0])}
    number = re.compile(r"[-+](\d+(\.\d+)?)?")  # which a spreadsheet shows as it is
    assert not any(row[1].startswith(("=", "+", "-", "@", "\t", "\r")) for row in rows if not number.fullmatch(row[1]))
    safe = {text for text in shown if text[0] not in "=+-@" or number.fullmatch(text)}
    assert {row[1] for row in rows[3:]} >= safe | {f"'{text}" for text in {*shown} - safe}

    findings = Findings(study)
    page = page_of(findings, csv_table(kept), latex_table(kept))
    found = Page(page)
    names = {row[0] for row in found.tables["Validation scores"]}
    assert all(text.strip() in names for text in shown) and not found.tags & {"script", "img", "b"}
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e]", page) and page.encode()
    assert all(text in found.text for text in shown)


def test_names_in_plots_are_neither_cut_nor_over_one_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """The boxes of all texts against their figure, and of names against each other, as they are drawn."""
    figures: list[Figure] = []
    monkeypatch.setattr(plots, "_svg", lambda figure, *_: figures.append(figure) or figure.draw_without_rendering())
    rng = np.random.default_rng(0)
    names = ["none", "kd", "lrc_one_stage_unperturbed", "pkd", "$x$", "tinybert", "minilm", "crd"]
    for spread in (0.01, 1.0, 20.0):
        ends = {name: [(0, 50.0), (1, 70 + spread * rng.normal())] for name in names}
        plots.curves(ends, names, "steps", "", "")
        # All of them end where the axes do, at the top and at the bottom.
        ends = {name: [(0, 0.0), (1, float(place > 3))] for place, name in enumerate(names)}
        plots.curves(ends, names, "steps", "", "")
        terms = {name: [(1, 10.0 ** (spread * rng.normal() / 9)), (200_000, 1e-4)] for name in names}
        plots.losses(dict.fromkeys("abcde", terms), "", "")
        far = [(f"{name}{i}", *(spread * rng.normal(size=2))) for i in range(4) for name in names]
        points = [Point(name, 100 + x, 60 + y) for name, x, y in far]
        plots.frontier(points, "rows/s", "", "", named=14)
        plots.frontier([Point(p.name, 5.0, p.y, deviation=1.0) for p in points], "rows/s", "", "", named=8)
        plots.steps({p.name: dict.fromkeys(PARTS, 0.1) for p in points}, "", "")
        plots.critical_difference(ranking({p.name: {"a": p.x, "b": p.y} for p in points}, ["a", "b"]), "", "")
    for figure in figures:
        edge = figure.bbox
        for text in texts_of(figure):
            box = text.get_window_extent()
            assert box.x0 >= edge.x0 - 0.5 and box.x1 <= edge.x1 + 0.5, f"{text.get_text()} is cut off at a side"
            assert box.y0 >= edge.y0 - 0.5 and box.y1 <= edge.y1 + 0.5, f"{text.get_text()} is cut off above or below"
        assert labels.overlapping([text for axes in figure.axes for text in axes.texts if text.get_visible()]) == []
    assert len(figures) == 21 and sum(len(axes.texts) for figure in figures for axes in figure.axes) > 300


def texts_of(figure: Figure) -> list[Text]:
    """All that are drawn: ticks beyond the axes' limits have texts too, which are not."""
    found: list[Text] = []
    for axes in figure.axes:
        if not axes.get_visible():
            continue
        found += [*axes.texts, *(legend.get_texts() if (legend := axes.get_legend()) else ())]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high and axis.get_visible()]
            found += [axis.label, *(label for tick in ticks for label in (tick.label1, tick.label2))]
    return [text for text in found if text.get_text() and text.get_visible()]


NEW = ("tokens_per_second", "step_seconds", "curve", "inference", "history", "flops", "peak_memory", "loss_parameters",
       "evaluation_samples_per_second", "device", "threads", "versions", "started", "finished", "metrics", "steps",
       "train_seconds", "configuration", "format")  # fmt: skip


def test_missing_fields_are_dashes(tmp_path: Path) -> None:
    page = Page(write_results(write(tmp_path, *NEW))[0].read_text())
    assert [*of_method(page.tables["What training costs"], "kd").values()] == ["kd", "30.5", "–", "–", "–", "–", "–"]
    assert "What inference costs" not in page.tables
    assert "Seconds of training to reach a score" not in page.tables
    assert "no scores from within the training" in page.text and "hold no losses" in page.text


def test_without_labels_there_are_no_intervals(tmp_path: Path) -> None:
    page = Page(write_results(write(tmp_path, "references", "predictions"))[0].read_text())
    assert "hold no labels" in page.text
    assert not {mark for mark, _ in page.marked} - {"best"}
    assert re.fullmatch(r"\+\d+\.\d", of_method(page.tables["Points ahead of no teacher"], "kd")["average"])
    assert " to " not in of_method(page.tables["Validation scores"], "kd")["average"]


def test_one_row_has_no_interval(folder: Path) -> None:
    def cut(answers: dict[str, list[float]]) -> dict[str, list[float]]:
        return {split: rows[:1] for split, rows in answers.items()}

    found = [
        r | {name: cut(r[name]) for name in ("predictions", "references") if name in r} for r in read_records(folder)
    ]
    drawn = statistics.Bootstrap(found)
    assert drawn.score("kd") is drawn.difference("kd", "none") is drawn.retention("kd") is None


def test_one_method_and_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "rte-kd-0.json").write_text(json.dumps(record("rte", "kd", 0)))
    page = Page(write_results(tmp_path, tmp_path / "sub" / "one.html")[0].read_text())
    assert [*page.tables] == ["Validation scores", "What training costs", "Seconds of training to reach a score",
                              "What inference costs"]  # fmt: skip
    assert not (tmp_path / "results.csv").exists(), "with a file named, that file alone is written"
    (tmp_path / "teachers" / "rte").mkdir(parents=True)
    helpless = {**record("rte", "teacher", 0), "score": 0.0}
    (tmp_path / "teachers" / "rte" / "record.json").write_text(json.dumps(helpless))
    page = Page(write_results(tmp_path)[0].read_text())
    assert of_method(page.tables["Validation scores"], "kd")["retention"].startswith("–")
    (tmp_path / "cells" / "rte-kd-0.json").unlink()
    assert "Comparison of 0 methods" in Page(write_results(tmp_path)[0].read_text()).text


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted(RECORDS.glob("*.jsonl.gz")), ids=lambda path: path.name)
def test_the_published_records(path: Path, tmp_path: Path, browser: str) -> None:
    page = Page(write_results(path, tmp_path / "report.html")[0].read_text())
    for width in WIDTHS:
        found = measured(browser, tmp_path / "report.html", width, tmp_path)
        assert (found["page"] <= width, found["wide"], found["cut"], found["over"]) == (True, [], [], [])
    assert len(page.tables["Validation scores"]) > 7 and len(page.plots) > 9
    assert len(page.ids) == len(set(page.ids))


def cells(right: dict[str, float], rows: int = 40, task: str = "rte", **more: Any) -> list[dict[str, Any]]:
    """A teacher and methods of one seed, the first so many of whose predictions are right."""
    labels = [1.0] * (rows // 2) + [0.0] * (rows - rows // 2)
    found = []
    for name, rate in right.items():
        mine = [label if place < rate * rows else 1 - label for place, label in enumerate(labels)]
        own = record(task, name if name in RATES else "kd", 0) | {"method": name, "score": 100 * rate}
        own["predictions"] = {"validation": mine}
        own.pop("references", None)
        found.append(own | ({"references": {"validation": labels}} if name == "teacher" else {}) | more)
    return found


def test_ties_are_called_ties() -> None:
    found = Findings(Study(records=cells({"teacher": 0.9, "none": 0.6, "kd": 0.6, "crd": 0.5})))
    said = "training without a teacher and kd tie for the best average score, 60.0: 66.7% of the teacher's."
    assert scores.in_short(found)[0] == said
    behind, two = scores.behind_table(found), scores.best_two_table(found)
    assert behind is not None and behind.head[1] == "average, to no teacher and kd"
    assert [row[1].mark for row in behind.rows] == ["best", "best", behind.rows[2][1].mark]
    assert two is not None and [row[4].text for row in two.rows] == ["tie", "tie"]
    assert latex_table(found.records).count(r"\textbf{60.0}") == 4, "both, on the task and on the average"


def test_a_model_of_one_class_is_marked(tmp_path: Path) -> None:
    labels = [1.0, 1.0, 1.0, 0.0]
    whole = {"teacher": labels, "kd": [1.0, 1.0, 0.0, 0.0], "none": [1.0] * 4, "crd": [0.0] * 4}
    found = []
    for seed in range(2):
        for name, predicted in whole.items():
            if name == "crd" and seed:
                predicted = labels
            score = 100 * fmean(a == b for a, b in zip(predicted, labels, strict=True))
            own = cells({name: 1.0})[0] | {"seed": seed, "score": score, "predictions": {"validation": predicted}}
            if name != "teacher" or not seed:
                found.append(own | ({"references": {"validation": labels}} if name == "teacher" else {}))
    rows = {line.split(" | ")[0].strip("| "): line.split(" | ") for line in markdown_table(found).splitlines()}
    assert rows["larger class"][1:3] == ["75.0", "75.0"]
    assert rows["none"][1:3] == ["75.0, one class", "75.0"], "whose ± of 0 would look like precision"
    assert rows["crd"][1] == f"62.5 ± {stdev([25, 100]):.1f}, one class in 1 of 2"
    assert rows["kd"][1:3] == ["75.0 ± 0.0", "75.0 ± 0.0"]
    table = scores.score_table(Findings(Study(records=found)), None)
    told = {row[0].text: (row[2].text, row[2].warning) for row in table.rows}
    assert told["none"] == ("75.0", "one class") and told["kd"] == ("75.0 ± 0.0", "")
    assert told["crd"][1] == "one class in 1 of 2" and told["larger class"][0] == "75.0"
    assert "training without a teacher predicts one class" in scores.in_short(Findings(Study(records=found)))[-1]


def test_a_teacher_that_knows_no_more_than_a_guess_is_named() -> None:
    said = "The teacher is no better than a constant guess on rte."
    alone = scores.in_short(Findings(Study(records=cells({"none": 0.6}))))
    assert alone[0].startswith("training without a teacher has"), "and not that no teacher has it"
    short = [scores.in_short(Findings(Study(records=cells({"teacher": rate, "kd": 0.6})))) for rate in (0.5, 0.6)]
    assert said in short[0] and said not in short[1]


@pytest.mark.parametrize(("width", "columns"), [(200, 7), (90, 6), (56, 4), (40, 4)])
def test_a_narrow_terminal_has_every_score_and_fewer_costs(width: int, columns: int) -> None:
    found = cells({"teacher": 0.9, "none": 0.6, "kd": 0.5})
    found += cells({"teacher": 0.8, "none": 0.7, "kd": 0.4}, task="sst2")
    console = Console(width=width, record=True, file=io.StringIO(), force_terminal=True)
    console.print(terminal_table(found, "rows"))
    lines = console.export_text().splitlines()
    row = next(line for line in lines if line.startswith("│ none"))
    assert [cell.strip() for cell in row.strip("│").split("│")][:4] == ["none", "60.0", "70.0", "65.0"]
    assert row.count("│") - 1 == columns and "…" not in "".join(lines)
    assert ("a wider terminal also has:" in "".join(lines)) == (columns < 7)


def test_the_time_to_reach_a_share_of_a_negative_best() -> None:
    curve = [{"step": 5, "seconds": 1.0, "score": -30.0}, {"step": 10, "seconds": 2.0, "score": -20.0}]
    found = Findings(Study(records=cells({"teacher": 0.9, "kd": 0.5}, curve=curve)))
    found.means["kd"] = {"rte": -20.0}
    table = course.time_table(found)
    assert table is not None and table.head[1] == "rte, -21.0" and table.rows[0][1].text == "2.0"


def test_methods_without_a_score_are_counted() -> None:
    failures = [{"task": "rte", "method": name, "seed": 0, "error": "gone"} for name in ("crd", "kd", "rkd")]
    found = Findings(Study(records=cells({"teacher": 0.9, "kd": 0.5}), failures=failures))
    page = Page(page_of(found, "", ""))
    assert "Comparison of 3 methods on rte" in page.text and "2 methods have no score." in page.text


def test_one_architecture_has_one_speed_and_the_teacher_is_in_the_plot() -> None:
    records = cells({"teacher": 0.9, "none": 0.5, "kd": 0.6, "big": 0.7})
    for own, (speed, size) in zip(records, [(10.0, 9), (100.0, 3), (140.0, 3), (50.0, 5)], strict=True):
        own.update(parameters=size, inference={"32": {"latency_ms": 1e3 / speed, "rows_per_second": speed}})
    found = Findings(Study(records=records))
    assert sorted(map(sorted, costs.architectures(found))) == [["big"], ["kd", "none"], ["teacher"]]
    table = costs.inference_table(found)
    assert table is not None
    rows = {row[0].text: row for row in table.rows}
    assert rows["2 students"][5].text == "120 ± 28.3" and rows["2 students"][5].note == "12.00 × the teacher"
    plot = costs.inference_plot(found)
    assert plot is not None
    assert plot.caption == "On the Pareto front: teacher (90.0 at 10), big (70.0 at 50), kd (60.0 at 120)."
    assert "none (50.0 at 120)" in plot.svg and "Inference cost" in plot.title
    training = costs.training_plot(found)
    assert training is not None and "teacher" not in training.svg and "Training cost" in training.title


def test_many_comparisons_are_corrected_for() -> None:
    """Thirty methods like the baseline and one that is better: what stands out by itself is told from what holds."""
    rng = np.random.default_rng(1)
    labels = rng.integers(2, size=300).astype(float)
    found = []
    for name, rate in [("teacher", 0.95), ("none", 0.7), ("good", 0.9), *((f"m{i}", 0.7) for i in range(30))]:
        own = np.where(rng.random(300) < rate, labels, 1 - labels)
        found.append(cells({name: 1.0})[0] | {"score": 100 * float((own == labels).mean()),
                     "predictions": {"validation": own.tolist()},
                     **({"references": {"validation": labels.tolist()}} if name == "teacher" else {})})  # fmt: skip
    findings = Findings(Study(records=found))
    table = scores.gain_table(findings)
    assert table is not None
    by_name = {row[0].text: row[1] for row in table.rows}
    assert by_name["good"].mark == "up" and "p < 0.001" in by_name["good"].note
    others = [cell.mark for name, cell in by_name.items() if name != "good"]
    assert any("alone" in mark for mark in others) and not {"up", "down"} & {*others}
    text = Page(page_of(findings, "", "")).text
    assert "Holm's correction for the 31 comparisons of its column" in " ".join(text.split())


def test_the_report_of_a_packed_comparison(folder: Path, tmp_path: Path) -> None:
    pack(folder, tmp_path / "study.jsonl.gz")
    files = write_results(tmp_path / "study.jsonl.gz")
    assert files == [tmp_path / f"study.{ending}" for ending in ("html", "csv", "tex")]
    one, other = (Page(path.read_text()) for path in (folder / "report.html", files[0]))
    assert one.tables == other.tables and one.downloads.keys() == other.downloads.keys()


def test_what_cannot_be_reported(commands: Commands, tmp_path: Path) -> None:
    commands.fails("report", tmp_path, says=(f"{tmp_path} holds no records",))
    commands.fails("report", tmp_path / "nothing", says=("holds no records",))
    write(tmp_path)
    commands.fails("report", tmp_path, "--out", tmp_path, says=("is a folder; name a file",))
    path = tmp_path / "cells" / "rte-kd-0.json"
    whole = path.read_text()
    for text, says in (
        (whole[:100], "cannot be read"),
        ("[]", "is not a record"),
        (json.dumps({**json.loads(whole), "score": "high"}), "lacks score"),
        (json.dumps({**json.loads(whole), "format": 99}), "newer kdzoo"),
    ):
        path.write_text(text)
        ran = commands("report", tmp_path)
        assert f"{path} " in ran.err and says in ran.err
        assert (ran.code, (tmp_path / "report.html").exists()) == ((2, False) if says == "newer kdzoo" else (0, True))
        (tmp_path / "report.html").unlink(missing_ok=True)
    path.write_text(json.dumps({**json.loads(whole), "predictions": {"validation": [1.0]}}))
    ran = commands("report", tmp_path)
    assert "has 1 predictions" in ran.err and "80 labels" in ran.err


def test_the_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [Point(str(i), float(x), float(y)) for i, (x, y) in enumerate(rng.integers(0, 6, (12, 2)))]
        best = front(points)
        kept = {(p.x, p.y) for p in points
                if not any(q.x >= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in points)}  # fmt: skip
        assert {(p.x, p.y) for p in best} == kept and len(best) == len(kept)
        assert [p.x for p in best] == sorted(p.x for p in best)


def trial(method: str, number: int, right: float, rows: int = 80, **tried: float) -> dict[str, Any]:
    """A trial whose predictions of the held-out rows are right up to a share of them."""
    labels = [1.0] * rows
    answers = [1.0 if place < right * rows else 0.0 for place in range(rows)]
    return record("sst2", "kd", 0) | {
        "method": f"{method}#{number}", "score": 100 * right, "predictions": {"validation": answers},
        "references": {"validation": labels}, "tried": tried,
    }  # fmt: skip


def test_what_tuning_chose_and_gained(tmp_path: Path, commands: Commands) -> None:
    folder = write(tmp_path / "tuned")
    (folder / "trials").mkdir()
    tried = [trial("kd", 0, 0.6), trial("kd", 1, 0.8, learning_rate=3e-4, **{"kd.weight": 0.5}),
             trial("kd", 2, 0.8, learning_rate=1.0), trial("late", 0, 0.7), trial("late", 1, 0.4, learning_rate=2.0),
             trial("p_k.d", 1, 0.5, learning_rate=0.001)]  # fmt: skip
    tried[3]["configuration"] = {"budget": {"epochs": 3.0, "learning_rate": 0.003}}
    for made in tried:
        (folder / "trials" / f"sst2-{made['method']}-0.json").write_text(json.dumps(made))
    config = json.loads((folder / "config.json").read_text())
    config["shared"]["tune"] = 3
    (folder / "config.json").write_text(json.dumps(config))
    commands.works("report", folder)
    page = Page((folder / "report.html").read_text())
    words = "one budget for all but for learning rate of late, and what 3 trials a method chose"
    assert words in page.text and words in " ".join(commands.works("table", folder).split())
    head, *rows = page.tables["What tuning chose, and what it gained"]
    assert head == ["method", "task", "trials", "trained with", "untuned", "what was chosen", "gain"]
    by_method = {row[0]: row for row in rows}
    assert by_method["kd"][1:6] == ["sst2", "3", "kd.weight 0.5, learning_rate 0.0003", "60.0", "80.0"]
    gain, low, _, high = by_method["kd"][6].split()
    assert float(gain) == 20.0 and 8 < float(low) < 20 < float(high) < 32, "a fifth of 80 rows, give or take"
    assert by_method["late"][2:] == ["2 of 3", "no setting changed", "70.0", "70.0", "0.0"]
    assert by_method["p_k.d"][2:] == ["1 of 3", "learning_rate 0.001", "–", "50.0", "– untuned it failed"]
    assert "trial-sst2-kd#1-0.json" in page.downloads
    # Packed and unpacked, and a folder without trials has no such part.
    commands.works("pack", folder, tmp_path / "tuned.jsonl.gz")
    commands.works("report", tmp_path / "tuned.jsonl.gz")
    assert Page((tmp_path / "tuned.html").read_text()).tables["What tuning chose, and what it gained"][1:] == rows
    commands.works("pack", tmp_path / "tuned.jsonl.gz", tmp_path / "again")
    assert {path.name for path in (tmp_path / "again" / "trials").iterdir()} == {
        path.name for path in (folder / "trials").iterdir()
    }
    (folder / "trials" / "sst2-kd#1-0.json").write_text(json.dumps(tried[0]))
    ran = commands("report", folder)
    assert ran.code == 0 and "kd#0, seed 0, which its name does not say" in ran.err
