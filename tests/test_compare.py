"""kdzoo compare: the same teacher, start and rows for all methods, repeatable, and with more to come in its folder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest
import torch
from command_line import ROWS, SIZES, TEACHER, Commands, records, results, same, weights
from torch import Tensor

from kdzoo.bench.grid import cells
from kdzoo.bench.runs import train as training
from kdzoo.objectives.recipe import Recipe
from kdzoo.training import cache
from kdzoo.training.stopwatch import PARTS

GRID = ("--tasks", "sst2,stsb", "--methods", "none,crd", "--seeds", "2")


GUESS = "larger class or mean"  # the row of a constant prediction


def cells_of(out: str) -> dict[str, list[str]]:
    """The terminal's table: a method's cells, without the rules and what a constant prediction scores."""
    rows = [
        [cell.strip() for cell in line.strip("│┃ ").split("│")] for line in out.splitlines() if line.startswith("│")
    ]
    return {row[0]: row[1:] for row in rows if row[0] != GUESS}


def test_the_teacher_runs_over_the_rows_once_for_all_methods(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[list[str]] = []
    computed = cache._computed

    def counted(features: Any, *others: Any) -> Any:
        passes.append([str(feature) for feature in features])
        return computed(features, *others)

    monkeypatch.setattr(cache, "_computed", counted)
    grid = ("--tasks", "sst2", "--methods", "kd,crd,tinybert", "--seeds", 1)
    commands.works("compare", *grid, *SIZES, "--out", tmp_path)
    assert len(passes) == 1 and "logits" in passes[0] and len(passes[0]) > 3
    assert all(records(tmp_path)[f"sst2-{method}-0"]["cached"] for method in ("kd", "crd", "tinybert"))


def test_a_comparison_end_to_end(commands: Commands, tmp_path: Path, trained: list[Any]) -> None:
    folder = tmp_path / "out"
    out = commands.works("compare", *GRID, *SIZES, "--out", folder)
    kept = records(folder)
    grid = [f"{task}-{method}-{seed}" for task in ("sst2", "stsb") for method in ("none", "crd") for seed in (0, 1)]
    assert set(kept) == {*grid, "sst2-teacher", "stsb-teacher"}
    assert len(trained) == 10

    for record in kept.values():
        assert record["format"] == 1 and record["configuration"]["shared"]["data"] == "synthetic"
        assert record["samples_per_second"] > 0 and record["steps"] == 2 and record["peak_memory"] > 2**20
        assert set(record["step_seconds"]) == {*PARTS}
        assert 5 * record["samples_per_second"] < record["tokens_per_second"] < 40 * record["samples_per_second"]
        assert record["flops"] > 0 and set(record["inference"]) == {"1", "32"}
        assert all(speed["latency_ms"] > 0 for speed in record["inference"].values())
        assert [point["step"] for point in record["curve"]] == [2] if record["method"] == "teacher" else [1, 2]
        assert record["curve"][-1]["score"] == record["score"]
        assert record["evaluation_samples_per_second"] > 0 and record["rows"] == {"train": 64, "validation": 32}
        assert record["versions"]["torch"] == torch.__version__ and record["device"]
        assert record["started"] <= record["finished"]
    crd, teacher = kept["sst2-crd-0"], kept["sst2-teacher"]
    assert crd["loss_parameters"] > 0 and kept["sst2-none-0"]["loss_parameters"] == 0
    assert crd["parameters"] == kept["sst2-none-0"]["parameters"] < teacher["parameters"]
    assert crd["flops"] < teacher["flops"]
    assert crd["cached"] and not kept["sst2-none-0"]["cached"] and not teacher["cached"]
    assert "sst2   the teacher's activations are kept for crd: 0.0 MB" in out
    spent = kept["sst2-none-0"]["step_seconds"]
    assert crd["step_seconds"]["teacher"] > 0 and spent["teacher"] < 0.1 * sum(spent.values())
    assert set(kept["stsb-none-0"]["metrics"]) == {"pearson", "spearmanr"}

    # Neither the cache nor the learning curve changes what is learned.
    other = tmp_path / "live"
    options = ("--evaluations", 0, "--cache-limit", 0)
    commands.works("compare", *GRID, *SIZES, *options, "--out", other)
    assert not (other / "cache").exists()
    for name, record in records(other).items():
        assert not record["cached"] and len(record["curve"]) == 1
        assert record["score"] == pytest.approx(kept[name]["score"], abs=1e-4)
        losses, same = ([e["loss"] for e in r["history"] if "loss" in e] for r in (record, kept[name]))
        assert losses == pytest.approx(same, rel=1e-4)

    # The table, from the records by hand.
    table = cells_of(out)
    assert list(table) == ["teacher", "none", "crd"]
    averages = {}
    for method, row in table.items():
        means = []
        for task, cell in zip(("sst2", "stsb"), row[:2], strict=True):
            seeds = ("teacher",) if method == "teacher" else (f"{method}-0", f"{method}-1")
            scores = [kept[f"{task}-{seed}"]["score"] for seed in seeds]
            means.append(fmean(scores))
            shown, constant, _ = cell.partition(", one ")  # class or value, for every row: its spread says nothing
            spread = f" ± {stdev(scores):.1f}" if len(scores) > 1 and (not constant or " in 1 of" in cell) else ""
            assert shown == f"{fmean(scores):.1f}{spread}"
        averages[method] = fmean(means)
        own = [record for record in kept.values() if record["method"] == method]
        assert [row[2].partition(" ±")[0], *row[3:]] == [
            f"{averages[method]:.1f}",
            f"{averages[method] / averages['teacher']:.1%}",
            f"{fmean(record['samples_per_second'] for record in own):.0f}",
            f"{own[0]['parameters'] / 1e6:.2f} M",
        ]
    markdown = commands.works("table", folder, "--markdown")
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in markdown.splitlines()]
    assert rows[0] == ["method", "sst2", "stsb", "average", "retention", "train rows/s", "parameters"]
    rows = [row for row in rows[2:] if row[0] != GUESS]
    assert {row[0]: row[1:] for row in rows} == table and [row[0] for row in rows] == list(table)
    assert cells_of(commands.works("table", folder)) == table

    with (folder / "results.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 10
    for line in lines:
        name = f"{line['task']}-{line['method']}"
        record = kept[name if line["method"] == "teacher" else f"{name}-{line['seed']}"]
        assert float(line["score"]) == record["score"] and int(line["parameters"]) == record["parameters"]
        assert line["accuracy"] == str(record["metrics"].get("accuracy", ""))

    # The same again trains nothing and prints the same; a larger grid trains what is missing.
    trained.clear()
    again = commands.works("compare", *GRID, *SIZES, "--out", folder)
    assert cells_of(again) == table and not trained and records(folder) == kept
    larger = ("--tasks", "sst2,stsb,mrpc", "--methods", "none,crd,kd", "--seeds", "2")
    out = commands.works("compare", *larger, *SIZES, "--out", folder)
    assert list(cells_of(out)) == ["teacher", "none", "crd", "kd"]
    kd = [(task, "kd", seed) for task in ("sst2", "stsb") for seed in (0, 1)]
    mrpc = [("mrpc", "none", 0), *(("mrpc", method, seed) for seed in (0, 1) for method in ("none", "crd", "kd"))]
    assert trained == kd + mrpc
    grown = records(folder)
    assert {name: grown[name] for name in kept} == kept and len(grown) == 10 + 4 + 7
    trained.clear()
    commands.works("compare", "--tasks", "sst2", "--methods", "none", "--seeds", "3", *SIZES, "--out", folder)
    assert trained == [("sst2", "none", 2)]
    assert len(records(folder)) == 22 and len((folder / "results.csv").read_text().splitlines()) == 23

    # Another setting is refused, and named.
    for changed, says in (
        (("--epochs", "2"), "budget.epochs is 1.0 there and 2.0 here"),
        (("--student", "1x8"), "student is '1x16,heads=2' there and '1x8' here"),
        (("--train-rows", "32"), "train_rows is 64 there and 32 here"),
        (("--warmup-ratio", "0.1"), "configuration: options given: none there and --warmup-ratio here. "),
        (("--set", "crd.temperature=0.1"), "temperature is None there and 0.1 here"),
    ):
        refused = ("compare", *GRID, *SIZES, *changed, "--out", folder)
        commands.fails(*refused, says=("another configuration", says, "--out"))
    assert records(folder).keys() == {*grown, "sst2-none-2"}


def test_records_depend_on_the_seed_alone(commands: Commands, tmp_path: Path) -> None:
    grid = ("--tasks", "stsb", "--methods", "crd,lrc", "--seeds", "2", *SIZES)
    commands.works("compare", *grid, "--out", tmp_path / "one")
    torch.manual_seed(1234)
    # In another order, and stopped in between: no cell depends on what ran before it.
    commands.works("compare", "--tasks", "stsb", "--methods", "lrc", *SIZES, "--out", tmp_path / "other")
    commands.works("compare", *grid, "--out", tmp_path / "other")
    one, other = results(tmp_path / "one"), results(tmp_path / "other")
    assert one == other
    assert one["stsb-crd-0"]["predictions"] != one["stsb-crd-1"]["predictions"]
    assert one["stsb-crd-0"]["predictions"] != one["stsb-lrc-0"]["predictions"]


def test_all_methods_of_a_seed_start_alike_and_see_the_same_rows(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    methods = ("none", "kd", "tinybert", "crd", "lrc")
    starts: dict[tuple[str, int], dict[str, Tensor]] = {}
    teachers: list[dict[str, Tensor]] = []
    seen: dict[tuple[str, int], list[list[int]]] = {}
    current: list[list[int]] = []

    def watched(student: Any, teacher: Any, recipe: Recipe, **options: Any) -> Any:
        if options["task"].name == "sst2" and student.config.hidden_size == 16:
            key = (recipe.name, options["seed"])
            starts[key] = {name: value.clone() for name, value in student.state_dict().items()}
            if teacher is not None:
                teachers.append({name: value.clone() for name, value in teacher.state_dict().items()})
            seen[key] = []
            current[:] = []
        outcome = training.train(student, teacher, recipe, **options)
        if student.config.hidden_size == 16:
            seen[key].extend(current)
        return outcome

    inner = training.DistillationTrainer.compute_loss

    def noted(self: Any, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> Any:
        if model.training:
            current.append(inputs["sample_ids"].tolist())
        return inner(self, model, inputs, *rest, **more)

    monkeypatch.setattr(cells, "train", watched)
    monkeypatch.setattr(training.DistillationTrainer, "compute_loss", noted)
    grid = ("--tasks", "sst2", "--methods", ",".join(methods), "--seeds", "2", *SIZES, "--batch-size", "16")
    commands.works("compare", *grid, "--out", tmp_path)
    for seed in (0, 1):
        for method in methods[1:]:
            assert same(starts[method, seed], starts["none", seed]), method
            assert seen[method, seed] == seen["none", seed], method
        assert sorted(row for batch in seen["none", seed] for row in batch) == list(range(64))
    assert not same(starts["none", 0], starts["none", 1]) and seen["none", 0] != seen["none", 1]
    assert len(teachers) == 8 and all(same(teacher, teachers[0]) for teacher in teachers)


def test_a_teacher_taken_as_it_is(commands: Commands, tmp_path: Path, trained: list[Any]) -> None:
    commands.works("finetune", "--task", "sst2", "--model", TEACHER, "--out", tmp_path / "teacher", *ROWS)
    options = ("--teacher", tmp_path / "teacher", "--no-finetune-teacher", "--methods", "kd", *ROWS)
    commands.works("compare", "--tasks", "sst2", *options, "--out", tmp_path / "out")
    assert same(weights(tmp_path / "out" / "teachers" / "sst2"), weights(tmp_path / "teacher"))
    kept = records(tmp_path / "out")
    assert kept["sst2-teacher"]["steps"] == 0
    finetuned = json.loads((tmp_path / "teacher" / "record.json").read_text())
    assert kept["sst2-teacher"]["predictions"] == finetuned["predictions"]
    # The default student is every other layer of the teacher's.
    assert kept["sst2-kd-0"]["configuration"]["shared"]["student"] == "teacher:1"


def test_workers_give_what_one_process_gives(commands: Commands, tmp_path: Path) -> None:
    methods = ("--methods", "none,kd,crd_kd", "--set", "crd_kd:kd.temperature=1e-42")
    grid = ("compare", "--tasks", "sst2,rte", *methods, "--seeds", "1", *SIZES)
    says = ("crd_kd 0 failed, and 1 more", "the loss is not finite at step 1: the term 'kd' is nan")
    commands.fails(*grid, "--out", tmp_path / "one", code=1, says=says)
    commands.fails(*grid, "--workers", "2", "--out", tmp_path / "two", code=1, says=says)
    one, two = records(tmp_path / "one"), records(tmp_path / "two")
    assert (
        one.keys() == two.keys() == {f"{task}-{of}" for task in ("sst2", "rte") for of in ("teacher", "none-0", "kd-0")}
    )
    for name in one:
        # Not to the last bit: a sum depends on how many threads share it.
        assert one[name]["predictions"]["validation"] == pytest.approx(two[name]["predictions"]["validation"])
        assert one[name]["configuration"] == two[name]["configuration"]
    failed = ["rte-crd_kd-0.json", "sst2-crd_kd-0.json"]
    assert all(sorted(of.name for of in (tmp_path / out / "failed").iterdir()) == failed for out in ("one", "two"))


def test_weights_that_the_last_step_breaks_are_a_failure(commands: Commands, tmp_path: Path) -> None:
    """The loss of one step is finite, and no other step follows that would show what the update did."""
    grid = ("--tasks", "stsb", "--methods", "none", *SIZES, "--batch-size", "64", "--warmup-ratio", "0")
    options = ("--teacher-learning-rate", "0.01", "--learning-rate", "1e38", "--out", tmp_path / "out")
    commands.fails("compare", *grid, *options, code=1, says=("stsb none 0 failed", "weights are not finite"))
    assert records(tmp_path / "out").keys() == {"stsb-teacher"}
