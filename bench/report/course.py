"""The report's course of training: the time to reach a score, learning curves, and each term of each loss."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import fmean

from kdzoo.bench.report import plots
from kdzoo.bench.report.cells import BASELINE, NOTHING, REACHED, SHOWN, Cell, Record, Table
from kdzoo.bench.report.findings import Findings

Lines = dict[str, list[tuple[float, float]]]


def time_table(found: Findings) -> Table | None:
    """Seconds of training until a score is reached first."""
    if not any(record.get("curve") for record in found.records):
        return None
    aims = {task: found.reach.get(task, _aim(found, task)) for task in found.tasks}
    rows = [
        [Cell(method), *(_reached(found.of([method], task), aim) for task, aim in aims.items())]
        for method in found.students
    ]
    head = ["method", *(f"{task}, {aim:.1f}" for task, aim in aims.items())]
    return Table("Seconds of training to reach a score", head, rows)


def _aim(found: Findings, task: str) -> float:
    """What is short of the best score by the share of it that is not asked for, also where that is below 0."""
    score = max((of[task] for of in found.means.values() if task in of), default=0.0)
    return score - (1 - REACHED) * abs(score)


def _reached(records: list[Record], aim: float) -> Cell:
    curves = [record["curve"] for record in records if record.get("curve")]
    first = [next((at for at in curve if at["score"] >= aim), None) for curve in curves]
    reached = [at for at in first if at]
    if not curves:
        return Cell(NOTHING)
    if not reached:
        return Cell("not reached")
    note = f"{fmean(at['step'] for at in reached):.0f} steps"
    note += f", {len(reached)} of {len(first)} seeds" if len(reached) < len(first) else ""
    return Cell(f"{fmean(at['seconds'] for at in reached):,.1f}", note)


def shown_methods(found: Findings) -> list[str]:
    """The methods that have a colour in the learning curves: the best on the average, and the baseline."""
    return list(dict.fromkeys([*found.students[:SHOWN], *([BASELINE] if BASELINE in found.means else [])]))


def curve_plots(found: Findings) -> Iterator[tuple[str, list[str]]]:
    """By task: score over steps and over seconds."""
    shown = shown_methods(found)
    for task in found.tasks:
        by_axis: dict[str, Lines] = {"step": {}, "seconds": {}}
        for method in found.students:
            for axis, line in _mean_curve(found.of([method], task)).items():
                by_axis[axis][method] = line
        if not by_axis["step"]:
            continue
        ends = ", ".join(f"{method} {line[-1][1]:.1f}" for method, line in by_axis["step"].items())
        yield (
            task,
            [
                plots.curves(lines, shown, axis, f"{task}: score over {axis}", f"Final scores: {ends}.")
                for axis, lines in (("steps", by_axis["step"]), ("seconds of training", by_axis["seconds"]))
            ],
        )


def _mean_curve(records: list[Record]) -> Lines:
    """Scores over steps and over seconds, means over seeds; empty where none were recorded."""
    at: dict[int, list[Record]] = {}
    for record in records:
        for point in record.get("curve") or []:
            at.setdefault(point["step"], []).append(point)
    names = ("step", "seconds", "score")
    means = [{name: fmean(point[name] for point in of) for name in names} for _, of in sorted(at.items())]
    return {axis: [(of[axis], of["score"]) for of in means] for axis in ("step", "seconds")} if means else {}


def loss_plots(found: Findings) -> Iterator[tuple[str, str, str]]:
    """By method: its terms, and their course."""
    for method in found.students:
        panels = {task: lines for task in found.tasks if (lines := _mean_losses(found.of([method], task)))}
        if not panels:
            continue
        terms = ", ".join(dict.fromkeys(term for lines in panels.values() for term in lines if term != "loss"))
        ends = "; ".join(
            f"{task}: " + ", ".join(f"{term} {line[0][1]:.3g} to {line[-1][1]:.3g}" for term, line in lines.items())
            for task, lines in panels.items()
        )
        title, text = f"Losses of {method} over steps", f"From the start to the end. {ends}."
        yield method, terms, plots.losses(panels, title, text)


def _mean_losses(records: list[Record]) -> Lines:
    """The loss and its terms over steps, means over seeds."""
    at: dict[str, dict[int, list[float]]] = {}
    for entry in (entry for record in records for entry in record.get("history") or []):
        for key in entry:
            if key == "loss" or key.startswith("loss/"):
                at.setdefault(key.removeprefix("loss/"), {}).setdefault(entry["step"], []).append(entry[key])
    if len(at) == 2:
        at.pop("loss", None)  # it is the only term
    return {key: [(step, fmean(of)) for step, of in sorted(steps.items())] for key, steps in at.items()}
