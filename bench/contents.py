"""What the files of a comparison hold, as hashes: a name that stays the same says nothing of a file that changed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from datasets import DatasetDict

from kdzoo import hashing
from kdzoo.models.spec import ModelSpec
from kdzoo.models.tokenizers import TOKENIZER_FILES
from kdzoo.tasks.source_target import FILE, FOLDER

TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
# Of tokenizers that call theirs otherwise: Marian's, PhoBERT's, and those of SentencePiece and tiktoken.
OTHER_TOKENIZERS = ("*.model", "*.spm", "*.codes", "*.bpe", "*.tiktoken", "vocab*.txt", "vocab*.json")

# All that decides what a model makes of a text.
MODEL_FILES = (
    *("config.json", "generation_config.json", "*.safetensors", "*.bin"),
    *(*TOKENIZER_FILES, *TOKENIZER_SETTINGS, *OTHER_TOKENIZERS),
    *(FILE, f"{FOLDER}/*"),
)


def contents_of(teacher: ModelSpec, student: ModelSpec | None, data: Mapping[str, DatasetDict]) -> dict[str, str]:
    """By what it is in words, a hash of what each model's folder and each task's rows hold.

    Args:
        teacher, student: folders; sizes and hub names, whose contents stay, have no hash.
        data: by task, its splits.
    """
    # Hashes that were made otherwise stood under other words ("the teacher's files"): these are no change of them.
    named = {
        "the files of the teacher": teacher.folder,
        "the files of the student": student.folder if student else None,
    }
    for whose, spec in (("teacher", teacher), ("student", student)):
        for read in spec.reads if spec else ():
            named[f"the files of the {whose}'s pretrained {read.stack}"] = read.folder
    models = {what: _of_model(folder) for what, folder in named.items() if folder is not None}
    return models | {f"the rows of {task}": _of_splits(splits) for task, splits in data.items()}


def _of_model(folder: Path) -> str:
    return hashing.of_files(sorted({path for pattern in MODEL_FILES for path in folder.glob(pattern)}))


def _of_splits(splits: DatasetDict) -> str:
    return hashing.of_values({name: hashing.of_rows(rows) for name, rows in splits.items()})
