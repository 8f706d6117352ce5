"""What was measured, shown again: ``kdzoo table`` and ``report``; and packed: ``kdzoo pack``."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kdzoo.bench.files import check_file
from kdzoo.cli.options import console, said
from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from kdzoo.bench.columns import Columns


def table(
    folder: Annotated[Path, typer.Argument(help="A comparison (its folder, or packed), or a measurement's record.")],
    other: Annotated[Path | None, typer.Argument(help="A second comparison, to stand beside the first.")] = None,
    *,
    markdown: Annotated[bool, typer.Option("--markdown", help="In Markdown.")] = False,
    latex: Annotated[bool, typer.Option("--latex", help="In LaTeX; a comparison's alone.")] = False,
    against: Annotated[
        str | None, typer.Option(help="A method to give each other's difference to, with its interval.")
    ] = None,
) -> None:
    """The table of a comparison's records, or of what was measured; of two comparisons, what differs between them."""
    from kdzoo.bench.packed import is_packed
    from kdzoo.bench.record import jobs_of
    from kdzoo.bench.report.table import latex_table, load, markdown_table, terminal_table
    from kdzoo.bench.training_words import budgets_of, training_in_words

    if other is not None:
        _beside(folder, other, markdown, refused=[*["--latex"] * latex, *["--against"] * (against is not None)])
        return
    if folder.is_file() and not is_packed(folder):
        if latex or against:
            raise KdzooError(f"--{'latex' if latex else 'against'} is for a comparison")
        _print(_measured(folder), markdown)
        return
    if latex and markdown:
        raise KdzooError("--latex and --markdown are two forms of one table; leave one of them out")
    study = load(folder)
    records, failed = study.records, jobs_of(study.failures)
    if latex:
        typer.echo(latex_table(records, against, failed), nl=False)
    elif markdown:
        typer.echo(markdown_table(records, against, failed), nl=False)
    else:
        shared = study.config.get("shared", {})
        title = f"{folder}: {training_in_words(shared, budgets_of(records, study.trials))}" if shared else str(folder)
        console.print(terminal_table(records, title, against, failed))


def _beside(folder: Path, other: Path, markdown: bool, refused: list[str]) -> None:
    """Two comparisons side by side, on the terminal or in Markdown."""
    from kdzoo.bench.report.beside import Beside

    if refused:
        raise KdzooError(f"{refused[0]} is for the table of one comparison, and two are named")
    _print(Beside(folder, other).columns(), markdown)


def _print(tables: Sequence[Columns], markdown: bool) -> None:
    for number, columns in enumerate(tables):
        if markdown:
            typer.echo(("\n" if number else "") + columns.markdown(), nl=False)
        else:
            console.print(columns.terminal())


def pack(
    source: Annotated[Path, typer.Argument(help="The folder of a comparison, or a packed one to be unpacked.")],
    out: Annotated[Path, typer.Argument(help="The file to write, NAME.jsonl.gz; or the folder to unpack into.")],
) -> None:
    """A comparison's records as one small file, which table and report read as they read the folder; and back."""
    from kdzoo.bench.packed import is_packed, pack, unpack

    records = (unpack if is_packed(source) else pack)(source, out)
    console.print(f"{records} records: {out}", highlight=False, soft_wrap=True)


def _measured(path: Path) -> list[Columns]:
    """The tables of a record that is no comparison's."""
    from kdzoo.bench.files import read_json

    record = read_json(path)
    try:
        if "throughput" in record:
            from kdzoo.bench.measure.throughput import read_throughput, throughput_columns

            return throughput_columns(*read_throughput(record))
        if "costs" in record:
            from kdzoo.bench.measure.cost import read_costs

            return [read_costs(record)]
        if "kernel" in record:
            from kdzoo.bench.measure.kernels import profile_columns

            return [profile_columns(record, record["results"])]
        if "against" in record:
            from kdzoo.bench.measure.cpu import cpu_columns

            return [cpu_columns(record)]
        if "apart" in record:
            from kdzoo.bench.measure.peers import peers_columns

            return [peers_columns(record)]
    except (KeyError, TypeError, ValueError) as error:
        raise KdzooError(f"{path} is damaged, or of another version ({error!r}); take the figures again") from None
    raise KdzooError(
        f"{path} holds no figures; `kdzoo cost`, `kdzoo profile` and `kdzoo bench throughput` write them with --out"
    )


def report(
    folder: Annotated[Path, typer.Argument(help="A comparison: its folder, or packed.")],
    other: Annotated[Path | None, typer.Argument(help="A second one, to stand beside the first.")] = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="The report's file; FOLDER/report.html by default, of two A-beside-B.html here.")
    ] = None,
    reach: Annotated[
        list[str] | None,
        typer.Option(help="TASK=SCORE that the time to reach is told of; 95% of the best by default; repeatable."),
    ] = None,
) -> None:
    """The report of a comparison's records, one HTML file; in the folder, with its tables as CSV and LaTeX."""
    from kdzoo.bench.report.beside import Beside
    from kdzoo.bench.report.page import write_results

    scores = dict(_score(text) for text in reach or [])
    if other is not None and out is None:  # it belongs to neither folder
        out = Path(f"{_stem(folder)}-beside-{_stem(other)}.html")
    if out is not None:
        check_file(out)
    if other is not None and out is not None:
        if scores:
            raise KdzooError("--reach is for the report of one comparison, and two are named")
        said(f"written: {Beside(folder, other).write(out)}")
        return
    with console.status("drawing the report"):
        files = write_results(folder, out, scores)
    console.print(f"written: {', '.join(map(str, files))}", highlight=False, soft_wrap=True)


def _stem(comparison: Path) -> str:
    return comparison.resolve().name.removesuffix(".jsonl.gz")


def _score(text: str) -> tuple[str, float]:
    task, _, score = text.partition("=")
    try:
        found = float(score)
    except ValueError:
        found = math.nan
    if not math.isfinite(found):
        raise KdzooError(f"--reach is {text!r}; give TASK=SCORE, such as mrpc=80")
    return task, found
