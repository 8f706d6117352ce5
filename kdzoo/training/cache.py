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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor

from kdzoo import hashing
from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.models.activations import QKV, Activations, Needs, capture
from kdzoo.models.features import FEATURES, LOGITS, QKV_OF_LAYER, Feature
from kdzoo.models.heads import (
    batch_dependence,
    head_positions,
    hidden_size,
    logits_by_token,
    num_heads,
    shows_qkv,
    unwrap,
)
from kdzoo.models.masks import real_tokens
from kdzoo.tasks.encoding import TEACHER_PREFIX as TEACHER_PREFIX
from kdzoo.training.collated import Collate, Rows, Source, fingerprints, lengths, same_numbers
from kdzoo.training.store import FORMAT, Growing, read
from kdzoo.training.store import PRECISIONS as PRECISIONS

VOLATILE = ("_name_or_path", "transformers_version")  # of a config: what does not change the numbers
ROWS_FILE = "rows.safetensors"
COMPUTED_IN = {"bf16": torch.bfloat16, "fp16": torch.float16}  # by what autocast calls it


@dataclass(frozen=True)
class _Kept:
    """One file: a feature, of a layer where it has layers."""

    feature: Feature
    layer: int | None = None

    def __str__(self) -> str:
        return str(self.feature) if self.layer is None else f"{self.feature}-{self.layer}"

    def by_token(self, teacher: Any) -> bool:
        """Whether it is kept token by token; logits are those of tokens or of rows."""
        return logits_by_token(teacher) if self.feature == LOGITS else self.feature.by_token

    def width(self, teacher: Any) -> int:
        """Numbers a row or token."""
        config = getattr(teacher, "config", teacher)
        if self.feature == LOGITS:
            output = teacher.get_output_embeddings() if hasattr(teacher, "get_output_embeddings") else None
            return int(config.num_labels if output is None else config.vocab_size)
        if self.feature == QKV_OF_LAYER:
            return 3 * num_heads(config) * int(getattr(config, "head_dim", hidden_size(config) // num_heads(config)))
        return hidden_size(config)


def _kept(needs: Needs) -> list[_Kept]:
    layered = (f for f in FEATURES.values() if f.by_layer)
    logits = [_Kept(LOGITS)] if needs.logits else []
    return [*logits, *(_Kept(f, layer) for f in layered for layer in sorted(getattr(needs, f.kept)))]


class TeacherCache:
    """Teachers' activations in a folder.

    Rows are known by ``sample_ids``, their place in the training set. A file that is cut short, was changed, or was
    made by another teacher or from other rows is not used but made again. Losses have the values that the live teacher
    gives them, but for the rounding of float32, in which a teacher's numbers vary with the batch a row is in.

    Args:
        folder: made when it is not there; processes may share it.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, in which the activations are kept; they are read as float32
            (queries, keys and values as the teacher gave them).
        limit: the most bytes that an objective's activations may take; over it there is no cache, and the live teacher
            is asked. None for no limit.
        ahead: what others will need of the same teacher; where the limit has room for it too, it is computed with what
            is needed first, so that the teacher runs over the rows once for all of them.

    Raises:
        KdzooError: for an unknown precision.
    """

    def __init__(
        self, folder: str | Path, *, precision: str = "fp32", limit: int | None = None, ahead: Needs | None = None
    ) -> None:
        if precision not in PRECISIONS:
            raise unknown("precision", precision, PRECISIONS)
        self.folder = Path(folder)
        self.precision = precision
        self.limit = limit
        self.ahead = ahead
        self._verified: dict[Path, tuple[int, int]] = {}

    def nbytes(self, teacher: Any, dataset: Any, needs: Needs, *, prefix: str = "") -> int:
        """How many bytes the activations of a training set take, as long as the collator cuts nothing off.

        Args:
            teacher: the model, or a classifier's config.
            dataset: tokenised rows with ``attention_mask`` or ``input_ids``.
            needs: of the teacher.
            prefix: what stands before the names of the teacher's columns.
        """
        found = lengths(dataset, prefix)
        numbers = sum(
            kept.width(teacher) * (int(found.sum()) if kept.by_token(teacher) else len(found)) for kept in _kept(needs)
        )
        return numbers * PRECISIONS[self.precision][0].itemsize

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
                return TeacherRows(*self._found(folder, key, source, needs), COMPUTED_IN.get(autocast_dtype))
            except _Uncacheable as reason:
                obstacle = str(reason)
        warnings.warn(f"no cache of the teacher: {obstacle}; it runs live", KdzooWarning, stacklevel=2)
        return None

    def _later(self, source: Source, needs: Needs) -> list[_Kept]:
        """What is computed with the needs for others, where all of it together is within the limit."""
        if self.ahead is None:
            return []
        size = self.nbytes(source.teacher, source.dataset, needs | self.ahead, prefix=source.prefix)
        if self.limit is not None and size > self.limit:
            return []
        return [kept for kept in _kept(self.ahead) if kept.feature != QKV_OF_LAYER or shows_qkv(source.teacher)]

    def _obstacle(self, source: Source, needs: Needs) -> str | None:
        names = getattr(source.dataset, "column_names", None)
        if names is None or "sample_ids" not in names:
            raise KdzooError("a cache needs a datasets.Dataset with the column 'sample_ids', the rows' numbers")
        if not np.array_equal(np.asarray(source.dataset["sample_ids"]), np.arange(len(source.dataset))):
            raise KdzooError("a cache needs sample_ids that are 0, 1, 2, ... in the training set's order")
        if needs.qkv and not shows_qkv(source.teacher):
            return f"{type(source.teacher).__name__} does not show its queries and keys"
        if dependence := batch_dependence(source.teacher):
            return dependence
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
    ) -> tuple[dict[_Kept, tuple[Tensor, bool]], Rows]:
        """What is needed, read from the folder, with what is not there computed first."""
        wanted = _kept(needs)

        def find() -> tuple[Tensor | None, dict[_Kept, tuple[Tensor, bool]]]:
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
        return found, Rows(rows[:, 0].numpy(), rows[:, 1].numpy())

    def _make(self, folder: Path, key: str, source: Source, missing: list[_Kept], needs: Needs) -> None:
        rows = source.rows()
        if not missing:
            self._write(folder, key, rows, iter(()))
            return
        wanted, later = _kept(needs), self._later(source, needs)
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
        batches: Iterator[tuple[np.ndarray[Any, Any], dict[_Kept, tuple[Tensor, bool]]]],
    ) -> None:
        starts, dtype = _starts(rows.lengths), PRECISIONS[self.precision][0]
        files: dict[str, Growing] = {}

        def file_of(name: str, count: int, value: Tensor, kind: torch.dtype, by_token: bool = False) -> Growing:
            if name not in files:
                path = folder / f".{name}"
                files[name] = Growing(path, (count, *value.shape[1:]), key, kind, by_token=by_token)
            return files[name]

        try:
            for numbers, values in batches:
                tokens = _tokens(starts, rows.lengths, numbers)
                for kept, (value, by_token) in values.items():
                    count = int(rows.lengths.sum()) if by_token else len(rows.lengths)
                    file = file_of(f"{kept}.safetensors", count, value, dtype, by_token)
                    file.put(tokens if by_token else numbers, value)
            both = torch.from_numpy(np.stack(rows, axis=1))
            file_of(ROWS_FILE, len(both), both, torch.int64).put(np.arange(len(both)), both)
            for name, file in files.items():
                file.finish(folder / name)
        finally:
            for file in files.values():
                file.discard()

    def _read(self, path: Path, key: str) -> tuple[Tensor, bool] | None:
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


class TeacherRows:
    """What a cache holds of a training set; `activations` are those of some of its rows."""

    def __init__(
        self, values: dict[_Kept, tuple[Tensor, bool]], rows: Rows, computed_in: torch.dtype | None = None
    ) -> None:
        """
        Args:
            values: what is kept, and whether by token.
            rows: their lengths, and the prints of their inputs.
            computed_in: the half precision that matrix products were computed in, if they were.
        """
        self._values, self._computed_in = values, computed_in
        self._lengths, self._prints = rows.lengths, torch.from_numpy(rows.prints)
        self._starts = _starts(rows.lengths)

    def holds(self, sample_ids: Tensor, taken: dict[str, Tensor]) -> bool:
        """Whether a batch is what the teacher was given of these rows, (B,)."""
        prints = fingerprints(taken)[0]
        return torch.equal(prints, self._prints[sample_ids.cpu()].to(prints.device))

    def activations(self, sample_ids: Tensor, mask: Tensor | None, needs: Needs) -> Activations:
        """The teacher's activations of a batch, in float32; queries, keys and values in the type that they came in.

        Those the live teacher gives in half precision under autocast, in which their products are several times faster.

        Args:
            sample_ids: (B,).
            mask: (B, S) the batch's attention mask; None where no row is padded.
            needs: which of them.

        Raises:
            KdzooError: when the mask's rows are not as long as those that the cache was made from.
        """
        device = sample_ids.device
        rows = sample_ids.cpu().numpy()
        real = real_tokens(mask)
        found = Activations(mask=real)
        index = torch.from_numpy(rows)
        tokens: Tensor | None = None
        for kept in _kept(needs):
            values, by_token = self._values[kept]
            if by_token and tokens is None:
                tokens = torch.from_numpy(_tokens(self._starts, self._lengths, rows))
                real = self._checked(real, rows, device)
            in_half = kept.feature == QKV_OF_LAYER and self._computed_in is not None
            value = values[tokens if by_token else index].to(device, self._computed_in if in_half else torch.float32)
            if by_token:
                assert real is not None
                padded = value.new_zeros(*real.shape, *value.shape[1:])
                padded[real] = value
                value = padded
            if kept.layer is None:
                found.logits = value
            elif kept.feature == QKV_OF_LAYER:
                query, key, value = (part.transpose(1, 2) for part in value.unbind(2))
                found.qkv[kept.layer] = QKV(query, key, value)
            else:
                getattr(found, kept.feature.kept)[kept.layer] = value
        return found

    def _checked(self, real: Tensor | None, rows: np.ndarray[Any, Any], device: torch.device) -> Tensor:
        lengths = torch.from_numpy(self._lengths[rows]).to(device)
        if real is None:
            real = torch.ones(len(rows), int(lengths.max()), dtype=torch.bool, device=device)
        if not torch.equal(real.sum(1), lengths):
            raise KdzooError(
                f"the batch's rows have {real.sum(1).tolist()} tokens and the cached ones {lengths.tolist()}; "
                "sample_ids must be the rows' places in the training set that the cache was made from"
            )
        return real


class _Uncacheable(Exception):
    """Why a teacher's activations do not fit into rows of their own."""


def _computed(
    wanted: list[_Kept], source: Source, known: Rows
) -> Iterator[tuple[np.ndarray[Any, Any], dict[_Kept, tuple[Tensor, bool]]]]:
    """Batches of rows, and of each feature the rows' or the tokens' values, padding left out."""
    teacher = source.teacher
    layers: dict[str, Any] = {
        f.kept: frozenset(k.layer for k in wanted if k.feature == f) for f in FEATURES.values() if f.by_layer
    }
    needs = Needs(_Kept(LOGITS) in wanted, **layers)
    done = 0
    for rows, taken in source.batches():
        if not np.array_equal(fingerprints(taken)[0].numpy(), known.prints[rows]):
            raise _Uncacheable("the collator makes something else of the same rows each time")
        batch = {name: value.to(teacher.device) for name, value in taken.items()}
        mask = batch.get("attention_mask")
        with torch.no_grad(), source.autocast(), capture(teacher, needs) as recorder:
            found = recorder.activations(teacher(**batch), mask=mask)
        if found.visible:
            raise _Uncacheable(f"{type(teacher).__name__}'s attention has windows of its own")
        real = found.mask
        if real is None:
            shape = len(rows), int(known.lengths[rows].max())
            real = torch.ones(shape, dtype=torch.bool, device=teacher.device)
        if not bool(real[:, 0].all()):
            raise _Uncacheable("rows are padded on the left, and what they are given depends on the batch")
        if needs.cls and not bool(real.gather(1, head_positions(teacher, real).unsqueeze(1)).all()):
            raise _Uncacheable(f"{type(teacher).__name__}'s head reads the last position, which depends on the batch")
        yield rows, {kept: _by_row_or_token(kept, found, real) for kept in wanted}
        done += len(rows)
        source.progress(done, len(source.dataset))


def _by_row_or_token(kept: _Kept, found: Activations, real: Tensor) -> tuple[Tensor, bool]:
    """A feature's values as they are kept, and whether that is token by token."""
    value = found.get(kept.feature, kept.layer)
    if isinstance(value, QKV):
        if len({part.shape for part in value}) > 1:
            raise _Uncacheable("queries and values differ in width")
        value = torch.stack([part.transpose(1, 2) for part in value], dim=2)
    by_token = kept.feature.by_token or (kept.feature == LOGITS and value.dim() == 3)
    return (value[real] if by_token else value), by_token


def megabytes(size: float) -> str:
    """``12.3 MB``."""
    return f"{size / 1e6:,.1f} MB"


def _starts(lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _tokens(
    starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Where the tokens of some rows are, row by row."""
    return np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in rows])
