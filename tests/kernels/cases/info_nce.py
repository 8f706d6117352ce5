"""InfoNCE: in-batch keys in all layouts, with a queue and with both sides."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch

from kdzoo.kernels.info_nce import info_nce as kernel
from kdzoo.kernels.info_nce import info_nce_reference as reference
from kdzoo.kernels.info_nce import info_nce_rows, run

__all__ = ["kernel", "reference"]

GRADIENT = ("student",)


def inputs(draw: Any, rows: int | None = None, width: int | None = None) -> dict[str, Any]:
    rows = draw.integer(1, 70 if draw.integer(0, 9) == 0 else 7) if rows is None else rows
    # Triton reads widths that 16 divides where they lie.
    width = draw.choice(3, 16, 32, 37) if width is None else width
    between = draw.choice((), (3,), (2,), (2, 3), (1, 2))
    return {
        "student": draw.tensor(rows, *between, width),
        "teacher": draw.tensor(rows, *between, width),
        "mask": draw.mask(rows, between[-1]) if between and draw.integer(0, 1) else None,
        "queue": draw.tensor(draw.integer(0, 70), width) if draw.integer(0, 1) else None,
        # A lower one, of few keys, makes gradients that float16 has no digits for.
        "temperature": draw.choice(0.2, 0.5, 2.0),
        "symmetric": bool(draw.integer(0, 1)),
    }


def shorter(good: dict[str, Any]) -> dict[str, Any]:
    return {"student": good["student"][1:], "mask": None, "symmetric": True}


BAD = (
    ("one axis", lambda good: {side: good[side].flatten() for side in ("student", "teacher")}, ("(B, D)",)),
    ("a queue of another width", lambda good: {"queue": torch.ones(4, 7).to(good["student"])}, ("(4, 7)", "(N, 6)")),
    ("no temperature", lambda good: {"temperature": 0.0}, ("temperature is 0.0",)),
    ("rows beyond the teacher's", lambda good: {"start": 1}, ("from 1 on",)),
    ("fewer rows of the student on both sides", shorter, ("3 of 4 rows", "info_nce_rows")),
    (
        "an opposite side of other rows",
        lambda good: {"opposite": (good["student"][1:, ..., 0], good["student"][..., 0])},
        ("opposite", "info_nce_rows"),
    ),
)


def also(place: Any) -> None:
    processes_share_their_rows(place)
    an_anchor_that_found_its_key_keeps_its_digits(place)


def processes_share_their_rows(place: Any) -> None:
    """Each with its own anchors among all keys, both sides, and with a queue."""
    student, teacher = (torch.randn(7, 2, 3, 16).to(place.device) for _ in range(2))
    student[1, 0, 2] = 0
    queue, mask = torch.randn(5, 16).to(place.device), (torch.rand(7, 3) < 0.7).to(place.device)
    mask[0] = True
    options: dict[str, Any] = {"mask": mask, "queue": queue, "temperature": 0.3, "symmetric": True}
    leaf = student.double().requires_grad_()
    right = reference(leaf, teacher.double(), **{**options, "queue": queue.double()})
    (slope,) = torch.autograd.grad(right, leaf)
    parts, options["backend"] = (slice(0, 3), slice(3, 7)), place.backend
    shared = {"mask": mask, "temperature": 0.3, "backend": place.backend}
    told = [info_nce_rows(teacher[part], student, start=part.start, **shared) for part in parts]
    sums, value, count = torch.cat([of for _, of in told]), 0.0, 2 * mask.sum()
    for part, (losses, _) in zip(parts, told, strict=True):
        own = student[part].detach().requires_grad_()
        one = kernel(own, teacher, start=part.start, opposite=(losses, sums), count=count, **options)
        torch.testing.assert_close(torch.autograd.grad(one, own)[0].double(), slope[part], rtol=1e-4, atol=1e-6)
        value += one.item()
    assert abs(value - right.item()) < 1e-5 * right.item()


def an_anchor_that_found_its_key_keeps_its_digits(place: Any) -> None:
    """Losses and gradients are e^-45 there, which no difference of float32 sums would show."""
    student = torch.eye(16)[:2].to(place.device).requires_grad_()
    teacher = (torch.eye(16)[:2] + 0.1 * torch.eye(16)[:2].flip(0)).to(place.device)
    for symmetric in (False, True):
        options: dict[str, Any] = {"temperature": 0.02, "symmetric": symmetric}
        value, leaf = kernel(student, teacher, **options, backend=place.backend), student.detach().double()
        right = reference(leaf.requires_grad_(), teacher.double(), **options)
        assert 0 < right < 1e-17
        torch.testing.assert_close(value.double(), right, rtol=1e-3, atol=0.0)
        found, slope = torch.autograd.grad(value, student)[0].double(), torch.autograd.grad(right, leaf)[0]
        torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def heavy(student: torch.Tensor, *_: Any) -> bool:
    """Blocks of a thousand rows against all, each of them a product of their 2^25 scores with as many columns."""
    return len(student) > 4096


def launches() -> Iterator[Callable[[], Any]]:
    empty, count = partial(torch.empty, device="meta"), torch.empty((), device="meta")
    for dtype, width in ((torch.bfloat16, 128), (torch.bfloat16, 256), (torch.bfloat16, 768), (torch.float32, 768)):
        student, queue = empty((64, 4, 128, width), dtype=dtype), empty(1024, width, dtype=dtype)
        mask = empty((64, 128), dtype=torch.bool)
        for symmetric in (False, True):
            yield partial(run, student, student, mask, queue, None, None, count, 0, 0.07, symmetric, True, "triton")
            yield partial(run, student, student, mask, None, None, None, count, 0, 0.07, symmetric, True, "triton")
    for width in (128, 256):
        rows = empty((32768, width), dtype=torch.bfloat16)
        yield partial(run, rows, rows, None, None, None, None, count, 0, 0.07, False, True, "triton")
