"""A user's knowledge graph as a task: a folder of KG-BERT's form."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.graph_tasks import GraphTask
from kdzoo.tasks.knowledge_graphs import LinkPrediction, RelationPrediction, TripleClassification
from kdzoo.tasks.triples import read_graph

GRAPHS: dict[str, type[GraphTask]] = {
    "triples": TripleClassification,
    "relations": RelationPrediction,
    "links": LinkPrediction,
}
SETTINGS = {
    "triples": ("negatives", "seed", "entity_texts"),
    "relations": ("entity_texts",),
    "links": ("negatives", "seed", "entity_texts", "candidates", "lists"),
}
LEAST = {"negatives": 1, "seed": 0, "candidates": 2}  # of the settings that are numbers


def from_graph(
    data: Any,
    kind: str,
    *,
    metric: Sequence[str] = (),
    name: str,
    graph: Mapping[str, Any] | None = None,
    seed: int = 0,
    **no: Any,
) -> tuple[GraphTask, tuple[str, ...]]:
    """A task on the triples of a folder, and what there is to say of it.

    Args:
        data: the folder; see `kdzoo.tasks.triples.read_graph`.
        kind: ``"triples"`` (true or false), ``"relations"`` or ``"links"``.
        metric: see `kdzoo.tasks.metrics`.
        name: the task's.
        graph: settings, of `SETTINGS`.
        seed: of what is drawn, where the settings name none.
        no: what other data has, which a graph has not: refused where it is given.

    Raises:
        KdzooError: in one line, with file and row, for anything that makes no task.
    """
    if given := [option for option, value in no.items() if value]:
        raise KdzooError(
            f"{name}: triples have no {given[0]}: the files of the folder say what is head and what is tail"
        )
    if not isinstance(data, (str, os.PathLike)) or not Path(data).is_dir():
        raise KdzooError(f"{name}: triples are read from a folder with train, dev, test, entity2text and relation2text")
    if seed and "seed" not in SETTINGS[kind]:
        raise KdzooError(f"{name}: nothing is drawn for {kind}, so there is no seed {seed!r} to set; leave it out")
    settings = ({"seed": seed} if seed else {}) | dict(graph or {})
    for setting, value in settings.items():
        if setting not in SETTINGS[kind]:
            raise unknown(f"setting of {kind}", setting, SETTINGS[kind])
        if (form := _other_form(setting, value)) is not None:
            raise KdzooError(f"{name}: {setting} is {value!r}; it must be {form}")
    read = read_graph(data, settings.get("entity_texts", "entity2text"))
    made = partial(GRAPHS[kind], name, read, own=True, origin=str(data), test_split="test")
    task = made(headline=tuple(metric), **settings)
    task.head()  # which refuses what has none
    return task, (task.describe(), *_unranked(task), *_leaks(task))


def _other_form(setting: str, value: Any) -> str | None:
    """What a setting has to be, where its value is something else."""
    if setting == "lists":
        return None if isinstance(value, bool) else "true or false"
    if setting not in LEAST:
        return None if isinstance(value, str) else "a name"
    least = LEAST[setting]
    number = isinstance(value, int) and not isinstance(value, bool)
    return None if number and value >= least else f"a whole number of {least} or more"


def _unranked(task: GraphTask) -> list[str]:
    """A line for each split with false triples, where only true ones are ranked."""
    graph, notes = task.knowledge, []
    for split, labels in (("dev", graph.dev_labels), ("test", graph.test_labels)):
        if task.ranks and labels is not None and not all(labels):
            false = labels.count(False)
            notes.append(f"{task.name}: {false} of {len(labels)} triples of {split} are false (-1), and are not ranked")
    return notes


def _leaks(task: GraphTask) -> list[str]:
    """A line for each split with true triples that are in training too."""
    graph = task.knowledge
    known, notes = set(graph.train), []
    for split, triples, labels in (("dev", graph.dev, graph.dev_labels), ("test", graph.test, graph.test_labels)):
        true = [triple for at, triple in enumerate(triples) if labels is None or labels[at]]
        twice = sum(triple in known for triple in true)
        if twice:
            notes.append(f"{task.name}: {twice} of {len(true)} true triples of {split} are in training too")
    return notes
