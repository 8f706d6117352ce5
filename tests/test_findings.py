"""What a report finds in a comparison's records: ties, guesses, costs, corrections, and what tuning gained."""

from __future__ import annotations

import io
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import pytest
from command_line import Commands
from reports import RATES, Page, record, write
from rich.console import Console

from kdzoo.bench.packed import Study
from kdzoo.bench.report import costs, course, scores
from kdzoo.bench.report import uncertainty as statistics
from kdzoo.bench.report.findings import Findings
from kdzoo.bench.report.page import html as page_of
from kdzoo.bench.report.plots import Point, front
from kdzoo.bench.report.table import latex_table, markdown_table, terminal_table


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "RESAMPLES", 100)


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
