"""Divergences: every kind with and without a mixture, softened or not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from kdzoo.kernels.divergence import LIMIT, operator
from kdzoo.kernels.divergence import divergence as kernel
from kdzoo.kernels.divergence import divergence_reference as reference

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)
# Of a single row of few classes a divergence is by chance no larger than the rounding of what it is summed from.
VALUE_FLOOR = 5e-7
BARRIERS = 0  # sums are by lane, and over the lanes once a row
MIXTURES = (
    *(("kl", 0.0), ("kl", 0.1), ("reverse_kl", 0.0), ("reverse_kl", 0.3), ("cross_entropy", 0.0)),
    *(("cross_entropy", 0.2), ("jsd", 0.0), ("jsd", 0.5), ("jsd", 0.9), ("jsd", 1.0), ("tvd", 0.0)),
)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 7) if rows is None else rows
    # A single row of so few classes may by chance have a divergence that is no larger than float32's own errors.
    width = draw.choice(*((2, 3) if rows > 3 else ()), 5, 37, 8200) if width is None else width
    between = draw.choice((), (3,), (5,), (2, 3))
    kind, mixture = draw.choice(*MIXTURES)
    teacher = draw.tensor(rows, *between, width)
    if draw.integer(0, 3) == 0:
        teacher[:1] = -torch.inf  # all alike, with maxima in which the logarithm of a sum is lost
    return {
        "student": draw.tensor(rows, *between, width),
        "teacher": teacher,
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
        "kind": kind,
        "mixture": mixture,
        "temperature": draw.choice(1.0, 2.5),
    }


def kinks(inputs: dict[str, Any]) -> Tensor:
    """The rows where TVD has two probabilities so close that float32 may take either for the larger."""
    logits = [inputs[side].double() / inputs["temperature"] for side in ("student", "teacher")]
    if inputs["kind"] != "tvd" or not logits[0].numel():
        return torch.zeros(1, dtype=torch.bool, device=logits[0].device)
    # Infinities count as a largest number, with which exact ties are ties in any precision.
    s, t = (side.clamp(-LIMIT, LIMIT).log_softmax(-1) for side in logits)
    rounding = 1e-6 * (10 + torch.maximum(*(side.abs().where(side.abs() < LIMIT, 0.0) for side in logits)))
    return ((s != t) & ((s - t).abs() < rounding)).any(-1, keepdim=True)


BAD = (
    ("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(B, D)",)),
    ("an unknown kind", lambda good: {"kind": "k"}, ("'k'", "kl, reverse_kl, cross_entropy, jsd, tvd")),
    ("all mixture", lambda good: {"kind": "kl", "mixture": 1.0}, ("1.0", "0 to 1, without 1")),
    ("too much mixture", lambda good: {"kind": "jsd", "mixture": 1.5}, ("1.5", "0 to 1")),
    ("no temperature", lambda good: {"temperature": 0.0}, ("temperature is 0.0",)),
    ("a temperature that is no number", lambda good: {"temperature": float("nan")}, ("temperature is nan",)),
)


def launches() -> Iterator[Callable[[], Any]]:
    empty = partial(torch.empty, device="meta")
    forms = [(kind, mixture) for kind, mixture in MIXTURES if kind != "jsd" or mixture == 0.5]
    for dtype, shape, tried in (
        (torch.bfloat16, (8, 512, 128256), forms),
        (torch.float32, (4096, 30522), [("jsd", 0.5)]),
        (torch.float32, (64, 1500), [("jsd", 0.5)]),
        (torch.float32, (64, 1000), [("jsd", 0.5)]),
        (torch.float32, (256, 3), [("jsd", 0.5)]),
    ):
        logits, count = empty(shape, dtype=dtype), empty(())
        mask = empty(shape[:2], dtype=torch.bool) if len(shape) == 3 else None
        for kind, mixture in tried:
            yield partial(operator.run, logits, logits, mask, count, True, "triton", kind, mixture, 2.0)
    yield partial(operator.run, logits, logits, None, count, False, "triton", "jsd", 0.5, 2.0)
