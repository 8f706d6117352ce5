"""Hashes are of contents, wherever these lie in memory; what is built once is there whole or not at all."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from kdzoo import hashing


def dataset(kind: Any, seed: int, count: int = 64) -> Any:
    from datasets import Dataset, Features, Value

    generator = torch.Generator().manual_seed(seed)
    values = torch.randint(5, 99, (count, 12), generator=generator).tolist()
    return Dataset.from_dict(
        {"ids": values, "text": [str(row) for row in values]}, features=Features({"ids": kind, "text": Value("string")})
    )


def kinds() -> list[Any]:
    from datasets import LargeList, List, Sequence, Value

    return [
        List(Value("int64"), length=12),
        List(Value("int32")),
        LargeList(Value("int64")),
        Sequence(Value("float32")),
    ]


@pytest.mark.parametrize("kind", range(4))
def test_rows_are_known_by_their_values(kind: int) -> None:
    of = kinds()[kind]
    sets = [dataset(of, seed) for seed in range(6)]
    hashes = [hashing.of_rows(rows) for rows in sets]
    assert len({*hashes}) == 6
    assert hashing.of_rows(dataset(of, 0)) == hashes[0]
    whole = dataset(of, 0)
    turned = whole.select(range(63, -1, -1))
    assert hashing.of_rows(turned) != hashes[0] == hashing.of_rows(turned.select(range(63, -1, -1)))
    assert hashing.of_rows(whole, ["ids"]) == hashing.of_rows(whole.remove_columns("text")) != hashes[0]
    assert (
        hashing.of_rows(whole.with_transform(lambda rows: pytest.fail("a transform is none of the values")))
        == hashes[0]
    )


def test_values_that_are_missing_nested_or_cut_otherwise() -> None:
    from datasets import Array2D, ClassLabel, Dataset, Features, List, Value

    tables = [
        {"a": [[1, 2], [3]]},
        {"a": [[1], [2, 3]]},
        {"a": [[1, 2, 3], []]},
        {"a": [[1, 2], None]},
        {"a": [[1, None], [3]]},
        {"a": [{"b": 1, "c": "x"}, {"b": 2, "c": "y"}]},
        {"a": [{"b": 1, "c": "x"}, {"b": 2, "c": "z"}]},
        {"a": [0, None]},
        {"a": [None, 0]},
        {"a": [True, False]},
        {"a": ["ab", "c"]},
        {"a": ["a", "bc"]},
    ]
    found = [hashing.of_rows(Dataset.from_dict(table)) for table in tables]
    assert len({*found}) == len(tables)
    assert found == [hashing.of_rows(Dataset.from_dict(table)) for table in tables]
    square = Features({"a": Array2D((2, 2), "float32")})
    label = Features({"a": ClassLabel(names=["x", "y"])})
    for features, first, second in ((square, [[[1.0, 2], [3, 4]]], [[[1.0, 2], [3, 5]]]), (label, [0], [1])):
        hashes = [hashing.of_rows(Dataset.from_dict({"a": rows}, features=features)) for rows in (first, second, first)]
        assert hashes[0] == hashes[2] != hashes[1]
    assert List(Value("int8")) and hashing.of_rows(Dataset.from_dict({"a": []})) != found[0]


def test_tensors_files_and_settings(tmp_path: Path) -> None:
    weights = {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor(1, dtype=torch.bfloat16)}
    known = hashing.of_tensors(weights)
    assert (
        hashing.of_tensors({"a": torch.arange(6.0).view(3, 2).t().contiguous().t().reshape(2, 3), "b": weights["b"]})
        == known
    )
    assert hashing.of_tensors({"a": weights["a"].t().contiguous().t(), "b": weights["b"]}) == known, "of any strides"
    assert hashing.of_tensors({"a": weights["a"].double(), "b": weights["b"]}) != known
    assert hashing.of_tensors({"a": weights["a"] + 1e-6, "b": weights["b"]}) != known
    packed = torch.ao.nn.quantized.dynamic.Linear(4, 4).state_dict()
    assert hashing.of_tensors(packed) == hashing.of_tensors(packed)

    (tmp_path / "x").write_bytes(b"ab")
    (tmp_path / "y").write_bytes(b"c")
    both = hashing.of_files([tmp_path / "x", tmp_path / "y"])
    assert hashing.of_files([tmp_path / "y", tmp_path / "x"]) != both
    (tmp_path / "x").write_bytes(b"a")
    (tmp_path / "y").write_bytes(b"bc")
    assert hashing.of_files([tmp_path / "x", tmp_path / "y"]) != both, "where a file ends is part of it"
    assert hashing.of_values({"a": 1, "b": [2]}) == hashing.of_values({"b": [2], "a": 1}) != hashing.of_values({"a": 1})


@pytest.mark.parametrize("folder", [False, True])
def test_it_is_built_once(folder: bool, tmp_path: Path) -> None:
    path, built = tmp_path / "cache" / "made", []

    def build(scratch: Path) -> None:
        built.append(scratch)
        assert scratch.parent == path.parent and not path.exists()
        time.sleep(0.05)
        if folder:
            scratch.mkdir()
            (scratch / "part").write_text("x")
        else:
            scratch.write_text("x")

    threads = [threading.Thread(target=hashing.built_once, args=(path, build)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(built) == 1 and (path / "part" if folder else path).read_text() == "x"
    assert {entry.name for entry in path.parent.iterdir()} == {"made", ".lock"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_nothing_is_left_of_what_fails(error: type[BaseException], tmp_path: Path) -> None:
    def build(scratch: Path) -> None:
        scratch.mkdir()
        (scratch / "half").write_text("x")
        raise error

    with pytest.raises(error):
        hashing.built_once(tmp_path / "made", build)
    assert {entry.name for entry in tmp_path.iterdir()} == {".lock"}
    (tmp_path / ".made").write_text("what a process that died left")
    hashing.built_once(tmp_path / "made", lambda scratch: scratch.write_text("y"))
    assert (tmp_path / "made").read_text() == "y"
