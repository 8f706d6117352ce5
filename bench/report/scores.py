"""The report's tables of scores: means with intervals, differences and how sure they are, ties, ranks over tasks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from statistics import fmean, stdev

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report import plots
from kdzoo.bench.report.cells import BASELINE, NOTHING, Cell, Table, _holds, _interval, _number
from kdzoo.bench.report.findings import Findings, in_prose, listed
from kdzoo.bench.report.ranking import Ranking
from kdzoo.bench.report.rows import averages_of
from kdzoo.bench.report.uncertainty import AVERAGE, LEVEL, Estimate, best, holm, leading, marks
from kdzoo.tasks.metric_words import figures, shown


def score_table(found: Findings, ranking: Ranking | None) -> Table:
    """Every method's scores, with what a constant guess scores below the teacher's."""
    seen = marks(found.means, found.bootstrap, found.columns)
    rows = [_score_row(found, method, seen, ranking) for method in found.methods]
    for method in found.unscored:
        told = [Cell(NOTHING, found.lacks(method, column)) for column in found.columns]
        rows.append([Cell(method), *told, Cell(NOTHING), Cell(NOTHING)])
    if found.guess.name:
        rows.insert(1 if TEACHER in found.rows else 0, _guess_row(found))
    head = ["method", *found.columns, "retention", "mean rank"]
    above = (TEACHER in found.rows) + bool(found.guess.name)
    return Table("Validation scores", head, rows, above=above)


def _score_row(
    found: Findings, method: str, seen: Mapping[tuple[str, str], str], ranking: Ranking | None
) -> list[Cell]:
    row = found.rows[method]
    spread = {**row.scores, AVERAGE: averages_of(found.joined, method, found.tasks)}
    value = {**row.means, **({AVERAGE: row.average} if found.complete(method) else {})}
    answers = {task: found.one_answer(method, task) for task in found.tasks}
    answers[AVERAGE] = "one class" if all(map(_always, answers.values())) else ""
    cells = [Cell(method)]
    for column in found.columns:
        text = _number(value.get(column), ".1f")
        deviates = column in value and len(spread[column]) > 1 and not _always(answers[column])
        text += f" ± {stdev(spread[column]):.1f}" if deviates else ""
        told = answers[column] if column in value and column != AVERAGE else ""
        interval = found.bootstrap.score(method, column)
        says = interval is not None and interval.low < interval.high
        notes = [_interval(interval) if says else "", found.lacks(method, column)]
        cells.append(Cell(text, "; ".join(filter(None, notes)), seen.get((method, column), ""), warning=told))
    kept = found.bootstrap.retention(method) if method != TEACHER else None
    cells.append(Cell(_number(found.retained(method), ".1%"), f"{kept.low:.1%} to {kept.high:.1%}" if kept else ""))
    return [*cells, Cell(_number(ranking.ranks.get(method) if ranking else None, ".2f"))]


def _always(answer: str) -> bool:
    """Whether all of a method's models on a task predict one class, not some alone."""
    return bool(answer) and " in " not in answer


def _guess_row(found: Findings) -> list[Cell]:
    scores = found.guess.scores
    whole = sum(scores.values()) / len(scores) if len(scores) == len(found.tasks) else None
    told = [Cell(_number(score, ".1f")) for score in (whole, *map(scores.get, found.tasks))]
    return [Cell(found.guess.name), *told, Cell(NOTHING), Cell(NOTHING)]


def fold_tables(found: Findings) -> Iterator[Table]:
    """Of each task that is made of folds, every metric: its mean over the folds and seeds."""
    for task in found.tasks:
        records = [record for record in found.joined if record["task"] == task]
        names = list(records[0]["metrics"]) if "folds" in records[0] else []
        if len(names) < 2:
            continue
        rows = []
        for method in found.methods:
            own = [record["metrics"] for record in records if record["method"] == method]
            told = {name: fmean(of[name] for of in own) for name in names if own and all(name in of for of in own)}
            values = figures(told, records[0].get("kind", ""))
            rows.append([Cell(method), *(Cell(values.get(shown(name, names), NOTHING)) for name in names)])
        head = ["method", *(shown(name, names) for name in names)]
        yield Table(f"{task}: the mean over folds and seeds of each metric", head, rows)


# --- differences ------------------------------------------------------------------------------------------------------


def gain_table(found: Findings) -> Table | None:
    """How far each method is ahead of training without a teacher."""
    others = [method for method in found.students if method != BASELINE]
    if BASELINE not in found.rows or not others:
        return None
    by_column = [_gains(found, others, BASELINE, column) for column in found.columns]
    rows = []
    for place, method in enumerate(others):
        gains = [of[place] for of in by_column]
        shared = sum(gain.text != NOTHING for gain in gains[1:])
        if 0 < shared < len(found.tasks):
            gains[0] = replace(gains[0], note=f"{gains[0].note}, {shared} of {len(found.tasks)} tasks")
        rows.append([Cell(method), *gains])
    return Table(f"Points ahead of {in_prose(BASELINE)}", ["method", *found.columns], rows)


def behind_table(found: Findings) -> Table | None:
    """How far each method is behind the best student of each column."""
    if len(found.students) < 2:
        return None
    lead = {column: leading(found.means, column) for column in found.columns}
    by_column = []
    for column in found.columns:
        others = [method for method in found.students if method not in lead[column]]
        first = lead[column][:1]
        told = dict(zip(others, _gains(found, others, first[0], column), strict=True)) if first else {}
        by_column.append(told | {name: Cell("0", mark="best") for name in lead[column]})
    rows = [[Cell(method), *(of.get(method, Cell(NOTHING)) for of in by_column)] for method in found.students]
    head = [f"{column}, to {listed(lead[column]) if lead[column] else NOTHING}" for column in found.columns]
    return Table("Points ahead of the best student of the column", ["method", *head], rows)


def best_two_table(found: Findings) -> Table | None:
    """Whether the best of each column can be told from the next."""
    rows: list[list[Cell]] = []
    for column in [*found.tasks, AVERAGE]:
        order = best(found.means, column)
        if len(order) < 2:
            continue
        first, second = order[:2]
        gaps = _gains(found, order[1:], first, column)
        gap = found.bootstrap.difference(first, second, column)
        verdict = (
            "tie" if second in leading(found.means, column)
            else NOTHING if gap is None
            else "differ" if gaps[0].mark == "down"
            else "cannot be told apart"
        )  # fmt: skip
        told = Cell(f"{found.means[first][column] - found.means[second][column]:+.1f}")
        if gap is not None:
            told = Cell(f"{gap.value:+.1f}", f"{gap.low:+.1f} to {gap.high:+.1f}", _mark(gap, gaps[0].mark == "down"))
        rows.append([*map(Cell, (column, first, second)), told, Cell(verdict)])
    return Table("The best two", ["task", "best", "second", "difference", "they"], rows) if rows else None


def _gains(found: Findings, methods: list[str], against: str, column: str) -> list[Cell]:
    """How far each is ahead of another, with its interval, and marked by what Holm's correction for all leaves."""
    gaps = [found.bootstrap.difference(method, against, column) for method in methods]
    raised = iter(holm([gap.p for gap in gaps if gap is not None]))
    cells = []
    for method, gap in zip(methods, gaps, strict=True):
        if gap is None:
            own, other = (found.means[name].get(column) for name in (method, against))
            cells.append(Cell(NOTHING if own is None or other is None else f"{own - other:+.1f}"))
            continue
        p = next(raised)
        if column != AVERAGE and all(_always(found.one_answer(name, column)) for name in (method, against)):
            cells.append(Cell(f"{gap.value:+.1f}", "one class both"))
            continue
        small = "< 0.001" if p < 0.001 else f"{p:.3f}" if p < 0.1 else f"{p:.2f}"
        note = f"{gap.low:+.1f} to {gap.high:+.1f}; p {small}"
        cells.append(Cell(f"{gap.value:+.1f}", note, _mark(gap, p < 1 - LEVEL)))
    return cells


def _mark(gap: Estimate, holds: bool) -> str:
    """Up or down where 0 is outside of the interval and the correction for all comparisons holds, else maybe so."""
    if not gap.sure:
        return ""
    return ("up" if gap.value > 0 else "down") + ("" if holds else "-alone")


# --- ranks and the summary --------------------------------------------------------------------------------------------


def rank_part(found: Ranking) -> tuple[str, str]:
    """What the tests over tasks say, and the diagram."""
    leader = next(iter(found.ranks))
    worse = sum(rank - found.ranks[leader] >= found.critical for rank in found.ranks.values())
    alike = "do not all rank alike" if found.p < 1 - LEVEL else "cannot be told apart by their ranks"
    said = (
        f"Friedman test over {found.tasks} tasks and {len(found.ranks)} methods: χ² = {found.statistic:.1f}, "
        f"p = {found.p:.2g}: the methods {alike}. Critical difference {found.critical:.2f}: "
        f"{worse or 'no'} other method{'s rank' if worse > 1 else ' ranks'} so far behind {in_prose(leader)}."
    )
    order = ", ".join(f"{name} {rank:.2f}" for name, rank in found.ranks.items())
    text = f"Mean ranks, the best first: {order}. {said}"
    return said, plots.critical_difference(found, "Critical-difference diagram", text)


def in_short(found: Findings) -> list[str]:
    """What the figures say, in a few sentences."""
    first = leading(found.means, AVERAGE)
    if not first:
        return []
    order, score = best(found.means, AVERAGE), found.means[first[0]][AVERAGE]
    kept = found.retained(first[0])
    whose = f": {kept:.1%} of the teacher's" if kept else ""
    if len(first) > 1:
        said = [f"{listed(first, subject=True)} tie for the best average score, {score:.1f}{whose}."]
    else:
        said = [f"{in_prose(first[0], subject=True)} has the best average score, {score:.1f}{whose}."]
    level = [mark for mark in marks(found.means, found.bootstrap, [AVERAGE]).values() if mark == "level"]
    if level:
        of = f"{len(level)} of the other {len(order) - len(first)} methods"
        said.append(f"{of} cannot be told apart from {'them' if len(first) > 1 else 'it'} on the average.")
    gain = found.bootstrap.difference(first[0], BASELINE) if BASELINE not in first else None
    if gain:
        ahead = f"{gain} points ahead of {in_prose(BASELINE)}: the interval {_holds(gain)} 0."
        said.append(f"{'It' if len(first) == 1 else in_prose(first[0])} is {ahead}")
    teacher = found.rows[TEACHER].scores if TEACHER in found.rows else {}
    useless = [task for task, guess in found.guess.scores.items() if task in teacher and fmean(teacher[task]) <= guess]
    if useless:
        said.append(f"The teacher is no better than a constant guess on {', '.join(useless)}.")
    alike = [name for name in found.students if any(_always(found.one_answer(name, task)) for task in found.tasks)]
    if alike:
        who = listed(alike, subject=True) if len(alike) < 4 else f"{len(alike)} methods"
        predict = "predicts" if len(alike) == 1 else "predict"
        said.append(f"{who} {predict} one class on some task, whatever the row: that score is a constant guess's.")
    return said
