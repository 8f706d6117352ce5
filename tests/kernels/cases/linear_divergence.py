"""Divergences from hidden states: with and without a bias, from a teacher's head, its logits or its largest classes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.linear_divergence import linear_divergence, linear_divergence_reference, run

GRADIENT = ("student", "weight", "bias")
VALUE_FLOOR = 5e-7  # as of divergence
ROUNDED = 3  # a logit is a sum, of up to 1000 products here
FORMS = (("kl", 0.0), ("kl", 0.1), ("reverse_kl", 0.0), ("cross_entropy", 0.0), ("jsd", 0.5))


def kernel(bias: Tensor, **inputs: Any) -> Any:
    return linear_divergence(bias=bias, **inputs)


def reference(bias: Tensor, **inputs: Any) -> Any:
    return linear_divergence_reference(bias=bias, **inputs)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 7) if rows is None else rows
    width = draw.choice(3, 8, 37) if width is None else width
    classes, other = draw.choice(7, 37, 300), draw.choice(5, 16)
    between = draw.choice((), (3,), (2, 3))
    kind, mixture = draw.choice(*FORMS)
    # Logits of size one and more, as heads give.
    size = max(width, 1) ** 0.5
    made = {
        "student": draw.tensor(rows, *between, width),
        "weight": draw.tensor(classes, width) / size,
        "bias": draw.tensor(1, classes)[0],
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
        "kind": kind,
        "mixture": mixture,
        "temperature": draw.choice(1.0, 2.5),
    }
    if draw.integer(0, 1):
        made |= {"teacher": draw.tensor(rows, *between, other), "teacher_weight": draw.tensor(classes, other) / 2}
        return made | ({"teacher_bias": draw.tensor(1, classes)[0]} if draw.integer(0, 1) else {})
    if draw.integer(0, 1):
        return made | {"teacher": draw.tensor(rows, *between, classes)}
    order = torch.rand(rows, *between, classes, generator=draw.generator).argsort(-1)
    return made | {"teacher": draw.tensor(rows, *between, 4) - 2, "places": order[..., :3].int()}


def of_a_head(good: dict[str, Any]) -> dict[str, Any]:
    rows, classes = good["student"].shape[:-1], len(good["weight"])
    new = good["student"].new_ones
    return {"teacher": new(*rows, 5), "teacher_weight": new(classes, 5), "teacher_bias": None, "places": None}


BAD = (
    ("a bias of too many", lambda good: {"bias": good["bias"].repeat(2)}, ("bias (", "bias (C,)")),
    ("a head of others", lambda good: {**of_a_head(good), "teacher_weight": good["weight"][1:, :5]}, ("(C, E)",)),
    (
        "a bias of no head",
        lambda good: {**of_a_head(good), "teacher_weight": None, "teacher_bias": good["bias"]},
        ("teacher_bias", "teacher_weight"),
    ),
    (
        "places of a head",
        lambda good: {**of_a_head(good), "places": torch.zeros((*good["student"].shape[:-1], 1), dtype=torch.int64)},
        ("places", "teacher_weight"),
    ),
    (
        "places that are numbers",
        lambda good: {**of_a_head(good), "teacher_weight": None, "places": good["student"][..., :4]},
        ("places", "integers"),
    ),
    (
        "a mask in place of places",
        lambda good: {**of_a_head(good), "teacher_weight": None, "places": good["student"][..., :4] > 0},
        ("places", "integers"),
    ),
    (
        "a class named twice",
        lambda good: {
            **of_a_head(good),
            "teacher_weight": None,
            "places": torch.zeros((*good["student"].shape[:-1], 4), dtype=torch.int64),
        },
        ("places", "twice"),
    ),
    ("an unknown kind", lambda good: {"kind": "k"}, ("linear_divergence", "'k'")),
    ("all mixture", lambda good: {"kind": "kl", "mixture": 1.0}, ("1.0", "0 to 1, without 1")),
    ("no temperature", lambda good: {"temperature": 0.0}, ("temperature is 0.0",)),
)


def launches() -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    for dtype, classes in ((torch.bfloat16, 128256), (torch.float32, 30522)):
        hidden, head, mask = empty((8, 128, 768), dtype=dtype), empty((classes, 768), dtype=dtype), None
        bias = empty((classes,), dtype=dtype)
        if dtype == torch.bfloat16:
            mask = empty((8, 128), dtype=torch.bool)
        heads = (hidden, head, bias, hidden, head, bias, None, mask, empty(()))
        yield partial(run, *heads, True, True, True, "triton", "kl", 0.0, 2.0)
