"""The report of a comparison: ``report.html``, a file that opens offline, with ``results.csv`` and ``results.tex``.

What it shows comes from `scores`, `costs` and `course`; this puts them together.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from kdzoo.bench.escape import printable
from kdzoo.bench.files import write_atomically
from kdzoo.bench.packed import SUFFIX, is_packed
from kdzoo.bench.report import costs, course, examples, folds, scores
from kdzoo.bench.report.cells import BASELINE, NOTHING, REACHED, Download, Record, _flat, _short
from kdzoo.bench.report.findings import Findings, in_prose
from kdzoo.bench.report.ranking import ranking
from kdzoo.bench.report.table import csv_table, latex_table, load
from kdzoo.bench.report.tuning import tuning_table
from kdzoo.bench.report.uncertainty import LEVEL
from kdzoo.bench.training_words import budgets_of, training_in_words
from kdzoo.errors import KdzooError


def write_results(path: Path, out: Path | None = None, reach: Mapping[str, float] | None = None) -> list[Path]:
    """Write what a comparison found: the report, and unless it goes elsewhere, the CSV and LaTeX tables with it.

    Args:
        path: a comparison's folder, or the file it was packed into.
        out: the report's file; without it, ``report.html``, ``results.csv`` and ``results.tex`` in the folder, or
            ``NAME.html``, ``NAME.csv`` and ``NAME.tex`` beside ``NAME.jsonl.gz``.
        reach: by task, the score that the time to reach is told of.

    Returns:
        The files written.

    Raises:
        KdzooError: when there are no records, ``out`` is a folder, or there is no task of that name.
        DistillationFailure: when a file cannot be written.
    """
    found = Findings(load(path), reach)
    if out is not None and out.is_dir():
        raise KdzooError(f"{out} is a folder; name a file, such as {out / 'report.html'}")
    csv = csv_table(found.records)
    latex = latex_table(found.joined, failed=found.failed, bootstrap=found.bootstrap)
    page = html(found, csv, latex)
    if out is not None:
        texts = {out: page}
    elif is_packed(path):
        name = path.name.removesuffix(SUFFIX)
        endings = {".html": page, ".csv": csv, ".tex": latex}
        texts = {path.with_name(name + ending): text for ending, text in endings.items()}
    else:
        texts = {path / "report.html": page, path / "results.csv": csv, path / "results.tex": latex}
    for file, text in texts.items():
        write_atomically(file, text)
    return list(texts)


def html(found: Findings, csv: str, latex: str) -> str:
    """The page, with the tables as CSV and LaTeX within it; a dash stands where records lack a field."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # a browser has letters that matplotlib's font lacks
        parts = _parts(found)
    tables = [Download.of("results.csv", csv, "text/csv"), Download.of("results.tex", latex, "application/x-tex")]
    return rendered("report.html.j2", **parts, tables=tables)


def rendered(template: str, **parts: Any) -> str:
    """A page of its template.

    Args:
        template: its file's name.
        parts: what it takes, by name.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(parts)


def _parts(found: Findings) -> dict[str, Any]:
    """What the template takes, by name."""
    ranks = ranking(found.means, found.tasks)
    cells = found.of(found.students)
    return {
        "level": f"{LEVEL:.0%}",
        "resamples": found.bootstrap.resamples,
        "reached": f"{REACHED:.0%}",
        "given": [*found.reach],
        "baseline": in_prose(BASELINE),
        "tasks": found.tasks,
        "methods": len(found.students) + len(found.unscored),
        "unscored": len(found.unscored),
        "comparisons": len(found.students) - (BASELINE in found.students),
        "seeds": len({record["seed"] for record in cells}),
        "cells": len(cells),
        "folds": folds.about(found.joined),
        "unlabelled": found.bootstrap.unlabelled,
        "guess": found.guess.name,
        "shared": found.config.get("shared", {}),
        "trained": training_in_words(found.config.get("shared", {}), budgets_of(cells, found.trials)),
        "commands": found.config.get("commands", []),
        "failures": found.failures,
        "damaged": found.damaged,
        "short": scores.in_short(found),
        "scores": scores.score_table(found, ranks),
        "of_folds": list(scores.fold_tables(found)),
        "gains": scores.gain_table(found),
        "behind": scores.behind_table(found),
        "best_two": scores.best_two_table(found),
        "tuning": tuning_table(found),
        "ranks": scores.rank_part(ranks) if ranks else None,
        "training_plot": costs.training_plot(found),
        "training": costs.training_table(found),
        "step_plot": costs.step_plot(found),
        "inference_plot": costs.inference_plot(found),
        "inference": costs.inference_table(found),
        "times": course.time_table(found),
        "curves": list(course.curve_plots(found)),
        "grey": len(found.students) > len(course.shown_methods(found)),
        "losses": list(course.loss_plots(found)),
        "examples": list(examples.example_tables(found)),
        "settings": _flat(found.config.get("shared", {})),
        "environment": _environment(found.records),
        "downloads": list(_downloads(found)),
    }


def _shown(value: Any) -> Any:
    """What a template writes, without control characters; what is HTML already, the plots, has none."""
    return value if isinstance(value, Markup) or not isinstance(value, str) else printable(value)


def _environment(records: list[Record]) -> list[tuple[str, str]]:
    """Each fact of what it ran on, and where records differ, of how many it holds."""
    found: dict[str, dict[str, int]] = {}
    for record in records:
        versions = {f"{name} version": value for name, value in record.get("versions", {}).items()}
        for name, value in {"device": record.get("device"), "threads": record.get("threads"), **versions}.items():
            of = found.setdefault(name, {})
            of[str(value or NOTHING)] = of.get(str(value or NOTHING), 0) + 1
    times = [record[name] for record in records for name in ("started", "finished") if record.get(name)]
    facts = [
        (name, "; ".join(f"{value} ({n} records)" if len(of) > 1 else value for value, n in of.items()))
        for name, of in found.items()
    ]
    seconds = sum(record.get("train_seconds") or 0 for record in records)
    return [*facts, ("started, finished", f"{min(times)}, {max(times)}" if times else NOTHING),
            ("training in all", f"{seconds / 3600:.2f} hours")]  # fmt: skip


def _downloads(found: Findings) -> Iterator[Download]:
    files = {"config.json": found.config} if found.config else {}
    files |= {f"{r['task']}-{r['method']}-{r['seed']}.json": r for r in found.records}
    files |= {f"trial-{r['task']}-{r['method']}-{r['seed']}.json": r for r in found.trials}
    files |= {f"failed-{f.get('task')}-{f.get('method')}-{f.get('seed')}.json": f for f in found.failures}
    for name, record in files.items():
        yield Download.of(name, json.dumps(_short(record), separators=(",", ":")), "application/json")
