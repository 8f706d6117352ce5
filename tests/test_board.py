"""The board of results: every method of every committed study, and the script that filters and sorts it."""

from __future__ import annotations

import html
import json
import re
import runpy
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
from reports import in_browser

from kdzoo.bench.packed import read_study

ROOT = Path(__file__).parents[1]
# What a reader does, and the first cells of the rows that are left after each step, as the page's own script sees them.
STEPS = """
const table = document.querySelector("table.here");
const [task, student, budget] = document.querySelectorAll("#board select");
const rows = () => [...table.tBodies[0].rows].filter((row) => !row.hidden).map(
  (row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => cell.textContent));
const heads = () => [...table.tHead.rows[0].cells].filter((cell) => !cell.hidden).map((cell) => cell.textContent);
const told = {}, choose = (of, value) => { of.value = value; of.onchange(); };
told.options = [task, student, budget].map((of) => [...of.options].map((option) => option.value));
told.all = rows();
choose(task, "stsb");
told.task = [heads(), rows()];
table.tHead.rows[0].cells[6].querySelector("button").click();
told.ascending = rows();
choose(student, "narrow");
told.student = rows();
told.count = document.querySelector("#board [role=status]").textContent;
choose(task, "all");
choose(student, "all");
choose(budget, "all rows");
told.budget = rows();
choose(budget, "all");
document.querySelector("#board input").value = " LRC";
document.querySelector("#board input").oninput();
told.method = rows();
table.tHead.rows[0].cells[0].querySelector("button").click();
told.named = rows();
const mark = document.getElementById("board");
const frame = table.parentElement;
frame.style.overflowX = "auto";
told.wide = ["50px", "3000px"].map((width) => {
  frame.style.width = width;
  window.dispatchEvent(new Event("resize"));
  return [mark.classList.contains("wide"), frame.scrollWidth > frame.clientWidth];
});
told.breaks = [...table.querySelectorAll("wbr")].map(
  (of) => [of.previousSibling.textContent, of.nextSibling.textContent]);
const out = document.createElement("pre");
out.id = "told";
out.textContent = JSON.stringify(told);
document.body.append(out);
"""
HEAD = ("method", "student", "budget of students", "seeds", "sst2", "mrpc", "stsb", "average", "retention", "study")
ROWS = [
    ("kd", "wide", "all rows", "3", "80.0", "", "9.5 ± 0.1", "44.8", "50.0%", "one"),
    ("lrc", "wide", "all rows", "3", "79.0", "", "70.0 ± 1.0", "74.5", "90.0%", "one"),
    ("kd", "narrow", "all rows", "3", "", "75.0", "10.5, one class", "42.8", "48.0%", "two"),
    ("lrc", "narrow", "2,000 rows", "1", "", "", "-3.0", "-3.0", "", "three"),
    ("no_teacher", "narrow", "2,000 rows", "1", "51.0", "", "", "51.0", "60.0%", "three"),
]


@pytest.fixture(scope="module")
def board() -> list[dict[str, str]]:
    text = runpy.run_path(str(ROOT / "docs/board.py"))["board"]()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip() for cell in line[1:-1].split("|")] for line in lines]
    return [dict(zip(head, row, strict=True)) for row in rows]


def test_every_method_of_every_study_is_there_with_its_records_figures(board: list[dict[str, str]]) -> None:
    studies = [read_study(path) for path in sorted((ROOT / "docs/results").glob("*.jsonl.gz"))]
    assert len(board) == sum(len({record["method"] for record in study.records}) for study in studies)
    full = read_study(ROOT / "docs/results/glue-minilm-l6-full.jsonl.gz").records
    (row,) = [of for of in board if of["method"] == "minilm" and "three-layers" in of["study"]]
    for task in ("mrpc", "stsb"):
        of = [record["score"] for record in full if (record["task"], record["method"]) == (task, "minilm")]
        assert row[task] == f"{fmean(of):.1f} ± {stdev(of):.1f}"
    assert (row["sst2"], row["seeds"], row["budget of students"]) == ("", "3", "all rows, 1 epoch")
    earlier = {of["method"] for of in board if "earlier reading" in of["method"]}
    assert earlier == {"lrc, earlier reading", "lrc_one_stage, earlier reading"}
    pages = {
        "LRC-BERT": "lrc-bert",
        "other tasks": "results/other-tasks",
        "base-size teacher": "results/base-size-teacher",
        "translation": "results/translation",
    }
    of_today = {f"[{name}]({page}.md)" for name, page in pages.items()}
    assert {of["study"] for of in board if of["method"] == "lrc"} == of_today


def test_every_study_has_its_page(board: list[dict[str, str]]) -> None:
    pages = {of["study"].split("](")[1].strip(")") for of in board}
    assert all((ROOT / "docs" / page).is_file() for page in pages)


def test_the_board_is_filtered_and_sorted_offline(tmp_path: Path, browser: str) -> None:
    cells = "".join(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in ROWS)
    head = "".join(f"<th>{name}</th>" for name in HEAD)
    script = (ROOT / "docs/board.js").read_text()
    page = tmp_path / "board.html"
    before = '<meta charset="utf-8"><table><tr><td>another</td></tr></table><div id="board"></div>'
    table = f'<table class="here"><thead><tr>{head}</tr></thead><tbody>{cells}</tbody></table>'
    page.write_text(f"{before}{table}<script>{script}</script><script>{STEPS}</script>")
    written, asked = in_browser(browser, page, tmp_path)
    assert asked == []
    told: dict[str, Any] = json.loads(html.unescape(re.findall(r'<pre id="told">(.*?)</pre>', written, re.DOTALL)[0]))
    assert told["options"] == [
        ["all", "sst2", "mrpc", "stsb"], ["all", "wide", "narrow"], ["all", "all rows", "2,000 rows"]
    ]  # fmt: skip
    assert told["all"] == [list(row) for row in ROWS]
    heads, rows = told["task"]
    assert heads == ["method", "student", "budget of students", "seeds", "stsb", "study"]
    assert [row[4] for row in rows] == ["70.0 ± 1.0", "10.5, one class", "9.5 ± 0.1", "-3.0"], "as numbers, best first"
    assert [row[4] for row in told["ascending"]] == ["-3.0", "9.5 ± 0.1", "10.5, one class", "70.0 ± 1.0"]
    assert [row[0] for row in told["student"]] == ["lrc", "kd"] and told["count"] == "2 of 5 rows"
    assert {row[9] for row in told["budget"]} == {"one", "two"} and len(told["budget"]) == 3
    assert sorted(row[9] for row in told["method"]) == ["one", "three"]
    assert [row[0] for row in told["named"]] == ["lrc", "lrc"]
    assert told["wide"] == [[True, True], [False, False]], "a table wider than its frame scrolls in it, and says so"
    assert told["breaks"] == [["_", "teacher"]], "a long name breaks at its underscores alone"


def test_other_pages_are_left_alone(tmp_path: Path, browser: str) -> None:
    page = tmp_path / "plain.html"
    script = (ROOT / "docs/board.js").read_text()
    page.write_text(f"<table><thead><tr><th>a</th></tr></thead></table><script>{script}</script>")
    written, _ = in_browser(browser, page, tmp_path)
    assert "<button" not in written and "<select" not in written
