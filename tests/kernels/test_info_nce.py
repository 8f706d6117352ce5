"""What is InfoNCE's own: the rows of one of several processes, long sums in blocks, low temperatures, its memory."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import kdzoo
from kdzoo import KdzooError
from kdzoo.bench.timing import peak_bytes
from kdzoo.kernels.info_nce import blocks as file
from kdzoo.kernels.info_nce import info_nce, info_nce_reference, info_nce_rows


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("shape", [(7, 5), (7, 3, 5), (7, 2, 3, 5)])
def test_two_parts_of_the_rows_make_the_whole(shape: tuple[int, ...], symmetric: bool) -> None:
    student, teacher = (torch.randn(shape, dtype=torch.float64, requires_grad=side) for side in (True, False))
    mask = (torch.rand(shape[0], shape[-2]) < 0.6).index_fill(0, torch.tensor([0]), True) if len(shape) > 2 else None
    count = torch.ones(shape[:-1]).sum() if mask is None else mask.sum() * (shape[1] if len(shape) == 4 else 1)
    parts = [slice(0, 3), slice(3, 7)]
    told = [info_nce_rows(teacher[part], student, mask=mask, start=part.start) for part in parts]
    sums = torch.cat([of for _, of in told])
    value = sum(
        info_nce(
            student[part],
            teacher,
            mask=mask,
            start=part.start,
            symmetric=symmetric,
            opposite=(losses, sums) if symmetric else None,
            count=count,
        )
        for part, (losses, _) in zip(parts, told, strict=True)
    )
    whole = info_nce_reference(student, teacher, mask=mask, symmetric=symmetric)
    torch.testing.assert_close(value, whole)
    torch.testing.assert_close(*(torch.autograd.grad(one, student)[0] for one in (value, whole)))


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("temperature", [1e-3, 0.07, 100.0])
def test_many_blocks_are_as_one(symmetric: bool, temperature: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the exponentials of the scores alone would overflow, too."""
    monkeypatch.setattr(file, "BLOCK", 64)
    monkeypatch.setattr(file, "FEWEST", 3)
    student, teacher = torch.randn(20, 4, 6).double().requires_grad_(), torch.randn(20, 4, 6).double()
    queue = torch.randn(30, 6).double()
    values = [
        function(student, teacher, queue=queue, symmetric=symmetric, temperature=temperature)
        for function in (info_nce, info_nce_reference)
    ]
    torch.testing.assert_close(*values)
    torch.testing.assert_close(*(torch.autograd.grad(value, student)[0] for value in values))


@pytest.mark.parametrize("symmetric", [False, True])
def test_memory_does_not_grow_with_the_matrix_of_scores(symmetric: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file, "BLOCK", 2**14)
    student, teacher = torch.randn(2048, 16, requires_grad=True), torch.randn(2048, 16)

    def step() -> None:
        student.grad = None
        info_nce(student, teacher, symmetric=symmetric).backward()

    step()
    assert peak_bytes(step, student.device) < 4 * 2048 * 2048 / 4


def test_an_anchor_that_found_its_key_keeps_its_digits() -> None:
    """Loss and gradient are e^-45 there, which no difference of float32 sums would show."""
    student, teacher = torch.eye(2).requires_grad_(), torch.tensor([[1.0, 0.1], [0.1, 1.0]])
    value = info_nce(student, teacher, temperature=0.02)
    wide = torch.eye(2, dtype=torch.float64).requires_grad_()
    cosines = F.normalize(wide, dim=-1) @ F.normalize(teacher.double(), dim=-1).T
    right = F.softplus((cosines.flip(1) - cosines).diagonal() / 0.02).mean()
    torch.testing.assert_close(value.double(), right, rtol=1e-3, atol=0.0)
    found, slope = torch.autograd.grad(value, student)[0].double(), torch.autograd.grad(right, wide)[0]
    torch.testing.assert_close(found, slope, rtol=1e-3, atol=1e-3 * slope.abs().max().item())


def test_the_loss_takes_a_backend() -> None:
    with pytest.raises(KdzooError, match="unknown backend of info_nce 'tritn'; did you mean 'triton'"):
        kdzoo.create("info_nce", backend="tritn")
    with pytest.raises(KdzooError, match="'triton' cannot run here"):
        kdzoo.create("info_nce", backend="triton")(torch.randn(4, 6).double(), torch.randn(4, 6).double())
