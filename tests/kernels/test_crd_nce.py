"""What is CRD's own: the sums that Z is made of, the banks' update, and rows gathered in parts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import battery
import pytest
import torch
import torch.nn.functional as F

import kdzoo
from kdzoo import KdzooError
from kdzoo.kernels.backend import has_triton, interpreting
from kdzoo.kernels.crd_nce import blocks as file
from kdzoo.kernels.crd_nce import crd_nce, crd_nce_reference, crd_nce_sums, crd_nce_update

BACKEND, DTYPE = ("triton", torch.float32) if interpreting() else ("torch", torch.float64)


def vectors(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(shape, dtype=DTYPE), dim=-1)


@pytest.mark.skipif(interpreting() or not has_triton(), reason="this is the interpreter's process, or has no triton")
@pytest.mark.timeout(300)
def test_sums_and_update_in_the_interpreter() -> None:
    """Triton reads TRITON_INTERPRET when it is imported."""
    command = [sys.executable, "-m", "pytest", __file__, "-q", "-x", "-k", "sums_of or update_of"]
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--rootdir", str(Path(__file__).parents[2])]
    done = subprocess.run(command + options, env=battery.environment(), capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.parametrize("sample_ids", [None, torch.tensor([3, 0, 49, 3])])
@pytest.mark.parametrize("drawn", [5, 30])
def test_sums_of_both_sides(sample_ids: torch.Tensor | None, drawn: int) -> None:
    student, teacher, banks, ids = vectors(4, 8), vectors(4, 8), vectors(2, 50, 8), torch.randint(50, (4, drawn))
    positives = (teacher, student) if sample_ids is None else (banks[1, sample_ids], banks[0, sample_ids])
    right = torch.stack(
        [
            ((own * positive).sum(-1) / 0.5).exp().sum()
            + (torch.einsum("bd,bkd->bk", own, bank[ids]) / 0.5).exp().sum()
            for own, positive, bank in zip((student, teacher), positives, (banks[1], banks[0]), strict=True)
        ]
    )
    for known in ([0.0, 0.0], [0.0, 7.0], [7.0, 0.0]):
        z = torch.tensor(known, dtype=DTYPE)
        found = crd_nce_sums(student, teacher, *banks, ids, z, sample_ids=sample_ids, temperature=0.5, backend=BACKEND)
        torch.testing.assert_close(found, torch.where(z > 0, 0.0, right))


@pytest.mark.parametrize("momentum", [0.0, 0.3, 1.0])
def test_update_of_rows_some_of_which_come_twice(momentum: float) -> None:
    banks, new, ids = vectors(2, 200, 5), vectors(2, 140, 5), torch.randint(150, (140,))
    banks[0, ids[-1]] = -new[0, -1]  # at a momentum of one half they would cancel
    right = banks.clone()
    for bank, rows in zip(right, new, strict=True):
        old = bank.clone()
        for row, place in zip(rows, ids.tolist(), strict=True):
            bank[place] = F.normalize(momentum * old[place] + (1 - momentum) * row, dim=0)
    crd_nce_update(*banks, *new, ids, momentum=momentum, backend=BACKEND)
    torch.testing.assert_close(banks, right)


@pytest.mark.skipif(interpreting(), reason="the same for all backends")
def test_operators() -> None:
    student, teacher, banks, ids = vectors(4, 8), vectors(4, 8), vectors(2, 50, 8), torch.randint(50, (4, 9))
    operators = torch.ops.kdzoo
    sums = (student, teacher, *banks.unbind(), ids, torch.zeros(2, dtype=DTYPE), None, 0.5, "torch")
    torch.library.opcheck(operators.crd_nce_sums, sums)
    update = (banks[0].clone(), banks[1].clone(), student, teacher, ids[:, 0], 0.5, "torch")
    torch.library.opcheck(operators.crd_nce_update, update)


@pytest.mark.parametrize("whole", [0, 100])
def test_parts_of_the_rows_are_as_all(whole: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Gathered a part at a time, or taken from products with the whole bank."""
    monkeypatch.setattr(file, "BLOCK", 100)
    monkeypatch.setattr(file, "WHOLE", whole)
    sides = [vectors(7, 8).requires_grad_() for _ in range(2)]
    banks, ids, z = vectors(2, 50, 8), torch.randint(50, (7, 30)), torch.tensor([60.0, 80.0], dtype=DTYPE)
    values = [function(*sides, *banks, ids, z) for function in (crd_nce, crd_nce_reference)]
    torch.testing.assert_close(*values)
    for found, right in zip(*(torch.autograd.grad(value, sides) for value in values), strict=True):
        torch.testing.assert_close(found, right)


def test_the_loss_takes_a_backend() -> None:
    with pytest.raises(KdzooError, match="unknown backend of codir 'tritn'; did you mean 'triton'"):
        kdzoo.create("codir", num_samples=9, student_dim=4, teacher_dim=4, backend="tritn")
    loss = kdzoo.create("crd", num_samples=9, student_dim=4, teacher_dim=4, backend="triton")
    with pytest.raises(KdzooError, match="'triton' cannot run here"):
        loss.double()(torch.randn(3, 4).double(), torch.randn(3, 4).double(), sample_ids=torch.arange(3))
