"""Divergences from hidden states in chunks: the same in any of them, memory, autocast, and what is not computed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from kdzoo.bench.measure.workloads import workload
from kdzoo.bench.timing import peak_bytes
from kdzoo.kernels import backend, linear_divergence
from kdzoo.kernels.linear_divergence import linear_divergence as fused
from kdzoo.kernels.linear_divergence import linear_divergence_reference as reference


def sides(rows: int = 21, width: int = 6, classes: int = 40, dtype: torch.dtype = torch.float64) -> dict[str, Tensor]:
    own = {"student": torch.randn(rows, width), "weight": torch.randn(classes, width), "bias": torch.randn(classes)}
    given = {**own, "teacher": torch.randn(rows, 5), "teacher_weight": torch.randn(classes, 5)}
    made = {name: value.to(dtype) for name, value in given.items()}
    return {name: value.requires_grad_(name in own) for name, value in made.items()}


def gradients(value: Tensor, given: dict[str, Tensor]) -> list[Tensor]:
    return list(torch.autograd.grad(value, [one for one in given.values() if one.requires_grad]))


@pytest.mark.parametrize("host", [True, False])
def test_in_chunks_it_is_the_same(host: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """21 rows in threes and fours, some of which do not count; where they are left out, and where they are zeros."""
    monkeypatch.setattr(linear_divergence, "on_host", lambda device: host)
    monkeypatch.setattr(backend, "DEVICE_BLOCK", 1)
    monkeypatch.setattr(linear_divergence, "BLOCK", 1)
    given = sides()
    mask = torch.rand(3, 7) < 0.7
    shaped = {**given, "student": given["student"].view(3, 7, -1), "teacher": given["teacher"].view(3, 7, -1)}
    right = reference(**shaped, mask=mask, kind="jsd", mixture=0.3, temperature=2.0)
    for least in (3, 4, 100):
        monkeypatch.setattr(linear_divergence, "LEAST", least)
        found = fused(**shaped, mask=mask, kind="jsd", mixture=0.3, temperature=2.0)
        torch.testing.assert_close(found, right)
        torch.testing.assert_close(gradients(found, given), gradients(right, given))
        right = reference(**shaped, mask=mask, kind="jsd", mixture=0.3, temperature=2.0)


def test_finite_differences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear_divergence, "LEAST", 2)
    monkeypatch.setattr(linear_divergence, "BLOCK", 1)
    given = sides(rows=5, width=3, classes=4)

    def value(student: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return fused(**{**given, "student": student, "weight": weight, "bias": bias}, temperature=1.5)

    assert torch.autograd.gradcheck(value, tuple(given[name] for name in ("student", "weight", "bias")))


@pytest.mark.parametrize("name", ["student", "weight", "bias"])
def test_each_gradient_is_to_be_had_alone(name: str) -> None:
    """And the others' memory is never made."""
    given = {one: value.detach().requires_grad_(one == name) for one, value in sides().items()}
    (found,), (right,) = gradients(fused(**given), given), gradients(reference(**given), given)
    torch.testing.assert_close(found, right)
    flags = [name == one for one in ("student", "weight", "bias")]
    count = torch.ones((), dtype=torch.float64)
    ours, theirs = ([value.detach() for value in part] for part in (list(given.values())[:3], list(given.values())[3:]))
    _, *rooms = linear_divergence.run(*ours, *theirs, None, None, None, count, *flags, "auto", "kl", 0.0, 1.0)
    assert [room.numel() > 0 for room in rooms] == flags


def test_the_logits_are_never_whole_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks of one step: four times the rows take little more, where the usual form holds logits again and again."""
    monkeypatch.setattr(linear_divergence, "BLOCK", 1 << 13)
    work, peaks = workload("linear_divergence"), {}
    for rows in (128, 512):
        inputs = work.inputs({"B": rows, "D": 8, "C": 2000}, torch.float32, torch.device("cpu"))
        leaves = {name: inputs[name].requires_grad_() for name in work.gradient}
        for provider in (work.naive, work.kernel):

            def step(provider: Any = provider, given: Any = (inputs | leaves)) -> None:
                provider(**given).backward()

            step()  # gradients that are there already are no part of it
            peaks[provider, rows] = peak_bytes(step, torch.device("cpu"))
    logits = 512 * 2000 * 4
    assert peaks[work.naive, 512] > 3 * logits
    assert peaks[work.kernel, 512] < logits / 3
    assert peaks[work.kernel, 512] - peaks[work.kernel, 128] < 3 * 384 * 8 * 4


def test_inside_autocast_a_head_is_cast_and_gets_its_gradient() -> None:
    """A float32 head and hidden states of bfloat16, as a model inside autocast has them, against the plain form."""
    given = sides(rows=64, width=32, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        cast = {name: value.to(torch.bfloat16) for name, value in given.items()}
        value = fused(**cast, temperature=2.0)
        s = F.linear(given["student"], given["weight"], given["bias"])
        t = F.linear(given["teacher"], given["teacher_weight"])
        plain = F.kl_div((s / 2).log_softmax(-1), (t / 2).softmax(-1), reduction="batchmean")
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, plain, rtol=3e-2, atol=1e-3)
    for found, right in zip(gradients(value, given), gradients(plain, given), strict=True):
        assert found.dtype == torch.float32
        assert (found - right).norm() < 3e-2 * right.norm()


def test_a_type_for_each_is_refused_with_what_would_be_right() -> None:
    given = sides(dtype=torch.float32)
    with pytest.raises(backend.KernelError, match="student is bfloat16 and weight is float32"):
        fused(**{**given, "student": given["student"].bfloat16()})
