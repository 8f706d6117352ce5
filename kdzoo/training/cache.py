"""TeacherCache: what a teacher exposes of the training rows, on disk, computed once and read back memory-mapped.

A folder a teacher and training set, named by a hash of both; in it one safetensors file a feature (``logits``,
``cls-6``, ``hidden-3``, ``qkv-5``), so that objectives share what they have in common, and one of the rows themselves,
by which each batch is checked to be what the teacher saw. Padding is not stored.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from kdzoo import hashing
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.models.activations import QKV, Activations, Needs, capture
from kdzoo.models.features import FEATURES, LOGITS, QKV_OF_LAYER
from kdzoo.models.heads import (
    head_positions,
    unwrap,
)
from kdzoo.models.masks import real_tokens, seen_pairs
from kdzoo.tasks.encoding import TEACHER_PREFIX as TEACHER_PREFIX
from kdzoo.training.collated import Collate, Rows, Source, fingerprints, lengths, same_numbers, target_lengths
from kdzoo.training.kept import ROW, TARGET, TOKEN, Kept, TeacherRows, axes_of, kept_of, logits_width, why_not_kept
from kdzoo.training.store import FORMAT, Growing, read
from kdzoo.training.store import PRECISIONS as PRECISIONS
from kdzoo.training.topk import cut

VOLATILE = ("_name_or_path", "transformers_version")  # of a config: what does not change the numbers
ROWS_FILE = "rows.safetensors"
COMPUTED_IN = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by what autocast calls it


class TeacherCache:
    """Teachers' activations in a folder.

    Rows are known by ``sample_ids``, their place in the training set. A file that is cut short, was changed, or was
    made by another teacher or from other rows is not used but made again. Losses have the values that the live teacher
    gives them, but for the rounding of float32, in which a teacher's numbers vary with the batch a row is in.

    Args:
        folder: made when it is not there; processes may share it.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, in which the activations are kept; they are read as float32
            (queries, keys and values as the teacher gave them).
        top: how many logits of a token are kept of a vocabulary that is larger; the others' probability is kept as one
            number and read as spread evenly over them. None for all.
        limit: the most bytes that an objective's activations may take; over it there is no cache, and the live teacher
            is asked. None for no limit.
        ahead: what others will need of the same teacher; where the limit has room for it too, it is computed with what
            is needed first, so that the teacher runs over the rows once for all of them.

    Raises:
        KdzooError: for an unknown precision, or a ``top`` under 1.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        precision: str = "fp32",
        limit: int | None = None,
        ahead: Needs | None = None,
        top: int | None = None,
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.folder = Path(folder)
        self.precision = precision
        if top is not None and top < 1:
            raise KdzooError(f"top is {top}; keep at least one logit a token")
        self.limit = limit
        self.ahead = ahead
        self.top = top
        self._verified: dict[Path, tuple[int, int]] = {}

    def nbytes(self, teacher: Any, dataset: Any, needs: Needs, *, prefix: str | None = None) -> int:
        """How many bytes the activations of a training set take, as long as the collator cuts nothing off.

        Args:
            teacher: the model, or a classifier's config.
            dataset: tokenised rows with ``attention_mask`` or ``input_ids``.
            needs: of the teacher.
            prefix: what stands before the names of the teacher's columns; found from the columns when None.
        """
        if prefix is None:
            prefix = TEACHER_PREFIX if f"{TEACHER_PREFIX}input_ids" in dataset.column_names else ""
        found = {ROW: len(dataset), TOKEN: int(lengths(dataset, prefix, kept=True).sum())}
        found[TARGET] = int(target_lengths(dataset).sum())
        size = PRECISIONS[self.precision][0].itemsize
        wanted = kept_of(needs, self.top_of(teacher))
        return sum(kept.width(teacher) * found[kept.by(teacher)] * (4 if kept.places else size) for kept in wanted)

    def top_of(self, teacher: Any) -> int | None:
        """How many logits of a token are kept; None where that is all of them."""
        by_token = Kept(LOGITS).by(teacher) != ROW
        return self.top if by_token and self.top is not None and self.top < logits_width(teacher) else None

    def open(
        self,
        teacher: Any,
        dataset: Any,
        needs: Needs,
        *,
        inputs: Iterable[str],
        collate: Collate,
        prefix: str = "",
        batch_size: int = 32,
        autocast: Callable[[], AbstractContextManager[Any]] = nullcontext,
        autocast_dtype: str = "",
        progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> TeacherRows | None:
        """The activations of a training set, computed first where they are not there.

        Args:
            teacher: a transformers model in evaluation mode, on the device it is to run on.
            dataset: a ``datasets.Dataset`` of tokenised rows whose ``sample_ids`` are 0, 1, 2, ...
            needs: of the teacher.
            inputs: the names of what the teacher takes.
            collate: makes a batch of rows, as in the training.
            prefix: what stands before the names of ``inputs`` in the columns and in the batch.
            batch_size: rows the teacher is given at a time.
            autocast: the context the teacher runs in.
            autocast_dtype: its name, which is part of what the numbers depend on.
            progress: told, while the teacher runs, how many rows are done and of how many.

        Returns:
            None where the live teacher has to be asked: the limit is exceeded, the collator makes something else of
            the same rows each time, or the teacher shows something that rows do not have by themselves (DeBERTa's
            attention, ModernBERT's windows). A `KdzooWarning` says which.

        Raises:
            KdzooError: for a training set without ``sample_ids`` in order, or numbers that the precision cannot hold.
        """
        source = Source(
            unwrap(teacher), dataset, tuple(sorted(inputs)), collate, prefix, batch_size, autocast, progress
        )
        obstacle = self._obstacle(source, needs)
        if obstacle is None:
            with same_numbers():
                probe, again = source.probe(), source.probe()
            if not torch.equal(probe, again):
                obstacle = "the collator makes something else of the same rows each time"
        if obstacle is None:
            folder, key = self._place(source, probe, autocast_dtype)
            try:
                found = self._found(folder, key, source, needs)
                vocabulary = logits_width(source.teacher) if needs.logits else 0
                return TeacherRows(*found, vocabulary, COMPUTED_IN.get(autocast_dtype))
            except _Uncacheable as reason:
                obstacle = str(reason)
        warnings.warn(f"no cache of the teacher: {obstacle}; it runs live", KdzooWarning, stacklevel=2)
        return None

    def _later(self, source: Source, needs: Needs) -> list[Kept]:
        """What is computed with the needs for others, where all of it together is within the limit."""
        if self.ahead is None:
            return []
        ahead = self.ahead
        if why_not_kept(source.teacher, Needs(logits=False, qkv=ahead.qkv)):
            ahead = replace(ahead, qkv=frozenset())
        if why_not_kept(source.teacher, Needs(logits=False, raw_qkv=ahead.raw_qkv)):
            ahead = replace(ahead, raw_qkv=frozenset())
        size = self.nbytes(source.teacher, source.dataset, needs | ahead, prefix=source.prefix)
        if self.limit is not None and size > self.limit:
            return []
        return kept_of(ahead, self.top_of(source.teacher))

    def _obstacle(self, source: Source, needs: Needs) -> str | None:
        names = getattr(source.dataset, "column_names", None)
        if names is None or "sample_ids" not in names:
            raise KdzooError("a cache needs a datasets.Dataset with the column 'sample_ids', the rows' numbers")
        if not np.array_equal(np.asarray(source.dataset["sample_ids"]), np.arange(len(source.dataset))):
            raise KdzooError("a cache needs sample_ids that are 0, 1, 2, ... in the training set's order")
        if why := why_not_kept(source.teacher, needs):
            return why
        size = self.nbytes(source.teacher, source.dataset, needs, prefix=source.prefix)
        if self.limit is not None and size > self.limit:
            return f"it would take {megabytes(size)}, and the limit is {megabytes(self.limit)}"
        return None

    def _place(self, source: Source, probe: Tensor, autocast_dtype: str) -> tuple[Path, str]:
        teacher = source.teacher
        config = {name: value for name, value in teacher.config.to_diff_dict().items() if name not in VOLATILE}
        about = {
            "format": FORMAT,
            "class": type(teacher).__name__,
            "config": json.loads(json.dumps(config, default=str, sort_keys=True)),
            "weights": hashing.of_tensors(teacher.state_dict()),
            "rows": hashing.of_rows(source.dataset, source.columns()),
            "collated": probe.tolist(),
            "computed_in": autocast_dtype or str(teacher.dtype),
            "kept_in": self.precision,
        }
        key = hashing.of_values(about)
        return self.folder / key[:16], key

    def _found(
        self, folder: Path, key: str, source: Source, needs: Needs
    ) -> tuple[dict[Kept, tuple[Tensor, str]], Rows]:
        """What is needed, read from the folder, with what is not there computed first."""
        wanted = kept_of(needs, self.top_of(source.teacher))

        def find() -> tuple[Tensor | None, dict[Kept, tuple[Tensor, str]]]:
            rows = self._read(folder / ROWS_FILE, key)
            found = ((kept, self._read(folder / f"{kept}.safetensors", key)) for kept in wanted)
            return rows and rows[0], {kept: values for kept, values in found if values is not None}

        rows, found = find()
        if rows is None or len(found) < len(wanted):
            with hashing.locked(folder):  # whoever waits here finds what the other process made
                for left in folder.glob(".*.safetensors"):
                    left.unlink()  # a process died while it wrote this
                rows, found = find()
                missing = [kept for kept in wanted if kept not in found]
                if rows is None or missing:
                    self._make(folder, key, source, missing, needs)
                    rows, made = find()
                    found |= made
        assert rows is not None
        return found, Rows(*(column.numpy() for column in rows.unbind(1)))

    def _make(self, folder: Path, key: str, source: Source, missing: list[Kept], needs: Needs) -> None:
        rows = source.rows()
        if not missing:
            self._write(folder, key, rows, iter(()))
            return
        wanted, later = kept_of(needs, self.top_of(source.teacher)), self._later(source, needs)
        unmade = [kept for kept in later if kept not in wanted and not (folder / f"{kept}.safetensors").exists()]
        try:
            self._write(folder, key, rows, _computed(missing + unmade, source, rows))
        except _Uncacheable:
            if not unmade:
                raise
            self._write(folder, key, rows, _computed(missing, source, rows))  # it may be others' that cannot be kept

    def _write(
        self,
        folder: Path,
        key: str,
        rows: Rows,
        batches: Iterator[tuple[np.ndarray[Any, Any], dict[Kept, tuple[Tensor, str]]]],
    ) -> None:
        axes, dtype = axes_of(rows), PRECISIONS[self.precision][0]
        files: dict[str, Growing] = {}

        def file_of(name: str, count: int, value: Tensor, kind: torch.dtype, by: str = ROW) -> Growing:
            if name not in files:
                path = folder / f".{name}"
                files[name] = Growing(path, (count, *value.shape[1:]), key, kind, by=by)
            return files[name]

        try:
            for numbers, values in batches:
                for kept, (value, by) in values.items():
                    kind = torch.int32 if kept.places else dtype
                    file = file_of(f"{kept}.safetensors", axes[by].total, value, kind, by)
                    file.put(axes[by].places(numbers), value)
            both = torch.from_numpy(np.stack(rows, axis=1))
            file_of(ROWS_FILE, len(both), both, torch.int64).put(np.arange(len(both)), both)
            for name, file in files.items():
                file.finish(folder / name)
        finally:
            for file in files.values():
                file.discard()

    def _read(self, path: Path, key: str) -> tuple[Tensor, str] | None:
        """A file's tensor, memory-mapped; None where there is none that can be used, which is said and removed."""
        if not path.exists():
            return None
        try:
            status = path.stat()
            seen = (status.st_mtime_ns, status.st_size)
            found = read(path, key, check=self._verified.get(path) != seen)
            self._verified[path] = seen
            return found
        except (ValueError, SafetensorError, OSError) as error:
            warnings.warn(f"{path} is not used and made again: {error}", KdzooWarning, stacklevel=2)
            path.unlink(missing_ok=True)
            return None


class _Uncacheable(Exception):
    """Why a teacher's activations do not fit into rows of their own."""


def _computed(
    wanted: list[Kept], source: Source, known: Rows
) -> Iterator[tuple[np.ndarray[Any, Any], dict[Kept, tuple[Tensor, str]]]]:
    """Batches of rows, and of each feature the rows' or the tokens' values, padding left out."""
    teacher = source.teacher
    layers: dict[str, Any] = {
        f.kept: frozenset(k.layer for k in wanted if k.feature == f) for f in FEATURES.values() if f.by_layer
    }
    needs = Needs(any(kept.feature == LOGITS for kept in wanted), **layers)
    done = 0
    for rows, taken, index in source.batches():
        if not np.array_equal(fingerprints(taken).numbers.numpy(), known.prints[rows]):
            raise _Uncacheable("the collator makes something else of the same rows each time")
        batch = {name: value.to(teacher.device) for name, value in taken.items()}
        mask = batch.get("attention_mask")
        with torch.no_grad(), source.autocast(), capture(teacher, needs) as recorder:
            own = None if index is None else index.to(teacher.device)
            found = recorder.activations(teacher(**batch), mask=mask, index=own)
        if any(not _given(seen, mask) for seen in found.visible.values()):
            raise _Uncacheable(f"{type(teacher).__name__}'s attention has windows of its own")
        real = found.mask
        if real is None:
            shape = len(rows), int(known.lengths[rows].max())
            real = torch.ones(shape, dtype=torch.bool, device=teacher.device)
        first = real_tokens(mask)
        if not bool((real if first is None else first)[:, 0].all()):
            raise _Uncacheable("rows are padded on the left, and what they are given depends on the batch")
        if needs.cls and index is None and not bool(real.gather(1, head_positions(teacher, real).unsqueeze(1)).all()):
            raise _Uncacheable(f"{type(teacher).__name__}'s head reads the last position, which depends on the batch")
        if found.target_mask is not None and not bool(found.target_mask[:, 0].all()):
            raise _Uncacheable("targets are padded on the left, and what they are given depends on the batch")
        yield rows, {kept: _values_of(kept, found, real) for kept in wanted}
        done += len(rows)
        source.progress(done, len(source.dataset))


def _values_of(kept: Kept, found: Activations, real: Tensor) -> tuple[Tensor, str]:
    """A feature's values as they are kept, and what that is by."""
    value = found.get(kept.feature, kept.layer)
    if kept.feature == QKV_OF_LAYER and not isinstance(value, QKV):
        raise _Uncacheable("its attention adds a bias to the scores of queries and keys")
    if isinstance(value, QKV):
        if len({part.shape for part in value}) > 1:
            raise _Uncacheable("queries and values differ in width")
        value = torch.stack([part.transpose(1, 2) for part in value], dim=2)
    if found.target_mask is not None and (kept.feature.of_decoder or kept.feature == LOGITS):
        value, by = value[found.target_mask], TARGET
    else:
        by = TOKEN if kept.feature.by_token or (kept.feature == LOGITS and value.dim() == 3) else ROW
        value = value[real] if by == TOKEN else value
    return (value if kept.top is None else cut(value, kept.top)[kept.places]), by


def _given(seen: Tensor, mask: Tensor | None) -> bool:
    """Whether what a layer sees is what the batch says it may: pairs that the model was given, and no window."""
    return mask is not None and mask.dim() > 2 and torch.equal(seen, seen_pairs(mask).to(seen.device))


def megabytes(size: float) -> str:
    """``12.3 MB``."""
    return f"{size / 1e6:,.1f} MB"
