"""The report's examples: sources, references and what teacher and students wrote, of tasks whose answers are texts."""

from __future__ import annotations

from collections.abc import Iterator

from kdzoo.bench.record import TEACHER
from kdzoo.bench.report.cells import Cell, Record, Table
from kdzoo.bench.report.findings import Findings

WRITERS = 4  # methods besides the teacher whose texts are shown, the best first
LONGEST = 400  # letters of a text


def example_tables(found: Findings) -> Iterator[tuple[Table, list[tuple[str, str]]]]:
    """By task with texts: the first validation rows, a column a writer; and what its scores depend on, in words."""
    for task in found.tasks:
        teacher = next((record for record in found.of([TEACHER], task) if record.get("sources")), None)
        if teacher is None:
            continue
        split = next(iter(teacher["references"]))
        shown = [method for method in found.students if found.of([method], task)][:WRITERS]
        records = [found.of([method], task)[0] for method in shown]
        rows = [
            [
                Cell(_cut(source)),
                Cell(_cut(teacher["references"][split][at][0])),
                *(Cell(_written(record, split, at)) for record in (teacher, *records)),
            ]
            for at, source in enumerate(teacher["sources"])
        ]
        seeds = [f"{record['method']}, seed {record['seed']}" for record in records]
        head = ["source", "reference", TEACHER, *seeds]
        told = list(teacher.get("scored_by", {}).items())
        told += [(f"{r['method']} {name}", text) for r in records for name, text in _own(r, teacher).items()]
        yield Table(f"{task}: the first rows of {split}", head, rows), told


def _own(record: Record, teacher: Record) -> dict[str, str]:
    """What a record says of its scores that the teacher's does not."""
    known = teacher.get("scored_by", {})
    return {name: text for name, text in record.get("scored_by", {}).items() if name not in known}


def _written(record: Record, split: str, row: int) -> str:
    texts = record.get("predictions", {}).get(split) or []
    return _cut(str(texts[row])) if row < len(texts) else ""


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
