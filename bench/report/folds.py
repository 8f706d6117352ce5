"""The folds of one task as one column: the mean over the folds of each method's score, by seed."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean
from typing import Any

Record = dict[str, Any]
Job = tuple[str, str, int]
SAME = ("method", "seed", "kind", "headline", "parameters")
MEANS = ("score", "samples_per_second")


def joined(records: Sequence[Record]) -> list[Record]:
    """The records with those of a task's folds as one for each method and seed, of the folds that all of these have.

    Its score is the mean over the folds, and its predictions and labels are by fold, as those of several validation
    splits are: rows are resampled within each, and scores are never taken of rows of several folds together. The task
    is called as all folds together are, and where some are missing, it says how many there are. Folds that are of one
    method or seed alone are left out; where no fold is of all, each stays a task by itself.

    Args:
        records: of a comparison; those that are joined already stay as they are.

    Returns:
        What there was of no fold, and the joined ones with ``parts``, the records they are made of, and ``folds``, the
        names of all tasks of folds, the missing among them.
    """
    wholes: dict[str, list[Record]] = {}
    for record in records:
        if record.get("fold"):
            wholes.setdefault(record["fold"]["of"], []).append(record)
    made = {whole: _joined(whole, own) for whole, own in wholes.items()}
    found = []
    for record in records:
        whole = record["fold"]["of"] if record.get("fold") else ""
        if not whole or not made[whole]:
            found.append(record)
        elif record is wholes[whole][0]:
            found += made[whole]
    return found


def _joined(whole: str, records: Sequence[Record]) -> list[Record]:
    by_cell: dict[tuple[str, int], dict[str, Record]] = {}
    for record in records:
        by_cell.setdefault((record["method"], record["seed"]), {})[record["task"]] = record
    seen = list(dict.fromkeys(record["task"] for record in records))
    names = [name for name in seen if all(name in own for own in by_cell.values())]
    count = records[0]["fold"]["count"]
    task = whole if len(names) == count else f"{whole} ({len(names)} of {count} folds)"
    return [_mean(task, [own[name] for name in names], seen) for own in by_cell.values()] if names else []


def _mean(task: str, parts: Sequence[Record], folds: Sequence[str]) -> Record:
    first = parts[0]
    found: Record = {name: first[name] for name in SAME if name in first}
    found |= {name: fmean(part[name] for part in parts) for name in MEANS}
    found |= {name: _by_fold(name, parts) for name in ("predictions", "references") if name in first}
    found |= {name: _by_place([part.get(name) or [] for part in parts]) for name in ("curve", "history")}
    found["metrics"] = _means([part.get("metrics", {}) for part in parts])
    guess = [part.get("guess", {}) for part in parts]
    found["guess"] = _means([{k: v for k, v in of.items() if k == "score" and v is not None} for of in guess])
    found["one_class"] = all(part.get("one_class", False) for part in parts)
    return found | {"task": task, "parts": list(parts), "folds": list(folds)}


def _by_fold(name: str, parts: Sequence[Record]) -> dict[str, list[Any]]:
    """What is predicted or right, by fold and split."""
    return {f"{part['task']}/{split}": of for part in parts for split, of in part.get(name, {}).items()}


def _by_place(lists: Sequence[Sequence[dict[str, Any]]]) -> list[dict[str, float]]:
    """The means of what was taken at the same place of each course; folds differ by a row or two, and so do steps."""
    return [_means(of) for of in zip(*lists, strict=False)]


def _means(of: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The means of the numbers that all have."""
    names = [name for name in of[0] if all(isinstance(one.get(name), (int, float)) for one in of)]
    return {name: fmean(one[name] for one in of) for name in names}


def joined_jobs(jobs: Sequence[Job], records: Sequence[Record]) -> list[Job]:
    """Jobs with those of folds as of the task that `joined` made of them, each once."""
    wholes = {fold: record["task"] for record in records for fold in record.get("folds", ())}
    return list(dict.fromkeys((wholes.get(task, task), method, seed) for task, method, seed in jobs))


def parts_of(record: Record) -> list[Record]:
    """The records that one is made of: itself where it is of no folds."""
    return record.get("parts") or [record]


def about(records: Sequence[Record]) -> list[str]:
    """A sentence on each task that is made of folds."""
    counts = {record["task"]: len(parts_of(record)) for record in records if "folds" in record}
    return [
        f"{task}: the mean over {count} folds, each scored by models that were trained on the rows of all others, and "
        "its rows resampled within it."
        for task, count in counts.items()
    ]
