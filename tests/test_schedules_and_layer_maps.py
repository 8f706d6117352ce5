"""Weights that change in the course of a training, and which layers of two models are compared."""

from __future__ import annotations

from typing import Any

import pytest

from kdzoo.errors import KdzooError
from kdzoo.models.layers import layer_map
from kdzoo.objectives.schedule import Schedule, after, before, linear

# --- schedules --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (after(0.8, 3), [0, 0, 0, 3, 3]),
        (before(0.8, 3), [3, 3, 3, 0, 0]),
        (linear(1, 3), [1, 1.5, 2, 2.6, 3]),
        (linear(1, 0), [1, 0.75, 0.5, 0.2, 0]),
        (Schedule(((0.25, 1.0), (0.5, 4.0))), [0, 1, 4, 4, 4]),
        (Schedule(((0.25, 1.0), (0.5, 4.0)), interpolate=True), [1, 1, 4, 4, 4]),
        (Schedule(((0.0, 0.0), (0.5, 0.0), (0.5, 1.0), (1.0, 2.0)), interpolate=True), [0, 0, 1, 1.6, 2]),
    ],
)
def test_schedules(schedule: Schedule, expected: list[float]) -> None:
    assert [schedule(p) for p in (0.0, 0.25, 0.5, 0.8, 1.0)] == pytest.approx(expected)


@pytest.mark.parametrize("points", [(), ((0.5, 1.0), (0.2, 1.0)), ((-0.1, 1.0),), ((0.5, 1.0), (1.1, 0.0))])
def test_schedules_that_are_none(points: Any) -> None:
    with pytest.raises(KdzooError, match="a schedule's fractions rise within 0 to 1"):
        Schedule(points)


# --- layer maps -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layers", "student", "teacher", "feature", "expected"),
    [
        # TinyBERT, 4 of 12 layers: g(m) = 3m for hidden states, and the attention layer of the same block
        ("uniform", 4, 12, "hidden", [(1, 3), (2, 6), (3, 9), (4, 12)]),
        ("uniform", 4, 12, "qkv", [(0, 2), (1, 5), (2, 8), (3, 11)]),
        ("uniform", 6, 12, "hidden", [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10), (6, 12)]),
        ("uniform", 6, 12, "qkv", [(0, 1), (1, 3), (2, 5), (3, 7), (4, 9), (5, 11)]),
        ("uniform", 4, 6, "hidden", [(1, 2), (2, 3), (3, 5), (4, 6)]),
        ("uniform", 4, 2, "hidden", [(1, 1), (2, 1), (3, 2), (4, 2)]),
        ("uniform0", 3, 6, "hidden", [(0, 0), (1, 2), (2, 4), (3, 6)]),
        ("uniform0[:-1]", 3, 6, "cls", [(0, 0), (1, 2), (2, 4)]),
        ("last", 3, 12, "cls", [(1, 10), (2, 11), (3, 12)]),
        ("last", 3, 12, "qkv", [(0, 9), (1, 10), (2, 11)]),
        ("first", 3, 12, "hidden", [(1, 1), (2, 2), (3, 3)]),
        # PKD-skip for 6 of 12 layers: 2, 4, 6, 8, 10; PKD-last: 7 to 11
        ("skip", 6, 12, "cls", [(1, 2), (2, 4), (3, 6), (4, 8), (5, 10)]),
        ("last[:-1]", 6, 12, "cls", [(1, 7), (2, 8), (3, 9), (4, 10), (5, 11)]),
        ("uniform[-1]", 4, 12, "hidden", [(4, 12)]),
        ("uniform[-1]", 4, 12, "qkv", [(3, 11)]),
        ("uniform[0]", 4, 12, "hidden", [(1, 3)]),
        ("uniform[1:3]", 4, 12, "hidden", [(2, 6), (3, 9)]),
        ("uniform[ 2 : ]", 4, 12, "hidden", [(3, 9), (4, 12)]),
        ("all", 2, 3, "cls", [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ("all", 2, 1, "qkv", [(0, 0), (1, 0)]),
        ("all[:-1]", 3, 4, "hidden", [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]),
        ("all[:-1]", 2, 3, "qkv", [(0, 0), (0, 1)]),
        ("all[-1]", 2, 3, "cls", [(2, 3)]),
        ([(0, 0), (4, 12)], 4, 12, "hidden", [(0, 0), (4, 12)]),
        ([[0, 11], [3, 0]], 4, 12, "qkv", [(0, 11), (3, 0)]),
    ],
)
def test_layer_maps(layers: Any, student: int, teacher: int, feature: str, expected: list[tuple[int, int]]) -> None:
    assert layer_map(layers, student, teacher, feature) == tuple(expected)


@pytest.mark.parametrize(
    ("layers", "feature", "message"),
    [
        ("unifrom", "hidden", "unknown layer map 'unifrom'; did you mean 'uniform'"),
        ("uniform[a]", "hidden", "unknown layer map 'uniform"),
        ("uniform[9]", "hidden", r"layer map 'uniform\[9\]' leaves no layer of a student of 4 layers"),
        ("uniform[4:]", "hidden", "leaves no layer"),
        ("all[4:]", "hidden", r"'all\[4:\]' leaves no layer of a student of 4 layers and a teacher of 12"),
        ("uniform0", "qkv", "'uniform0' starts at the embeddings, which have no attention; use 'uniform'"),
        ([(5, 1)], "hidden", r"layer map \(5, 1\): student index 5 is out of range; its hidden states are 0 to 4"),
        ([(1, 13)], "hidden", "teacher index 13 is out of range; its hidden states are 0 to 12"),
        ([(4, 1)], "qkv", "student index 4 is out of range; its attention layers are 0 to 3"),
        ([(-1, 1)], "hidden", "student index -1 is out of range"),
        ([(1.0, 1)], "hidden", r"student index 1\.0 is out of range"),
        ([(1, 2, 3)], "hidden", "a layer map is a name or"),
        ([1, 2], "hidden", "a layer map is a name or"),
        ([], "hidden", "needs at least one"),
    ],
)
def test_wrong_layer_maps(layers: Any, feature: str, message: str) -> None:
    with pytest.raises(KdzooError, match=message) as error:
        layer_map(layers, 4, 12, feature)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("layers", ["first", "last"])
def test_a_shallower_teacher(layers: str) -> None:
    with pytest.raises(KdzooError, match="needs a teacher at least as deep as the student, got 2 and 4 layers"):
        layer_map(layers, 4, 2)


def test_pkd_of_one_layer_has_no_map() -> None:
    with pytest.raises(KdzooError, match="leaves no layer of a student of 1 layers"):
        layer_map("skip", 1, 12, "cls")
