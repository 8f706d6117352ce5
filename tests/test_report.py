"""The report of a comparison: its figures, what it does with missing ones, and the page in a browser."""

from __future__ import annotations

import csv
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

from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.page import write_results
from kdzoo.bench.report.plots import Point, front
from kdzoo.bench.report.table import latex_table, read_records

RATES = {"teacher": 0.95, "none": 0.7, "kd": 0.8, "p_k&d": 0.79, "<b>": 0.6}
TASKS = ("rte", "sst2", "stsb")
RECORDS = Path(__file__).parents[1] / "docs" / "results"


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
            if (task, method) == ("stsb", "<b>"):
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
    assert list(page.tables) == ["Validation scores", "Points ahead of none",
                                 "Points ahead of the best student of the column", "The best two",
                                 "What each method costs", "Seconds of training to reach a score",
                                 "Failed cells"]  # fmt: skip
    # Ranks, two of throughput, steps, two of curves a task, losses of the four students.
    assert len(page.plots) == 1 + 2 + 1 + 2 * len(TASKS) + 4
    assert all(plot["role"] == "img" and plot["title"] and len(plot["desc"]) > 20 for plot in page.plots)
    assert all(label in page.ids for plot in page.plots for label in plot["labels"].split())
    assert len(page.ids) == len(set(page.ids))
    assert len(page.downloads) == 2 + 1 + 1 + len(TASKS) + 2 * (4 * len(TASKS) - 1)
    source = Page((folder / "report.html").read_text())
    assert (source.tables, source.downloads) == (page.tables, page.downloads)


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
    assert [row[0] for row in table] == ["method", "teacher", "kd", "p_k&d", "none", "<b>", "crd"], (
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
    assert (
        gain
        and f"{gain.low:+.1f} to {gain.high:+.1f}" in of_method(page.tables["Points ahead of none"], "kd")["average"]
    )
    assert ("best", f"{fmean(averages):.1f} ± {stdev(averages):.1f}") in page.marked
    assert of_method(table, "<b>") == of_method(table, "<b>") | dict.fromkeys(("stsb", "average", "retention"), "–")
    assert "2 of 3 tasks" in of_method(page.tables["Points ahead of none"], "<b>")["average"]


def test_the_difference_to_the_best_of_each_column(folder: Path) -> None:
    page, drawn = Page((folder / "report.html").read_text()), statistics.Bootstrap(read_records(folder))
    table = page.tables["Points ahead of the best student of the column"]
    assert table[0][:2] == ["method", "average, to kd"]
    assert of_method(table, "kd")["average, to kd"] == "0(best)"
    gap = drawn.difference("none", "kd", "rte")
    (rte,) = [name for name in table[0] if name.startswith("rte, to")]
    assert gap is not None and rte == "rte, to kd"
    assert f"{gap.value:+.1f} {gap.low:+.1f} to {gap.high:+.1f}" in of_method(table, "none")[rte]


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
    kd = of_method(page.tables["What each method costs"], "kd")
    assert kd["train rows/s"] == "30.5" and kd["tokens/s"] == "610" and kd["step, ms"] == "60.0"
    assert (
        kd["peak memory"] == "1.5 GB"
        and kd["parameters"] == "17.4 M + 99 of the loss"
        and kd["FLOPs a row"] == "67.1 M"
    )
    assert kd["latency, batch 1, ms"] == "5.0" and kd["rows/s, batch 32"] == f"3,050 {30.5 / 80:.2f} × the teacher"
    times = page.tables["Seconds of training to reach a score"]
    aim = float(times[0][1].split(", ")[1])
    best = max(fmean(r["score"] for r in read_records(folder) if (r["task"], r["method"]) == ("rte", m)) for m in RATES
               if m != "teacher")  # fmt: skip
    assert aim == pytest.approx(0.95 * best, abs=0.05)
    assert of_method(times, "<b>")[times[0][1]] == "not reached"
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
    assert r"p\_k\&d & " in text and r"$\pm$" in text and "95\\%" in text and "±" not in text
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
    commands.fails("table", folder, "--latex", "--markdown", says=("not together with --markdown",))


def test_latex_compiles(folder: Path, tmp_path: Path, pdflatex: str) -> None:
    names = [{**r, "method": r"50%_#1 ~{x}^\$<|>&"} for r in read_records(folder) if r["method"] == "kd"]
    tables = [(folder / "results.tex").read_text(), latex_table(names)]
    (tmp_path / "paper.tex").write_text(
        "\n".join([r"\documentclass{article}\usepackage{booktabs}\begin{document}", *tables, r"\end{document}"])
    )
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert (tmp_path / "paper.pdf").stat().st_size


NEW = ("tokens_per_second", "step_seconds", "curve", "inference", "history", "flops", "peak_memory", "loss_parameters",
       "evaluation_samples_per_second", "device", "threads", "versions", "started", "finished", "metrics", "steps",
       "train_seconds", "configuration", "format")  # fmt: skip


def test_missing_fields_are_dashes(tmp_path: Path) -> None:
    page = Page(write_results(write(tmp_path, *NEW))[0].read_text())
    costs = of_method(page.tables["What each method costs"], "kd")
    assert list(costs.values()) == ["kd", "30.5", "–", "–", "–", "–", "17.4 M", "–", "–", "–", "–"]
    assert "Seconds of training to reach a score" not in page.tables
    assert "no scores from within the training" in page.text and "hold no losses" in page.text


def test_without_labels_there_are_no_intervals(tmp_path: Path) -> None:
    page = Page(write_results(write(tmp_path, "references", "predictions"))[0].read_text())
    assert "hold no labels" in page.text
    assert not {mark for mark, _ in page.marked} - {"best"}
    assert re.fullmatch(r"\+\d+\.\d", of_method(page.tables["Points ahead of none"], "kd")["average"])
    assert " to " not in of_method(page.tables["Validation scores"], "kd")["average"]


def test_one_method_and_no_teacher(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "rte-kd-0.json").write_text(json.dumps(record("rte", "kd", 0)))
    page = Page(write_results(tmp_path, tmp_path / "sub" / "one.html")[0].read_text())
    assert list(page.tables) == ["Validation scores", "What each method costs", "Seconds of training to reach a score"]
    assert not (tmp_path / "results.csv").exists(), "with a file named, that file alone is written"
    (tmp_path / "teachers" / "rte").mkdir(parents=True)
    helpless = {**record("rte", "teacher", 0), "score": 0.0}
    (tmp_path / "teachers" / "rte" / "record.json").write_text(json.dumps(helpless))
    page = Page(write_results(tmp_path)[0].read_text())
    assert of_method(page.tables["Validation scores"], "kd")["retention"].startswith("–")
    (tmp_path / "cells" / "rte-kd-0.json").unlink()
    assert "Comparison of 0 methods" in Page(write_results(tmp_path)[0].read_text()).text


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        "glue-all-methods",
        "glue-minilm-l6-full",
        "glue-minilm-l6-subset",
        "glue-minilm-l6-to-4x312",
        "glue-minilm-l6-to-4x312-subset",
    ],
)
def test_the_published_records(name: str, tmp_path: Path) -> None:
    page = Page(write_results(RECORDS / name, tmp_path / "report.html")[0].read_text())
    assert len(page.tables["Validation scores"]) > 7 and len(page.plots) > 9
    assert len(page.ids) == len(set(page.ids))


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
        commands.fails("report", tmp_path, says=(str(path), says))
    path.write_text(json.dumps({**json.loads(whole), "predictions": {"validation": [1.0]}}))
    commands.fails("report", tmp_path, says=("rte, kd, seed 0 has 1 predictions", "80 labels"))
    assert not (tmp_path / "report.html").exists()


def test_the_front_is_what_nothing_dominates() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        points = [Point(str(i), float(x), float(y)) for i, (x, y) in enumerate(rng.integers(0, 6, (12, 2)))]
        best = front(points)
        kept = {(p.x, p.y) for p in points
                if not any(q.x >= p.x and q.y >= p.y and (q.x, q.y) != (p.x, p.y) for q in points)}  # fmt: skip
        assert {(p.x, p.y) for p in best} == kept and len(best) == len(kept)
        assert [p.x for p in best] == sorted(p.x for p in best)
