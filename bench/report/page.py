"""The report of a comparison: ``report.html``, a file that opens offline, with ``results.csv`` and ``results.tex``."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean, stdev

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from kdzoo.bench.files import write_atomically
from kdzoo.bench.record import TEACHER, jobs_of, read_config, read_failures
from kdzoo.bench.report import plots
from kdzoo.bench.report.cells import (
    BASELINE,
    NOTHING,
    REACHED,
    SHOWN,
    Cell,
    Download,
    Record,
    Table,
    _amount,
    _flat,
    _holds,
    _inference,
    _interval,
    _number,
    _scaled,
    _short,
)
from kdzoo.bench.report.ranking import Ranking, ranking
from kdzoo.bench.report.table import (
    PARTS,
    csv_table,
    latex_table,
    means_of,
    read_records,
    rows_of,
    seeds_note,
    seeds_of,
)
from kdzoo.bench.report.uncertainty import AVERAGE, LEVEL, Bootstrap, best, marks
from kdzoo.errors import KdzooError, unknown


def write_results(folder: Path, out: Path | None = None, reach: Mapping[str, float] | None = None) -> list[Path]:
    """Write what a comparison found: the report, and unless it goes elsewhere, the CSV and LaTeX tables with it.

    Args:
        folder: of the comparison.
        out: the report's file; without it, ``report.html``, ``results.csv`` and ``results.tex`` in the folder.
        reach: by task, the score that the time to reach is told of.

    Returns:
        The files written.

    Raises:
        KdzooError: when there are no records, one is damaged, ``out`` is a folder, or there is no task of that name.
        DistillationFailure: when a file cannot be written.
    """
    records = read_records(folder)
    if out is not None and out.is_dir():
        raise KdzooError(f"{out} is a folder; name a file, such as {out / 'report.html'}")
    report = Report(folder, records, reach)
    texts = {out or folder / "report.html": report.html()}
    if out is None:
        texts |= {folder / "results.csv": report.csv, folder / "results.tex": report.latex}
    for path, text in texts.items():
        write_atomically(path, text)
    return list(texts)


class Report:
    """Everything that the report shows, from a comparison's records.

    Fields that older records lack are shown as a dash.

    Args:
        folder: of the comparison, for its settings and failures.
        records: as `kdzoo.bench.report.table.read_records` gives them.
        reach: by task, the score that the time to reach is told of; a share of the best where there is none.

    Raises:
        KdzooError: for a task that the records do not have.
    """

    def __init__(self, folder: Path, records: Sequence[Record], reach: Mapping[str, float] | None = None) -> None:
        self.records = records
        self.reach = dict(reach or {})
        self.config = read_config(folder / "config.json")
        self.failures = read_failures(folder)
        self.bootstrap = Bootstrap(records)
        self.tasks = self.bootstrap.tasks
        for task in self.reach:
            if task not in self.tasks:
                raise unknown("task", task, self.tasks)
        self.means = means_of(records)
        self.rows = {row.method: row for row in rows_of(records)}
        sorted_ = best(self.means, AVERAGE)
        self.students = [*sorted_, *(name for name in self.means if name not in sorted_)]
        self.methods = [*([TEACHER] if TEACHER in self.rows else []), *self.students]
        self.ranking = ranking(self.means, self.tasks)
        self.csv = csv_table(records)
        self.failed = jobs_of(self.failures)
        self.seeds = seeds_of(records, self.failed)
        self.latex = latex_table(records, failed=self.failed, bootstrap=self.bootstrap)

    def html(self) -> str:
        """The page."""
        environment = Environment(
            loader=FileSystemLoader(Path(__file__).parent / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        return environment.get_template("report.html.j2").render(
            level=f"{LEVEL:.0%}",
            resamples=self.bootstrap.resamples,
            reached=f"{REACHED:.0%}",
            given=[*self.reach],
            baseline=BASELINE,
            tasks=self.tasks,
            students=self.students,
            seeds=len({r["seed"] for r in self._of(self.students)}),
            cells=len(self._of(self.students)),
            unlabelled=self.bootstrap.unlabelled,
            shared=self.config.get("shared", {}),
            commands=self.config.get("commands", []),
            failures=self.failures,
            short=self._in_short(),
            scores=self._scores(),
            gains=self._gains(),
            behind=self._behind(),
            best_two=self._best_two(),
            ranks=self._ranks(self.ranking) if self.ranking else None,
            frontiers=list(self._frontiers()),
            step_plot=self._step_plot(),
            costs=self._costs(),
            times=self._times(),
            curves=list(self._curves()),
            losses=list(self._losses()),
            settings=_flat(self.config.get("shared", {})),
            environment=self._environment(),
            tables=[
                Download.of("results.csv", self.csv, "text/csv"),
                Download.of("results.tex", self.latex, "application/x-tex"),
            ],
            downloads=list(self._downloads()),
        )

    def _of(self, methods: Iterable[str], task: str | None = None) -> list[Record]:
        wanted = set(methods)
        return [r for r in self.records if r["method"] in wanted and task in (None, r["task"])]

    def _mean(self, method: str, get: Callable[[Record], float | None]) -> float | None:
        """Over a method's records that have it."""
        found = [value for value in map(get, self._of([method])) if value is not None]
        return fmean(found) if found else None

    # --- scores -------------------------------------------------------------------------------------------------------

    def _scores(self) -> Table:
        columns = [AVERAGE, *self.tasks]
        seen = marks(self.means, self.bootstrap, columns)
        rows = []
        for method in self.methods:
            row = self.rows[method]
            spread = {**row.scores, AVERAGE: self._averages(method)}
            value = {**row.means, **({AVERAGE: row.average} if len(row.means) == len(self.tasks) else {})}
            cells = [Cell(method)]
            for column in columns:
                text = _number(value.get(column), ".1f")
                text += f" ± {stdev(spread[column]):.1f}" if column in value and len(spread[column]) > 1 else ""
                notes = [_interval(self.bootstrap.score(method, column)), self._lacks(method, column)]
                note = "; ".join(filter(None, notes))
                cells.append(Cell(text, note, seen.get((method, column), "")))
            kept = self.bootstrap.retention(method) if method != TEACHER else None
            cells.append(
                Cell(_number(self._retained(method), ".1%"), f"{kept.low:.1%} to {kept.high:.1%}" if kept else "")
            )
            cells.append(Cell(_number(self.ranking.ranks.get(method) if self.ranking else None, ".2f")))
            rows.append(cells)
        for method in dict.fromkeys(name for _, name, _ in self.failed if name not in self.rows):
            told = [Cell(NOTHING, self._lacks(method, column)) for column in columns]
            rows.append([Cell(method), *told, Cell(NOTHING), Cell(NOTHING)])
        return Table("Validation scores", ["method", *columns, "retention", "mean rank"], rows)

    def _lacks(self, method: str, task: str) -> str:
        """The seeds of a method's cells on a task that failed or are missing."""
        found = len(self._of([method], task))
        lost = sum(job[:2] == (task, method) for job in self.failed)
        return seeds_note(found, lost, 0 if method == TEACHER else self.seeds)

    def _retained(self, method: str) -> float | None:
        """A method's average over the teacher's, where both have all tasks."""
        own, whole = self.rows[method], self.rows.get(TEACHER)
        complete = whole is not None and len(own.scores) == len(whole.scores) == len(self.tasks)
        return own.average / whole.average if whole is not None and complete and whole.average > 0 else None

    def _averages(self, method: str) -> list[float]:
        """Over tasks, of each seed that has all of them."""
        by_task = [{r["seed"]: r["score"] for r in self._of([method], task)} for task in self.tasks]
        return [fmean(of[seed] for of in by_task) for seed in sorted(set.intersection(*map(set, by_task)))]

    def _gains(self) -> Table | None:
        if BASELINE not in self.rows or len(self.students) < 2:
            return None
        columns = [AVERAGE, *self.tasks]
        rows = []
        for method in self.students:
            if method != BASELINE:
                gains = [self._gain(method, BASELINE, column) for column in columns]
                shared = sum(gain.text != NOTHING for gain in gains[1:])
                if 0 < shared < len(self.tasks):
                    gains[0] = replace(gains[0], note=f"{gains[0].note}, {shared} of {len(self.tasks)} tasks")
                rows.append([Cell(method), *gains])
        return Table(f"Points ahead of {BASELINE}", ["method", *columns], rows)

    def _behind(self) -> Table | None:
        """Each method's difference to the best student of each column."""
        columns = [AVERAGE, *self.tasks]
        leading = {column: best(self.means, column)[:1] for column in columns}
        if len(self.students) < 2:
            return None
        rows = []
        for method in self.students:
            cells = [Cell(method)]
            for column in columns:
                if leading[column] == [method]:
                    cells.append(Cell("0", mark="best"))
                elif leading[column]:
                    cells.append(self._gain(method, leading[column][0], column))
                else:
                    cells.append(Cell(NOTHING))
            rows.append(cells)
        head = ["method", *(f"{column}, to {' '.join(leading[column]) or NOTHING}" for column in columns)]
        return Table("Points ahead of the best student of the column", head, rows)

    def _gain(self, method: str, against: str, column: str) -> Cell:
        """How far one is ahead of another, with its interval where there is one."""
        found = self.bootstrap.difference(method, against, column)
        if found is not None:
            mark = ("up" if found.value > 0 else "down") if found.sure else ""
            return Cell(f"{found.value:+.1f}", f"{found.low:+.1f} to {found.high:+.1f}", mark)
        own, other = (self.means[name].get(column) for name in (method, against))
        return Cell(NOTHING if own is None or other is None else f"{own - other:+.1f}")

    def _best_two(self) -> Table | None:
        rows: list[list[Cell]] = []
        for column in [*self.tasks, AVERAGE]:
            leading = best(self.means, column)[:2]
            if len(leading) == 2:
                first, second = leading
                gap = self.bootstrap.difference(first, second, column)
                verdict = NOTHING if gap is None else "differ" if gap.sure else "cannot be told apart"
                rows.append([*map(Cell, (column, first, second)), self._gain(first, second, column), Cell(verdict)])
        return Table("The best two", ["task", "best", "second", "difference", "they"], rows) if rows else None

    def _ranks(self, found: Ranking) -> tuple[str, str]:
        """What the test says, and the diagram."""
        leader = next(iter(found.ranks))
        level = [name for name, rank in found.ranks.items() if rank - found.ranks[leader] < found.critical]
        alike = "do not all rank alike" if found.p < 1 - LEVEL else "cannot be told apart by their ranks"
        worse = len(found.ranks) - len(level)
        said = (
            f"Friedman test over {found.tasks} tasks and {len(found.ranks)} methods: χ² = {found.statistic:.1f}, "
            f"p = {found.p:.2g}: the methods {alike}. Critical difference {found.critical:.2f}: "
            f"{worse or 'none'} of the others {'ranks' if worse == 1 else 'rank'} so far behind {leader}."
        )
        order = ", ".join(f"{name} {rank:.2f}" for name, rank in found.ranks.items())
        text = f"Mean ranks, the best first: {order}. {said}"
        return said, plots.critical_difference(found, "Critical-difference diagram", text)

    def _in_short(self) -> list[str]:
        """What the figures say, in a few sentences."""
        order = best(self.means, AVERAGE)
        if not order:
            return []
        first = order[0]
        kept = self._retained(first)
        said = f"{first} has the best average score, {self.means[first][AVERAGE]:.1f}"
        found = [said + (f": {kept:.1%} of the teacher's." if kept else ".")]
        level = [mark for mark in marks(self.means, self.bootstrap, [AVERAGE]).values() if mark == "level"]
        if level:
            found.append(
                f"{len(level)} of the other {len(order) - 1} methods cannot be told apart from it on the average."
            )
        gain = self.bootstrap.difference(first, BASELINE) if first != BASELINE else None
        if gain:
            found.append(f"It is {gain} points ahead of {BASELINE}: the interval {_holds(gain)} 0.")
        return found

    # --- costs --------------------------------------------------------------------------------------------------------

    def _frontiers(self) -> Iterator[tuple[str, str]]:
        """Caption and plot of score against throughput, in training and in inference."""
        measured = any(_inference(record, "32", "rows_per_second") for record in self._of(self.students))

        def training(record: Record) -> float | None:
            return record["samples_per_second"] or None

        def inference(record: Record) -> float | None:
            of_model = _inference(record, "32", "rows_per_second")
            return of_model if measured else record.get("evaluation_samples_per_second")

        of_inference = "inference rows/s at batch 32" if measured else "validation rows/s"
        for get, label in ((training, "training rows/s"), (inference, of_inference)):
            points = self._points(self.students, get)
            if not points:
                continue
            leading = ", ".join(f"{p.name} ({p.y:.1f} at {p.x:,.0f})" for p in plots.front(points))
            caption = f"Average score against {label}. On the Pareto front: {leading}."
            if whole := self._points([TEACHER], get):
                caption += f" The teacher: {whole[0].y:.1f} at {whole[0].x:,.0f}."
            text = "All methods: " + ", ".join(f"{p.name} ({p.y:.1f} at {p.x:,.0f})" for p in points) + "."
            yield caption, plots.frontier(points, label, f"Average score against {label}", text)

    def _points(self, methods: Iterable[str], get: Callable[[Record], float | None]) -> list[plots.Point]:
        found = []
        for method in methods:
            row, speed = self.rows.get(method), self._mean(method, get)
            if row is not None and len(row.scores) == len(self.tasks) and speed:
                found.append(plots.Point(method, speed, row.average, self.bootstrap.score(method)))
        return found

    def _parts(self, method: str) -> dict[str, float]:
        """Mean seconds of a training step by part."""
        splits = [record.get("step_seconds", {}) for record in self._of([method])]
        found = {part: [split[part] for split in splits if part in split] for part in PARTS}
        return {part: fmean(seconds) for part, seconds in found.items() if seconds}

    def _step_plot(self) -> str | None:
        parts = {method: self._parts(method) for method in self.students}
        parts = {method: of for method, of in parts.items() if of}
        if not parts:
            return None
        said = "; ".join(
            f"{method}: " + ", ".join(f"{part} {1000 * seconds:.0f}" for part, seconds in of.items())
            for method, of in parts.items()
        )
        return plots.steps(parts, "Where the time of a training step goes", f"Milliseconds a step. {said}.")

    def _costs(self) -> Table:
        teacher = self._mean(TEACHER, lambda r: _inference(r, "32", "rows_per_second"))
        rows = []
        for method in self.methods:
            tasks = len(self.rows[method].scores)
            speed = self._mean(method, lambda r: _inference(r, "32", "rows_per_second"))
            extra = self._mean(method, lambda r: r.get("loss_parameters"))
            parts = self._parts(method)

            def of(name: str, method: str = method) -> float | None:
                return self._mean(method, lambda r: r.get(name))

            rows.append(
                [
                    Cell(method, f"{tasks} of {len(self.tasks)} tasks" if tasks < len(self.tasks) else ""),
                    Cell(_amount(of("samples_per_second"))),
                    Cell(_amount(of("tokens_per_second"))),
                    Cell(_amount(1000 * sum(parts.values()))),
                    Cell(_amount(of("train_seconds"))),
                    Cell(_scaled(of("peak_memory"), "B")),
                    Cell(_scaled(of("parameters")), f"+ {_scaled(extra)} of the loss" if extra else ""),
                    Cell(_scaled(of("flops"))),
                    Cell(_amount(self._mean(method, lambda r: _inference(r, "1", "latency_ms")))),
                    Cell(_amount(self._mean(method, lambda r: _inference(r, "32", "latency_ms")))),
                    Cell(_amount(speed), f"{speed / teacher:.2f} × the teacher" if speed and teacher else ""),
                ]
            )
        head = ["method", "train rows/s", "tokens/s", "step, ms", "training, s", "peak memory", "parameters",
                "FLOPs a row", "latency, batch 1, ms", "latency, batch 32, ms", "rows/s, batch 32"]  # fmt: skip
        return Table("What each method costs", head, rows)

    # --- the course of training ---------------------------------------------------------------------------------------

    def _times(self) -> Table | None:
        """Seconds of training until a score is reached first."""
        if not any(record.get("curve") for record in self.records):
            return None
        bests = {task: max((of[task] for of in self.means.values() if task in of), default=0.0) for task in self.tasks}
        aims = {task: self.reach.get(task, REACHED * score) for task, score in bests.items()}
        rows = []
        for method in self.students:
            cells = [Cell(method)]
            for task, aim in aims.items():
                curves_ = [record["curve"] for record in self._of([method], task) if record.get("curve")]
                first = [next((at for at in curve if at["score"] >= aim), None) for curve in curves_]
                reached = [at for at in first if at]
                if not curves_:
                    cells.append(Cell(NOTHING))
                elif not reached:
                    cells.append(Cell("not reached"))
                else:
                    note = f"{fmean(at['step'] for at in reached):.0f} steps"
                    note += f", {len(reached)} of {len(first)} seeds" if len(reached) < len(first) else ""
                    cells.append(Cell(f"{fmean(at['seconds'] for at in reached):,.1f}", note))
            rows.append(cells)
        head = ["method", *(f"{task}, {aim:.1f}" for task, aim in aims.items())]
        return Table("Seconds of training to reach a score", head, rows)

    def _curves(self) -> Iterator[tuple[str, list[str]]]:
        """By task: score over steps and over seconds."""
        shown = list(dict.fromkeys([*self.students[:SHOWN], *([BASELINE] if BASELINE in self.means else [])]))
        for task in self.tasks:
            by_axis: dict[str, dict[str, list[tuple[float, float]]]] = {"step": {}, "seconds": {}}
            for method in self.students:
                at: dict[int, list[Record]] = {}
                for record in self._of([method], task):
                    for point in record.get("curve") or []:
                        at.setdefault(point["step"], []).append(point)
                means = [
                    {name: fmean(p[name] for p in of) for name in ("step", "seconds", "score")} for of in at.values()
                ]
                for axis, lines in by_axis.items():
                    if means:
                        lines[method] = [(of[axis], of["score"]) for of in sorted(means, key=lambda of: of["step"])]
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

    def _losses(self) -> Iterator[tuple[str, str, str]]:
        """By method: its terms, and their course."""
        for method in self.students:
            panels: dict[str, dict[str, list[tuple[float, float]]]] = {}
            for task in self.tasks:
                at: dict[str, dict[int, list[float]]] = {}
                for entry in (entry for r in self._of([method], task) for entry in r.get("history") or []):
                    for key in entry:
                        if key == "loss" or key.startswith("loss/"):
                            at.setdefault(key.removeprefix("loss/"), {}).setdefault(entry["step"], []).append(
                                entry[key]
                            )
                if len(at) == 2:
                    del at["loss"]  # it is the only term
                if at:
                    panels[task] = {key: [(s, fmean(v)) for s, v in sorted(of.items())] for key, of in at.items()}
            if not panels:
                continue
            terms = ", ".join(dict.fromkeys(term for lines in panels.values() for term in lines if term != "loss"))
            ends = "; ".join(
                f"{task}: " + ", ".join(f"{term} {line[0][1]:.3g} to {line[-1][1]:.3g}" for term, line in lines.items())
                for task, lines in panels.items()
            )
            yield (
                method,
                terms,
                plots.losses(panels, f"Losses of {method} over steps", f"From the start to the end. {ends}."),
            )

    # --- what it ran on, and the files --------------------------------------------------------------------------------

    def _environment(self) -> list[tuple[str, str]]:
        """Each fact, and where records differ, of how many it holds."""
        found: dict[str, dict[str, int]] = {}
        for record in self.records:
            versions = {f"{name} version": value for name, value in record.get("versions", {}).items()}
            for name, value in {"device": record.get("device"), "threads": record.get("threads"), **versions}.items():
                of = found.setdefault(name, {})
                of[str(value or NOTHING)] = of.get(str(value or NOTHING), 0) + 1
        times = [record[name] for record in self.records for name in ("started", "finished") if record.get(name)]
        facts = [
            (name, "; ".join(f"{value} ({n} records)" if len(of) > 1 else value for value, n in of.items()))
            for name, of in found.items()
        ]
        seconds = sum(record.get("train_seconds") or 0 for record in self.records)
        return [*facts, ("started, finished", f"{min(times)}, {max(times)}" if times else NOTHING),
                ("training in all", f"{seconds / 3600:.2f} hours")]  # fmt: skip

    def _downloads(self) -> Iterator[Download]:
        files = {"config.json": self.config} if self.config else {}
        files |= {f"{r['task']}-{r['method']}-{r['seed']}.json": r for r in self.records}
        files |= {f"failed-{f.get('task')}-{f.get('method')}-{f.get('seed')}.json": f for f in self.failures}
        for name, record in files.items():
            yield Download.of(name, json.dumps(_short(record), separators=(",", ":")), "application/json")
