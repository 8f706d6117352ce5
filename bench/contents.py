"""What the files of a comparison hold, as hashes: a name that stays the same says nothing of a file that changed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

from datasets import DatasetDict

from kdzoo.models.spec import TOKENIZER_FILES, ModelSpec

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")

# All that decides what a model makes of a text.
MODEL_FILES = ("config.json", "*.safetensors", "*.bin", *TOKENIZER_FILES, *TOKENIZER_SETTINGS)
READ = 2**22  # bytes at a time


def contents_of(teacher: ModelSpec, student: ModelSpec | None, data: Mapping[str, DatasetDict]) -> dict[str, str]:
    """By what it is in words, a hash of what each model's folder and each task's rows hold.

    Args:
        teacher, student: folders; sizes and hub names, whose contents stay, have no hash.
        data: by task, its splits.
    """
    named = {"the teacher's files": teacher.folder, "the student's files": student.folder if student else None}
    models = {what: _of_model(folder) for what, folder in named.items() if folder is not None}
    return models | {f"{task}'s rows": _of_rows(splits) for task, splits in data.items()}


def _of_model(folder: Path) -> str:
    found = hashlib.sha256()
    for path in sorted(path for pattern in MODEL_FILES for path in folder.glob(pattern)):
        found.update(path.name.encode())
        with path.open("rb") as file:
            while part := file.read(READ):
                found.update(part)
    return found.hexdigest()


def _of_rows(splits: DatasetDict) -> str:
    found = hashlib.sha256()
    for name in sorted(splits):
        rows = splits[name]
        found.update(f"{name} {len(rows)} {rows.column_names}".encode())
        for part in rows.with_format("arrow").iter(10_000):
            found.update(json.dumps(part.to_pydict()).encode())
    return found.hexdigest()
