"""Training rows whose targets a teacher has written: decoded once, kept as they come, and gone on with after a kill.

Source: Kim and Rush (2016), Sequence-Level Knowledge Distillation, sections 3.2 and 3.3.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from kdzoo import hashing
from kdzoo.errors import KdzooError
from kdzoo.tasks.generation_scores import closest
from kdzoo.tasks.source_target import vocabularies
from kdzoo.training.agreement import evaluating

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedTokenizerBase

    from kdzoo.objectives.recipe import Recipe, Targets
    from kdzoo.tasks import Task

FORMAT = "2"
# Of a model's configuration and its rules: no text depends on them.
ASIDE = ("_name_or_path", "transformers_version", "use_cache", "_from_model_config")


class Decoded(NamedTuple):
    """Rows with the teacher's texts as targets, and a line that says how they were made."""

    rows: Dataset
    said: str


def check_targets(recipe: Recipe, task: Task) -> None:
    """Refuse a recipe that trains on a teacher's texts for a task that has none.

    Raises:
        KdzooError: names both.
    """
    if recipe.targets is not None and not task.generates:
        raise KdzooError(
            f"{recipe.name} trains on texts that the teacher writes, and {task.name} has none to write; take kd"
        )


def decoded_rows(
    rows: Dataset,
    task: Any,
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    targets: Targets,
    *,
    max_length: int,
    folder: Path,
    student: PreTrainedTokenizerBase | None = None,
    batch_size: int = 32,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Decoded:
    """Training rows with what the teacher writes for their sources in place of their targets.

    All hypotheses of a row are kept, a row a line, in a file named by the teacher's weights and configuration, the rows
    and the decoding; whatever of it is there is not decoded again. A row keeps its reference where the chosen text is
    empty, has more tokens than ``max_target``, or was cut there because the teacher found no end.

    Args:
        rows: as they were loaded, with the task's fields.
        task: a `kdzoo.tasks.generation.SequenceToSequence`.
        teacher: an encoder-decoder.
        tokenizer: the teacher's.
        targets: how wide the beam is, and which hypothesis is taken.
        max_length: the most tokens of a source.
        folder: where what was written is kept; processes may share it.
        student: the tokenizer of those that are trained on the texts, where it is another than the teacher's.
        batch_size: sources at a time.
        progress: told the rows done and the rows to do.

    Raises:
        KdzooError: the file cannot be written or read.
    """
    decoding = replace(task.decoding, beam=targets.beam)
    about = hashing.of_values(
        FORMAT,
        type(teacher).__name__,
        hashing.of_tensors(teacher.state_dict()),
        hashing.of_rows(rows, ["source"]),
        *vocabularies(tokenizer),
        asdict(decoding),
        _said(teacher.config),
        _said(getattr(teacher, "generation_config", None)),
        max_length,
    )
    path = folder / f"{task.name}-{about[:16]}.jsonl"
    with hashing.locked(folder):
        kept = _Kept(path)
        todo = np.asarray([row for row in range(len(rows)) if row not in kept.texts], dtype=int)
        if len(todo):
            left = task.encode(rows.select(todo), tokenizer, max_length)
            _decode(left, todo, task, decoding, teacher, tokenizer, kept, batch_size, len(rows), progress)
    chosen, unusable = [], 0
    references = [list(of) for of in rows["target"][:]]
    for row, own in enumerate(references):
        texts = kept.texts[row]
        text = closest(texts, own) if targets.choose == "closest" else texts[0]
        sizes = (len(one(text_target=text, verbose=False)["input_ids"]) for one in (tokenizer, student or tokenizer))
        fits = bool(text) and kept.ended[row][texts.index(text)] and max(sizes) <= task.decoding.max_target
        unusable += not fits
        chosen.append([text] if fits else own)
    what = "the best" if targets.choose == "best" else "the closest to the reference by sentence BLEU"
    said = f"targets: written by the teacher, {decoding}, {what}; decoded in {kept.seconds:.1f} s"
    if unusable:
        said += f"; {unusable} of {len(rows)} rows keep their reference, for the teacher wrote nothing or found no end"
    columns = {"source": rows["source"][:], "target": chosen}
    return Decoded(type(rows).from_dict(columns, features=task.features()), said)


class _Kept:
    """What is written of a set of rows: a line a row, the last of which a kill may have cut short."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.texts: dict[int, list[str]] = {}
        self.ended: dict[int, list[bool]] = {}  # of each text, whether the teacher came to an end
        self.seconds = 0.0
        whole = 0
        data = path.read_bytes() if path.exists() else b""
        for line in data.splitlines(keepends=True):
            if not line.endswith(b"\n"):
                break
            try:
                found = json.loads(line)
                row, texts, seconds = int(found["row"]), [str(text) for text in found["texts"]], float(found["seconds"])
                ended = [bool(end) for _, end in zip(texts, found["ended"], strict=True)]
            except (ValueError, KeyError, TypeError):
                break
            self.texts[row], self.ended[row] = texts, ended
            self.seconds += seconds
            whole += len(line)
        if whole < len(data):
            with path.open("rb+") as file:
                file.truncate(whole)

    def add(self, found: list[tuple[int, list[str], list[bool]]], seconds: float) -> None:
        """Write some rows down, so that they are there whatever comes."""
        share = seconds / len(found)
        lines = [{"row": row, "texts": texts, "ended": ended, "seconds": share} for row, texts, ended in found]
        try:
            with self._path.open("a", encoding="utf-8", newline="\n") as file:
                file.writelines(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise KdzooError(f"{self._path} cannot be written: {error}") from error
        for row, texts, ended in found:
            self.texts[row], self.ended[row] = texts, ended
        self.seconds += seconds


def _decode(
    left: Dataset,
    numbers: np.ndarray[Any, Any],
    task: Any,
    decoding: Any,
    teacher: Any,
    tokenizer: PreTrainedTokenizerBase,
    kept: _Kept,
    batch_size: int,
    total: int,
    progress: Callable[[int, int], None],
) -> None:
    """Decode encoded rows, the longest sources first, whose numbers in the training set are given."""
    collate = task.collator(tokenizer)
    order = np.argsort([-len(ids) for ids in left["input_ids"][:]], kind="stable")
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")
    teacher.to(device)
    for start in range(0, len(order), batch_size):
        began = time.perf_counter()
        rows = [int(row) for row in order[start : start + batch_size]]
        batch = {name: value.to(device) for name, value in collate([left[row] for row in rows]).items()}
        with torch.no_grad(), evaluating(teacher):
            ids = decoding.generate(teacher, batch, several=True).cpu().numpy()
        texts, ended = task.decoded(ids, tokenizer), came_to_an_end(ids, teacher, decoding.max_target).tolist()
        wide = decoding.beam
        found = [
            (int(numbers[row]), texts[at : at + wide], ended[at : at + wide])
            for row, at in zip(rows, range(0, len(texts), wide), strict=True)
        ]
        kept.add(found, time.perf_counter() - began)
        progress(len(kept.texts), total)
    teacher.cpu()


def came_to_an_end(ids: np.ndarray[Any, Any], model: Any, most: int) -> np.ndarray[Any, Any]:
    """Whether what a model wrote has an end that it chose, (N,).

    One in the last of the places that it may write in is none where the model is made to put one there.

    Args:
        ids: (N, T), a start and what was written.
        model: with its ``generation_config``.
        most: how many tokens it may write.
    """
    told = getattr(model, "generation_config", None)
    ends = getattr(told, "eos_token_id", None)
    if ends is None:
        return np.ones(len(ids), dtype=bool)
    forced = getattr(told, "forced_eos_token_id", None) is not None
    return np.asarray(np.isin(ids[:, 1 : most + (not forced)], ends).any(axis=1))


def _said(told: Any) -> str:
    """What of a model's configuration, or of its own rules of writing, is not the default."""
    found = {} if told is None else told.to_diff_dict()
    return json.dumps({key: value for key, value in found.items() if key not in ASIDE}, default=str, sort_keys=True)
