"""The report of a comparison: its figures, what it does with missing ones, and the page in a browser."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path
from statistics import fmean, stdev
from urllib.parse import unquote

import numpy as np
import pytest
from command_line import Commands
from conftest import program
from matplotlib.figure import Figure
from matplotlib.text import Text
from reports import RATES, RECORDS, TASKS, WIDTHS, Page, in_browser, measured, of_method, record, write
from rich.console import Console

from kdzoo.bench import escape
from kdzoo.bench.packed import Study, pack
from kdzoo.bench.report import labels, plots
from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.findings import Findings
from kdzoo.bench.report.guess import Guess
from kdzoo.bench.report.page import html as page_of
from kdzoo.bench.report.page import write_results
from kdzoo.bench.report.plots import Point
from kdzoo.bench.report.ranking import ranking
from kdzoo.bench.report.table import PARTS, csv_table, latex_table, markdown_table, read_records, terminal_table


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A comparison with its report."""
    found = write(tmp_path_factory.mktemp("comparison"))
    statistics.RESAMPLES, kept = 100, statistics.RESAMPLES
    files = write_results(found)
    statistics.RESAMPLES = kept
    assert files == [found / name for name in ("report.html", "results.csv", "results.tex")]
    return found


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
