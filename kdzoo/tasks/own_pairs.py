"""A user's sources and targets as a task: translation, summaries, or whatever else is a text for a text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.decoding import Decoding
from kdzoo.tasks.generation import SequenceToSequence
from kdzoo.tasks.given import Brought
from kdzoo.tasks.own_reading import Table, tables_of
from kdzoo.tasks.sources.rows import checked, with_keys

if TYPE_CHECKING:
    from datasets import Dataset


def from_pairs(
    data: Any,
    *,
    text: Sequence[str] = (),
    label: Sequence[str] = (),
    metric: Sequence[str] = (),
    decoding: str | Mapping[str, Any] | None = None,
    name: str,
    splits: Mapping[str, str] | None = None,
    seed: int = 0,
) -> tuple[SequenceToSequence, tuple[str, ...]]:
    """A task of sources and targets, and what there is to say of it.

    Args:
        data: as `kdzoo.tasks.own.from_data` takes it.
        text, label: the columns of the sources and of the targets; ``source`` and ``target`` by default. A target may
            be a list of references. Of a column of mappings a key is named behind a dot (``translation.en``). Of
            several targets' columns each split has one, as DialogSum's test has ``summaries`` and not ``summary``.
        metric: see `kdzoo.tasks.metrics`; the headline, in order.
        decoding: see `kdzoo.tasks.decoding.Decoding.parse`.
        name: the task's.
        splits: by ``train``, ``validation`` and ``test``, how the data calls them.
        seed: of the validation rows that are taken from training where there are none.

    Raises:
        KdzooError: in one line, with file and row, for anything that makes no task.
    """
    if len(text) > 1:
        raise KdzooError(f"{name}: a text is written for one column (--text), and {', '.join(text)} are named")
    source, targets = (text or ("source",))[0], tuple(label) or ("target",)
    if source in targets:
        raise KdzooError(f"{name}: the column {source!r} is both source and target; name two columns")
    # A key's column has another name in the file, and of several a split has one.
    whole = len(targets) > 1 or any("." in column for column in (source, *targets))
    tables, unused = tables_of(data, () if whole else (source,), () if whole else targets, splits)
    tables = {split: Table(table.origin, with_keys(table.columns)) for split, table in tables.items()}
    columns = {
        split: {"source": _one_of(table, "--text", (source,)), "target": _one_of(table, "--label", targets)}
        for split, table in tables.items()
    }
    test = "test" if "test" in tables else None
    task = SequenceToSequence(name, headline=tuple(metric), test_split=test, decoding=Decoding.parse(decoding))
    rows = {
        split: checked(task, table.origin, {own: table.columns[theirs] for own, theirs in columns[split].items()})
        for split, table in tables.items()
    }
    notes = [task.describe(), *(f"{name}: the split {split} is not used" for split in unused)]
    if "validation" not in rows:
        rows["train"], rows["validation"] = task.held_out(rows["train"], seed)
        taken = len(rows["validation"])
        count = taken + len(rows["train"])
        notes.append(f"{name}: no validation rows: {taken} of {count} training rows are taken, with seed {seed}")
    notes += _leaks(name, rows)
    return replace(task, read=Brought(rows, (source,))), tuple(notes)


def _one_of(table: Table, option: str, names: Sequence[str]) -> str:
    """Which of some columns a table has.

    Raises:
        KdzooError: none, or several.
    """
    there = [name for name in names if name in table.columns]
    if len(there) > 1:
        raise KdzooError(
            f"{table.origin} has {' and '.join(there)}, and {option} takes one of a split; name one of them"
        )
    if not there:
        said = " or ".join(map(repr, names))
        raise KdzooError(f"{table.origin}: no column {said} ({option}); it has {', '.join(table.columns) or 'none'}")
    return there[0]


def _leaks(name: str, rows: Mapping[str, Dataset]) -> list[str]:
    """A line for each split with sources that are in training too."""
    known, notes = set(rows["train"]["source"][:]), []
    for split in rows:
        twice = sum(text in known for text in rows[split]["source"][:]) if split != "train" else 0
        if twice:
            notes.append(f"{name}: {twice} of {len(rows[split])} {split} sources are in training too")
    return notes
