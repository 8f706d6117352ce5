"""The report's table of a tuning: what was chosen for each method, and how much it gained."""

from __future__ import annotations

from kdzoo.bench.report.cells import Cell, Record, Table, _number
from kdzoo.bench.report.findings import Findings
from kdzoo.bench.report.uncertainty import Bootstrap
from kdzoo.bench.trials import best_trial, in_words, parted, trial_name


def tuning_table(found: Findings) -> Table | None:
    """A row a method and task: the settings that its best trial had, and the gain over no change with the interval."""
    tuned: dict[tuple[str, str, int], dict[int, Record]] = {}
    for record in found.trials:
        method, trial = parted(record["method"])
        tuned.setdefault((record["task"], method, record["seed"]), {})[trial or 0] = record
    if not tuned:
        return None
    asked, seeds = found.config.get("shared", {}).get("tune", 0), {seed for _, _, seed in tuned}
    rows = []
    for (task, method, seed), trials in tuned.items():
        count = f"{len(trials)} of {asked}" if asked and len(trials) < asked else str(len(trials))
        rows.append(_row(task, method, trials, count + (f", seed {seed}" if len(seeds) > 1 else "")))
    head = ["method", "task", "trials", "trained with", "untuned", "what was chosen", "gain"]
    return Table("What tuning chose, and what it gained", head, rows)


def _row(task: str, method: str, trials: dict[int, Record], count: str) -> list[Cell]:
    best = best_trial({trial: record["score"] for trial, record in trials.items()})
    own, chosen = trials.get(0), trials[best]
    gain = Cell("0.0")
    if own is None:
        gain = Cell("–", "untuned it failed")
    elif best:
        estimate = Bootstrap([own, chosen]).difference(trial_name(method, best), trial_name(method, 0), task)
        note = f"{estimate.low:+.1f} to {estimate.high:+.1f}" if estimate else ""
        gain = Cell(f"{chosen['score'] - own['score']:+.1f}", note)
    told = [method, task, count, in_words(chosen.get("tried", {}))]
    return [*map(Cell, told), Cell(_number(own["score"] if own else None, ".1f")), Cell(f"{chosen['score']:.1f}"), gain]
