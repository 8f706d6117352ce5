"""A task's training rows with their augmented copies, made once for a folder; what ``--augment`` does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from datasets import Dataset, load_from_disk

from kdzoo import hashing
from kdzoo.errors import KdzooError
from kdzoo.models.loading import MissingHead, load_model
from kdzoo.models.spec import ModelSpec
from kdzoo.tasks import Task
from kdzoo.tasks.augmentation import CANDIDATES, PROBABILITY, Neighbours, WordReplacement, augmented

FORMAT = "1"


def check_augmentation(teacher: ModelSpec, model: str | None, glove: str | None) -> None:
    """Refuse an augmentation without words to choose from.

    Args:
        teacher: the comparison's.
        model: whose words are taken; the teacher's when None.
        glove: a GloVe file.

    Raises:
        KdzooError: says what is missing.
    """
    source = _source(teacher, model)
    if source.is_size and (model or not glove):
        raise KdzooError(
            f"a model of size {source} has learned no words to exchange others for; name a pretrained one "
            "with --augment-model, or a GloVe file with --glove"
        )
    if glove is not None and not Path(glove).is_file():
        raise KdzooError(f"no GloVe file at {glove}")


def check_augmented(task: Task) -> None:
    """Refuse a task whose words cannot be exchanged for others.

    Raises:
        KdzooError: names it.
    """
    if task.fixed_words:
        raise KdzooError(f"{task.name} has {task.fixed_words}; leave --augment out")
    if task.fusion is not None:
        raise KdzooError(
            f"{task.name} has roles for its words, which would not fit exchanged words; leave --augment out"
        )


def augmented_rows(
    rows: Dataset,
    task: Task,
    copies: int,
    *,
    teacher: ModelSpec,
    model: str | None,
    glove: str | None,
    folder: Path,
    say: Callable[[str], None],
    progress: Callable[[int], None] | None = None,
) -> Dataset:
    """Training rows with copies of each in which words are exchanged, from the folder where they are there.

    Words that are one piece are exchanged for predictions of the model where it has a masked-language-model head;
    others for neighbours in GloVe, or without it in the model's word embeddings. Labels are the originals'.

    Args:
        rows: the plain ones.
        task: their task.
        copies: of each row.
        teacher, model, glove: see `check_augmentation`.
        folder: where they are kept.
        say: told what is done.
        progress: told how many rows are done.

    Raises:
        KdzooError: for a model or a GloVe file that cannot be read.
    """
    check_augmented(task)
    source = _source(teacher, model)
    about = [FORMAT, PROBABILITY, CANDIDATES, copies, str(source), glove, task.columns, hashing.of_rows(rows)]

    def build(scratch: Path) -> None:
        replacement, how = _replacement(source, glove)
        say(f"{task.name:<6} {copies} copies of each of {len(rows)} training rows, words exchanged for {how}")
        augmented(rows, task.columns, replacement, copies, progress=progress).save_to_disk(str(scratch))

    path = hashing.built_once(folder / f"{task.name}-{hashing.of_values(*about)[:16]}", build)
    return load_from_disk(str(path))


def _source(teacher: ModelSpec, model: str | None) -> ModelSpec:
    """Whose words are taken."""
    return ModelSpec.parse(model) if model else teacher


def _replacement(source: ModelSpec, glove: str | None) -> tuple[WordReplacement, str]:
    """What exchanges words, and what for, in words."""
    near = Neighbours.of_glove(glove) if glove is not None else None
    if source.path is None:
        from kdzoo.tasks.synthetic.tokenizer import synthetic_tokenizer

        assert near is not None
        return WordReplacement(synthetic_tokenizer(), None, near), "neighbours in GloVe"
    name, tokenizer = source.path, source.tokenizer
    try:
        predicting = load_model(name, head="masked_lm", new_head=False)
        predicting.to(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    except MissingHead:
        predicting = None
    if near is None:
        near = Neighbours.of_model(predicting or load_model(name, head="none"), tokenizer)
    neighbours = f"neighbours in {'GloVe' if glove else 'its word embeddings'}"
    if predicting is None:
        return WordReplacement(tokenizer, None, near), f"{neighbours}: {name} has no masked-language-model head"
    return WordReplacement(tokenizer, predicting, near), f"predictions of {name} and {neighbours}"
