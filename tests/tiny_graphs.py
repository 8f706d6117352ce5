"""A small knowledge graph, its folder, and the arguments of trainings on it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from transformers import TrainingArguments

from kdzoo.tasks.triples import Graph, Triple


def a_graph(rng: random.Random, entities: int = 12, triples: int = 60) -> Graph:
    """Entities of which some have the same text, and some the same pieces once they are cut."""
    texts = [f"{rng.choice('abcdef')}{rng.choice('uvw')} {rng.choice('xy')}" for _ in range(entities)]
    names = [f"e{number}" for number in range(entities)]
    relations = {f"r{number}": f"rel {'mnop'[number]}" for number in range(4)}
    drawn: dict[Triple, None] = {}
    while len(drawn) < triples:
        drawn[Triple(rng.choice(names), rng.choice([*relations]), rng.choice(names))] = None
    found = [*drawn]
    return Graph(dict(zip(names, texts, strict=True)), relations, found[:-20], found[-20:-10], found[-10:])


def written(folder: Path, graph: Graph, **changed: str) -> Path:
    """A folder of KG-BERT's form."""
    folder.mkdir(parents=True)
    lines = {
        "train.tsv": graph.train,
        "dev.tsv": graph.dev,
        "test.tsv": graph.test,
        "entity2text.txt": graph.entities.items(),
        "relation2text.tsv": graph.relations.items(),
    }
    for name, rows in lines.items():
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / name).write_text(changed.get(name.partition(".")[0], text))
    return folder


def arguments(folder: Path, **more: Any) -> TrainingArguments:
    told: dict[str, Any] = {
        "num_train_epochs": 3,
        "per_device_train_batch_size": 16,
        "learning_rate": 0.1,
        "optim": "sgd",
        "train_sampling_strategy": "group_by_length",
        "length_column_name": "length",
        "save_strategy": "no",
        "logging_steps": 1,
    }
    return TrainingArguments(
        output_dir=str(folder), use_cpu=True, seed=0, report_to="none", disable_tqdm=True, **(told | more)
    )
