"""Made rows of one's own, whose labels can be read off their words, and models to learn them."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from kdzoo.tasks.own import Own

TOPICS = {
    "art": ("paint", "song", "film", "stage"),
    "food": ("salt", "soup", "bread", "wine"),
    "sport": ("goal", "match", "team", "ball"),
    "tech": ("code", "chip", "data", "net"),
}
FILLERS = ("the", "a", "and", "of", "in", "to", "it", "was")


def made(rows: int, seed: int = 0) -> list[dict[str, Any]]:
    """Rows of a text, a second one, a topic, the tags of both texts, and the shares of words on sport and food."""
    random = np.random.default_rng(seed)
    found = []
    for number in range(rows):
        one, two = (str(random.choice([*TOPICS])) for _ in range(2))
        text, second = (" ".join(random.choice([*TOPICS[topic] * 2, *FILLERS], 6)) for topic in (one, two))
        words = text.split()
        shares = {f"{topic}_share": sum(word in TOPICS[topic] for word in words) / 6 for topic in ("sport", "food")}
        tags = sorted({one, two})
        marks = {f"is_{topic}": int(topic in tags) for topic in TOPICS}
        text = f"{text} {seed} {number}"  # no two alike
        found.append({"text": text, "second": second, "topic": one, "tags": tags, **shares, **marks})
    return found


def write(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    """Rows as CSV, TSV or JSONL; in the first two a list is parted by ``|``."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        if path.suffix == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            table = csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",", lineterminator="\n")
            table.writerow(rows[0])
            table.writerows([["|".join(v) if isinstance(v, list) else v for v in row.values()] for row in rows])
    return path


def folder(root: Path, train: int = 64, validation: int = 32, test: int = 0, suffix: str = ".jsonl") -> Path:
    """A folder with a file a split."""
    for seed, (split, rows) in enumerate({"train": train, "validation": validation, "test": test}.items()):
        if rows:
            write(root / f"{split}{suffix}", made(rows, seed))
    return root


def rows_of(own: Own) -> dict[str, list[dict[str, Any]]]:
    """A task's rows by split."""
    rows = own.task.rows()
    assert rows is not None
    return {split: part.to_list() for split, part in rows.items()}
