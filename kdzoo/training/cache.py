"""TeacherCache: what a teacher exposes of the training rows, on disk, computed once and read back memory-mapped.

A folder a teacher and training set, named by a hash of both; in it one safetensors file a feature (``logits``,
``cls-6``, ``hidden-3``, ``qkv-5``), so that objectives share what they have in common. Padding is not stored.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from kdzoo.errors import KdzooError, KdzooWarning, unknown
from kdzoo.models.activations import QKV, Activations, Needs, capture
from kdzoo.models.heads import hidden_size, num_heads

FORMAT = "1"
PRECISIONS = {"fp32": (torch.float32, "F32"), "bf16": (torch.bfloat16, "BF16"), "fp16": (torch.float16, "F16")}
NO_HASH = "0" * 64
CHUNK = 2**22  # bytes read at a time for a checksum
VOLATILE = ("_name_or_path", "transformers_version")  # of a config: what does not change the numbers


@dataclass(frozen=True)
class _Feature:
    """One file: ``logits``, or ``cls``, ``hidden`` or ``qkv`` of a layer."""

    kind: str
    layer: int | None = None

    def __str__(self) -> str:
        return self.kind if self.layer is None else f"{self.kind}-{self.layer}"

    @property
    def by_token(self) -> bool:
        return self.kind in ("hidden", "qkv")

    def width(self, config: Any) -> int:
        """Numbers a row or token."""
        if self.kind == "logits":
            return int(config.num_labels)
        if self.kind == "qkv":
            return 3 * num_heads(config) * int(getattr(config, "head_dim", hidden_size(config) // num_heads(config)))
        return hidden_size(config)


def _features(needs: Needs) -> list[_Feature]:
    by_layer = [("cls", needs.cls), ("hidden", needs.hidden), ("qkv", needs.qkv)]
    logits = [_Feature("logits")] if needs.logits else []
    return [*logits, *(_Feature(kind, layer) for kind, layers in by_layer for layer in sorted(layers))]


class TeacherCache:
    """Teachers' activations in a folder.

    Rows are known by ``sample_ids``, their place in the training set. A file that is cut short, was changed, or was
    made by another teacher or from other rows is not used but made again. Losses have the values that the live teacher
    gives them, but for the rounding of float32, in which a teacher's numbers vary with the batch a row is in.

    Args:
        folder: made when it is not there; processes may share it.
        precision: ``"fp32"``, ``"bf16"`` or ``"fp16"``, in which the activations are kept; they are read as float32.
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

    def nbytes(self, config: Any, dataset: Any, needs: Needs) -> int:
        """How many bytes the activations of a training set take.

        Args:
            config: the teacher's.
            dataset: tokenised rows with ``length`` or ``input_ids``.
            needs: of the teacher.
        """
        lengths = _lengths(dataset)
        numbers = sum(f.width(config) * (int(lengths.sum()) if f.by_token else len(lengths)) for f in _features(needs))
        return numbers * PRECISIONS[self.precision][0].itemsize

    def open(
        self,
        teacher: Any,
        dataset: Any,
        needs: Needs,
        *,
        inputs: Iterable[str],
        collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
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
            inputs: the columns that the teacher takes.
            collate: makes a batch of rows.
            batch_size: rows the teacher is given at a time.
            autocast: the context the teacher runs in.
            autocast_dtype: its name, which is part of what the numbers depend on.
            progress: told, while the teacher runs, how many rows are done and of how many.

        Returns:
            None where the live teacher has to be asked: the limit is exceeded, or the teacher shows something that
            rows do not have by themselves (DeBERTa's attention, ModernBERT's windows). A `KdzooWarning` says which.

        Raises:
            KdzooError: for a training set without ``sample_ids`` in order, or numbers that the precision cannot hold.
        """
        obstacle = self._obstacle(teacher, dataset, needs)
        if obstacle is None:
            lengths = _lengths(dataset)
            folder, key = self._place(teacher, dataset, sorted(inputs), autocast_dtype)
            try:
                tensors = self._tensors(
                    folder,
                    key,
                    _features(needs),
                    self._later(teacher, dataset, needs),
                    lengths,
                    lambda missing: _computed(
                        missing, teacher, dataset, inputs, collate, batch_size, autocast, lengths, progress
                    ),
                )
                return TeacherRows(tensors, lengths)
            except _Uncacheable as reason:
                obstacle = str(reason)
        warnings.warn(f"no cache of the teacher: {obstacle}; it runs live", KdzooWarning, stacklevel=2)
        return None

    def _later(self, teacher: Any, dataset: Any, needs: Needs) -> list[_Feature]:
        """What is computed with the needs for others, where all of it together is within the limit."""
        if self.ahead is None:
            return []
        if self.limit is not None and self.nbytes(teacher.config, dataset, needs | self.ahead) > self.limit:
            return []
        return [feature for feature in _features(self.ahead) if _shown(teacher, feature.kind)]

    def _obstacle(self, teacher: Any, dataset: Any, needs: Needs) -> str | None:
        names = getattr(dataset, "column_names", None)
        if names is None or "sample_ids" not in names:
            raise KdzooError("a cache needs a datasets.Dataset with the column 'sample_ids', the rows' numbers")
        if not np.array_equal(np.asarray(dataset["sample_ids"]), np.arange(len(dataset))):
            raise KdzooError("a cache needs sample_ids that are 0, 1, 2, ... in the training set's order")
        if needs.qkv and not _shown(teacher, "qkv"):
            return f"{type(teacher).__name__} does not show its queries and keys"
        size = self.nbytes(teacher.config, dataset, needs)
        if self.limit is not None and size > self.limit:
            return f"it would take {megabytes(size)}, and the limit is {megabytes(self.limit)}"
        return None

    def _place(self, teacher: Any, dataset: Any, inputs: list[str], autocast_dtype: str) -> tuple[Path, str]:
        config = {name: value for name, value in teacher.config.to_diff_dict().items() if name not in VOLATILE}
        about = {
            "format": FORMAT,
            "class": type(teacher).__name__,
            "config": json.loads(json.dumps(config, default=str, sort_keys=True)),
            "weights": _hash_of_weights(teacher),
            "rows": _hash_of_rows(dataset, inputs),
            "computed_in": autocast_dtype or str(teacher.dtype),
            "kept_in": self.precision,
        }
        key = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        return self.folder / key[:16], key

    def _tensors(
        self,
        folder: Path,
        key: str,
        features: list[_Feature],
        later: list[_Feature],
        lengths: np.ndarray[Any, Any],
        compute: Callable[[list[_Feature]], Iterator[tuple[np.ndarray[Any, Any], dict[_Feature, Tensor]]]],
    ) -> dict[_Feature, Tensor]:
        from filelock import FileLock

        def find() -> dict[_Feature, Tensor]:
            found = ((feature, self._read(folder / f"{feature}.safetensors", key)) for feature in features)
            return {feature: tensor for feature, tensor in found if tensor is not None}

        tensors = find()
        if len(tensors) == len(features):
            return tensors
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / ".lock"):  # whoever waits here finds what the other process made
            for left in folder.glob(".*.safetensors"):
                left.unlink()  # a process died while it wrote this
            tensors = find()
            missing = [feature for feature in features if feature not in tensors]
            if missing:
                unmade = [f for f in later if f not in features and not (folder / f"{f}.safetensors").exists()]
                try:
                    self._write(folder, key, lengths, compute(missing + unmade))
                except _Uncacheable:
                    if not unmade:
                        raise
                    self._write(folder, key, lengths, compute(missing))  # it may be others' needs that cannot be kept
                tensors |= find()
        return tensors

    def _write(
        self,
        folder: Path,
        key: str,
        lengths: np.ndarray[Any, Any],
        batches: Iterator[tuple[np.ndarray[Any, Any], dict[_Feature, Tensor]]],
    ) -> None:
        starts = _starts(lengths)
        files: dict[_Feature, _Growing] = {}
        try:
            for rows, values in batches:
                tokens = _tokens(starts, lengths, rows)
                for feature, value in values.items():
                    if feature not in files:
                        count = int(lengths.sum()) if feature.by_token else len(lengths)
                        path = folder / f".{feature}.safetensors"
                        files[feature] = _Growing(path, (count, *value.shape[1:]), key, self.precision)
                    files[feature].put(tokens if feature.by_token else rows, value)
            for feature, file in files.items():
                file.finish(folder / f"{feature}.safetensors")
        finally:
            for file in files.values():
                file.discard()

    def _read(self, path: Path, key: str) -> Tensor | None:
        """A file's tensor, memory-mapped; None where there is none that can be used, which is said and removed."""
        if not path.exists():
            return None
        try:
            with safe_open(path, "pt") as file:
                about = file.metadata() or {}
                if about.get("key") != key or about.get("format") != FORMAT:
                    raise ValueError("it was made by another teacher or from other rows")
                status = path.stat()
                seen = (status.st_mtime_ns, status.st_size)
                if self._verified.get(path) != seen:
                    if _hash_of_data(path) != about.get("sha256"):
                        raise ValueError("its checksum is not the one it was written with")
                    self._verified[path] = seen
                return file.get_tensor("values")
        except (ValueError, SafetensorError, OSError) as error:
            warnings.warn(f"{path} is not used and made again: {error}", KdzooWarning, stacklevel=2)
            path.unlink(missing_ok=True)
            return None


class TeacherRows:
    """What a cache holds of a training set; `activations` are those of some of its rows."""

    def __init__(self, tensors: dict[_Feature, Tensor], lengths: np.ndarray[Any, Any]) -> None:
        self._tensors = tensors
        self._lengths = lengths
        self._starts = _starts(lengths)

    def activations(self, sample_ids: Tensor, mask: Tensor | None, needs: Needs) -> Activations:
        """The teacher's activations of a batch, in float32.

        Args:
            sample_ids: (B,).
            mask: (B, S) the batch's attention mask; None where no row is padded.
            needs: which of them.

        Raises:
            KdzooError: when the mask's rows are not as long as those that the cache was made from.
        """
        device = sample_ids.device
        rows = sample_ids.cpu().numpy()
        real = None if mask is None else mask != 0
        found = Activations(mask=real)
        index = torch.from_numpy(rows)
        tokens: Tensor | None = None
        for feature in _features(needs):
            kept = self._tensors[feature]
            if not feature.by_token:
                value = kept[index].to(device, torch.float32)
                if feature.layer is None:
                    found.logits = value
                else:
                    found.cls[feature.layer] = value
                continue
            if tokens is None:
                tokens = torch.from_numpy(_tokens(self._starts, self._lengths, rows))
                real = self._checked(real, rows, device)
            assert real is not None and feature.layer is not None
            read = kept[tokens].to(device, torch.float32)
            value = read.new_zeros(*real.shape, *read.shape[1:])
            value[real] = read
            if feature.kind == "hidden":
                found.hidden[feature.layer] = value
            else:
                query, key, value = (part.transpose(1, 2) for part in value.unbind(2))
                found.qkv[feature.layer] = QKV(query, key, value)
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


def _shown(teacher: Any, kind: str) -> bool:
    """Whether a teacher shows such a feature of rows by themselves; DeBERTa hides its queries and keys."""
    return kind != "qkv" or bool(teacher._can_set_attn_implementation())


class _Uncacheable(Exception):
    """Why a teacher's activations do not fit into rows of their own."""


def _computed(
    features: list[_Feature],
    teacher: Any,
    dataset: Any,
    inputs: Iterable[str],
    collate: Callable[[list[dict[str, Any]]], dict[str, Any]],
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]],
    lengths: np.ndarray[Any, Any],
    progress: Callable[[int, int], None],
) -> Iterator[tuple[np.ndarray[Any, Any], dict[_Feature, Tensor]]]:
    """Batches of rows, the longest first, and of each feature the rows' or the tokens' values, padding left out."""

    def layers(kind: str) -> frozenset[int]:
        return frozenset(f.layer for f in features if f.kind == kind and f.layer is not None)

    needs = Needs(_Feature("logits") in features, hidden=layers("hidden"), cls=layers("cls"), qkv=layers("qkv"))
    columns = [name for name in dataset.column_names if name in set(inputs)]
    taken = dataset.select_columns(columns)
    order = np.argsort(-lengths, kind="stable")
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = {name: value.to(teacher.device) for name, value in collate([taken[int(row)] for row in rows]).items()}
        batch = {name: value for name, value in batch.items() if name in columns or name == "attention_mask"}
        mask = batch.get("attention_mask")
        with torch.no_grad(), autocast(), capture(teacher, needs) as recorder:
            found = recorder.activations(teacher(**batch), mask=mask)
        if found.visible:
            raise _Uncacheable(f"{type(teacher).__name__}'s attention has windows of its own")
        real = found.mask
        if real is None:
            real = torch.ones(len(rows), int(lengths[rows].max()), dtype=torch.bool, device=teacher.device)
        if needs.cls and not bool(real[:, 0].all()):
            raise _Uncacheable("rows are padded on the left, and their first position depends on the batch")
        values: dict[_Feature, Tensor] = {}
        for feature in features:
            if feature.kind == "qkv":
                parts = found.qkv[feature.layer or 0]
                if len({part.shape for part in parts}) > 1:
                    raise _Uncacheable("queries and values differ in width")
                values[feature] = torch.stack([part.transpose(1, 2) for part in parts], dim=2)[real]
            elif feature.kind == "hidden":
                values[feature] = found.hidden[feature.layer or 0][real]
            elif feature.kind == "cls":
                values[feature] = found.cls[feature.layer or 0]
            else:
                assert found.logits is not None
                values[feature] = found.logits
        yield rows, values
        progress(start + len(rows), len(order))


class _Growing:
    """A safetensors file with one tensor, written row by row, and there under its name only when it is whole."""

    def __init__(self, path: Path, shape: tuple[int, ...], key: str, precision: str) -> None:
        self._path, self._key, self._precision = path, key, precision
        self._dtype, self._name = PRECISIONS[precision]
        self._shape = shape
        header = self._header(NO_HASH)
        with path.open("wb") as file:
            file.write(header)
            # Taken from the disk at once: a hole in a memory-mapped file that finds the disk full ends the process.
            size = int(np.prod(shape)) * self._dtype.itemsize
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), len(header), size)
            else:
                file.truncate(len(header) + size)
        kind = {1: np.uint8, 2: np.int16, 4: np.float32}[self._dtype.itemsize]
        self._values: Any = np.memmap(path, kind, "r+", len(header), shape) if size else np.empty(shape, kind)

    def _header(self, sha256: str) -> bytes:
        about = {"format": FORMAT, "key": self._key, "sha256": sha256}
        size = int(np.prod(self._shape)) * self._dtype.itemsize
        values = {"dtype": self._name, "shape": list(self._shape), "data_offsets": [0, size]}
        text = json.dumps({"__metadata__": about, "values": values}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text

    def put(self, index: np.ndarray[Any, Any], values: Tensor) -> None:
        """Write some of its rows."""
        kept = values.detach().to("cpu", self._dtype).contiguous()
        if self._precision != "fp32" and not torch.equal(kept.isfinite(), values.detach().cpu().isfinite()):
            raise KdzooError(
                f"the teacher's activations are too large for {self._precision}; keep them in bf16 or fp32"
            )
        self._values[index] = kept.numpy() if self._precision == "fp32" else kept.view(torch.int16).numpy()

    def finish(self, final: Path) -> None:
        """Give it its checksum and its name."""
        if isinstance(self._values, np.memmap):
            self._values.flush()
        with self._path.open("r+b") as file:
            file.write(self._header(_hash_of_data(self._path)))
            file.flush()
            os.fsync(file.fileno())
        os.replace(self._path, final)

    def discard(self) -> None:
        """Remove what is not finished."""
        self._path.unlink(missing_ok=True)


def megabytes(size: float) -> str:
    """``12.3 MB``."""
    return f"{size / 1e6:,.1f} MB"


def _lengths(dataset: Any) -> np.ndarray[Any, Any]:
    """The rows' numbers of tokens."""
    if "length" in dataset.column_names:
        return np.asarray(dataset["length"])
    return np.asarray([len(row) for row in dataset["input_ids"]])


def _starts(lengths: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.concatenate([[0], np.cumsum(lengths)])


def _tokens(
    starts: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], rows: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any]:
    """Where the tokens of some rows are, row by row."""
    return np.concatenate([np.arange(starts[row], starts[row] + lengths[row]) for row in rows])


def _hash_of_weights(model: Any) -> str:
    found = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def _hash_of_rows(dataset: Any, columns: list[str]) -> str:
    """Of the values that a teacher is given, in the rows' order."""
    import pyarrow
    from pyarrow.compute import list_value_length

    found = hashlib.sha256(str(len(dataset)).encode())
    used = [name for name in dataset.column_names if name in columns]
    for table in dataset.select_columns(used).with_format("arrow").iter(10_000):
        for name in used:
            column = table.column(name).combine_chunks()
            found.update(f"{name} {column.type}".encode())
            while pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
                found.update(list_value_length(column).to_numpy(zero_copy_only=False).tobytes())
                column = column.flatten()
            found.update(column.to_numpy(zero_copy_only=False).tobytes())
    return found.hexdigest()


def _hash_of_data(path: Path) -> str:
    """Of everything after a safetensors file's header."""
    found = hashlib.sha256()
    with path.open("rb") as file:
        file.seek(int.from_bytes(file.read(8), "little") + 8)
        while chunk := file.read(CHUNK):
            found.update(chunk)
    return found.hexdigest()
