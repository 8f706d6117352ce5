"""Layer maps: which student layer learns from which teacher layer."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.features import feature_of

LayerMap = str | Sequence[Sequence[int]]
Pairs = tuple[tuple[int, int], ...]

NAMES = ("uniform", "uniform0", "last", "first", "all")
_SLICE = re.compile(r"^(?P<name>\w+)(\[(?P<start>-?\d*)(?P<colon>:)?(?P<stop>-?\d*)\])?$")


def layer_map(layers: LayerMap, student_layers: int, teacher_layers: int, feature: str = "hidden") -> Pairs:
    """The (student, teacher) pairs of a layer map.

    Hidden states are numbered as in transformers: 0 is the embedding output and i the output of the i-th layer.
    Attention layers are numbered from 0. With k = teacher_layers / student_layers, ``"uniform"`` maps hidden state
    i to i·k and attention layer i to i·k + k - 1, so that both name the same teacher layer (TinyBERT, section 3.1);
    a fractional i·k is rounded up.

    Args:
        layers: a name, optionally with a Python slice or index over its pairs (``"uniform[:-1]"`` leaves out the
            top layer, ``"uniform[-1]"`` takes it alone), or explicit pairs in the numbering of the feature:

            - ``"uniform"``: spread evenly, the top on the top;
            - ``"uniform0"``: the embedding outputs, then ``"uniform"``; for hidden states alone;
            - ``"last"``: the student's layers on the teacher's last ones;
            - ``"first"``: on the teacher's first ones;
            - ``"all"``: every student layer on every teacher layer, for losses that pair them themselves; a slice
              goes over the layers of each side (``"all[:-1]"`` leaves out both top layers);
            - ``"skip"``: ``"uniform[:-1]"``, every k-th layer without the top one (PKD, section 3.2).
        student_layers: number of student layers.
        teacher_layers: number of teacher layers.
        feature: ``"hidden"``, ``"cls"`` or ``"qkv"``.

    Raises:
        KdzooError: for an unknown name, a pair out of range, a map with no pair, or ``"first"`` and ``"last"``
            where the teacher is the shallower one.
    """
    attention = feature_of(feature).attention
    if not isinstance(layers, str):
        return _explicit(layers, student_layers, teacher_layers, attention)
    match = _SLICE.match("uniform[:-1]" if layers == "skip" else layers.replace(" ", ""))
    if match is None or match["name"] not in NAMES:
        raise unknown("layer map", layers, (*NAMES, "skip", "uniform[:-1]"))
    name = match["name"]
    if name in ("first", "last") and teacher_layers < student_layers:
        raise KdzooError(
            f"layer map {layers!r} needs a teacher at least as deep as the student, got {teacher_layers} and "
            f"{student_layers} layers; use 'uniform' or explicit pairs"
        )
    offset = teacher_layers - student_layers
    if name == "all":
        first = 0 if attention else 1
        sides = [list(range(first, first + depth)) for depth in (student_layers, teacher_layers)]
        students, teachers = (_sliced(side, match) for side in sides)
        if not students or not teachers:
            raise KdzooError(
                f"layer map {layers!r} leaves no layer of a student of {student_layers} layers and a teacher of "
                f"{teacher_layers}"
            )
        return tuple((i, j) for i in students for j in teachers)
    if name == "uniform0" and attention:
        raise KdzooError("layer map 'uniform0' starts at the embeddings, which have no attention; use 'uniform'")
    teacher_of = {
        "uniform": lambda i: math.ceil(i * teacher_layers / student_layers),
        "uniform0": lambda i: math.ceil(i * teacher_layers / student_layers),
        "last": lambda i: offset + i,
        "first": lambda i: i,
    }[name]
    pairs = [(i, teacher_of(i)) for i in range(0 if name == "uniform0" else 1, student_layers + 1)]
    pairs = _sliced(pairs, match)
    if not pairs:
        raise KdzooError(f"layer map {layers!r} leaves no layer of a student of {student_layers} layers")
    if attention:
        pairs = [(student - 1, teacher - 1) for student, teacher in pairs]
    return tuple(pairs)


def _sliced(listed: list[Any], match: re.Match[str]) -> list[Any]:
    """What a map's slice or index leaves of a list; all of it where there is none."""
    if match["start"] is None:
        return listed
    start = int(match["start"]) if match["start"] else None
    stop = int(match["stop"]) if match["stop"] else None
    if match["colon"]:
        return listed[start:stop]
    return [listed[start]] if start is not None and -len(listed) <= start < len(listed) else []


def _explicit(layers: Sequence[Sequence[int]], student_layers: int, teacher_layers: int, attention: bool) -> Pairs:
    what = "attention layers" if attention else "hidden states"
    pairs = []
    if not isinstance(layers, (list, tuple)):
        raise KdzooError(f"a layer map is a name or (student, teacher) pairs, got {layers!r}")
    for pair in layers:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise KdzooError(f"a layer map is a name or (student, teacher) pairs, got the entry {pair!r}")
        for side, index, depth in (("student", pair[0], student_layers), ("teacher", pair[1], teacher_layers)):
            high = depth - 1 if attention else depth
            if not isinstance(index, int) or not 0 <= index <= high:
                raise KdzooError(
                    f"layer map {tuple(pair)}: {side} index {index!r} is out of range; its {what} are 0 to {high}"
                )
        pairs.append((int(pair[0]), int(pair[1])))
    if not pairs:
        raise KdzooError("a layer map needs at least one (student, teacher) pair")
    return tuple(pairs)
