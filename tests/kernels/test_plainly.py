"""The short ways that kernels take on a CPU: where they are taken, and on values for which they are not."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

import kdzoo
from kdzoo.kernels.backend import KernelError
from kdzoo.kernels.cos_nce import cos_nce, cos_nce_reference
from kdzoo.kernels.cosine import cosine, cosine_reference
from kdzoo.kernels.divergence import divergence, divergence_reference
from kdzoo.kernels.hidden_mse import hidden_mse, hidden_mse_reference
from kdzoo.kernels.info_nce import info_nce, info_nce_reference
from kdzoo.kernels.normalized_mse import normalized_mse, normalized_mse_reference
from kdzoo.kernels.relation import relation

LOGITS = (3, 15000)  # more elements than are left to plain PyTorch


def agrees(
    kernel: Callable[..., Tensor],
    reference: Callable[..., Tensor],
    student: Tensor,
    teacher: Tensor,
    within: float = 2e-6,
    **options: Any,
) -> None:
    """In value and gradient with the formula in float64."""
    own, exact = student.clone().requires_grad_(), student.double().requires_grad_()
    value, wanted = kernel(own, teacher, **options), reference(exact, teacher.double(), **options)
    value.backward()
    wanted.backward()
    assert own.grad is not None and exact.grad is not None
    assert math.isclose(value.item(), wanted.item(), rel_tol=within, abs_tol=1e-9)
    assert (own.grad - exact.grad).norm() <= within * exact.grad.norm()


@pytest.mark.parametrize("temperature", [1.0, 3.0])
@pytest.mark.parametrize("middles", [(0.0, 0.0), (25.0, -40.0)])
@pytest.mark.parametrize("spread", [1.0, 9.0, 300.0])
def test_kl_of_many_classes(temperature: float, middles: tuple[float, float], spread: float) -> None:
    """Of logits near zero, near another number, and too far apart for exponentials without their maximum."""
    student, teacher = (torch.randn(LOGITS) * spread + middle for middle in middles)
    within = 1e-6 * (5 + 4 * spread)  # of numbers as large as these float32 has no more digits
    agrees(divergence, divergence_reference, student, teacher, within=within, temperature=temperature)


@pytest.mark.parametrize("layout", ["half", "masked"])
def test_kl_of_rows_in_buffers_is_softened_once(layout: str) -> None:
    """Rows that are copied, and that the ways for logits near to each other give back to the general one."""
    dtype = torch.bfloat16 if layout == "half" else torch.float32
    student, teacher = torch.randn(4, *LOGITS, dtype=dtype), torch.full((4, *LOGITS), -torch.inf, dtype=dtype)
    teacher[1:] = torch.randn(teacher[1:].shape) * 100
    mask = torch.rand(4, LOGITS[0]) < 0.8 if layout == "masked" else None
    for temperature in (2.5, 1.0):
        value = divergence(student, teacher, temperature=temperature, mask=mask)
        wanted = divergence_reference(student.double(), teacher.double(), temperature=temperature, mask=mask)
        assert math.isclose(value.item(), wanted.item(), rel_tol=1e-5)


def test_kl_of_equal_logits_is_exactly_zero() -> None:
    logits = torch.randn(LOGITS, requires_grad=True)
    value = divergence(logits, logits.detach().clone())
    value.backward()
    assert logits.grad is not None
    assert value.item() == 0 and not logits.grad.any()


@pytest.mark.parametrize("classes", [5, LOGITS[1]])
def test_kl_with_classes_at_minus_infinity(classes: int) -> None:
    """On both sides such a class is none; on the student's alone it counts as one of -1e30."""
    student, teacher = torch.randn(3, classes), torch.randn(3, classes)
    student[:, -1] = teacher[:, -1] = -torch.inf
    left = divergence(student[:, :-1], teacher[:, :-1])
    assert math.isclose(divergence(student, teacher).item(), left.item(), rel_tol=1e-5)
    teacher[:, -1] = 0.0
    assert 1e20 < divergence(student, teacher).item() < math.inf


@pytest.mark.parametrize("temperature", [20.0, 100.0])
def test_kl_keeps_its_digits_at_high_temperatures(temperature: float) -> None:
    student, teacher = 3 * torch.randn(2, 32, 5)
    value = divergence(student, teacher, temperature=temperature)
    wanted = divergence_reference(student.double(), teacher.double(), temperature=temperature)
    # Of terms worth 1/T, KL is worth 1/T².
    assert math.isclose(value.item(), wanted.item(), rel_tol=1e-6 * temperature)


@pytest.mark.parametrize("shape", [(1, 40000), (400, 768), (3000, 768)])
def test_a_squared_difference_keeps_its_digits(shape: tuple[int, int]) -> None:
    agrees(hidden_mse, hidden_mse_reference, torch.randn(shape), torch.randn(shape), within=5e-7)


@pytest.mark.parametrize("apart", [1.0, 1e-2, 1e-4])
def test_a_distance_of_unit_vectors_keeps_its_digits(apart: float) -> None:
    teacher = torch.randn(20, 64)
    student = 3 * teacher + apart * torch.randn(20, 64)
    # The vectors are rounded before they are subtracted.
    agrees(normalized_mse, normalized_mse_reference, student, teacher, within=1e-6 / apart)


@pytest.mark.parametrize("row", [0.0, 1e-20, 1e30, torch.inf])
@pytest.mark.parametrize(
    ("kernel", "reference"),
    [
        (cosine, cosine_reference),
        (normalized_mse, normalized_mse_reference),
        (cos_nce, cos_nce_reference),
        (info_nce, info_nce_reference),
    ],
)
@pytest.mark.parametrize("side", [0, 1])
def test_a_norm_that_needs_care(
    kernel: Callable[..., Tensor], reference: Callable[..., Tensor], row: float, side: int
) -> None:
    sides = torch.randn(2, 6, 37)
    sides[side, 2] = row
    own, exact = sides[0].clone().requires_grad_(), sides[0].clone().requires_grad_()
    value, wanted = kernel(own, sides[1]), reference(exact, sides[1])
    value.backward()
    wanted.backward()
    torch.testing.assert_close(value, wanted)
    assert own.grad is not None and exact.grad is not None
    assert ((own.grad - exact.grad).norm(dim=-1) <= 1e-7 + 1e-5 * exact.grad.norm(dim=-1)).all()


def test_more_rows_than_a_block_of_scores() -> None:
    agrees(info_nce, info_nce_reference, torch.randn(600, 8), torch.randn(600, 8), temperature=0.2)


def test_a_transposed_student_is_not_copied_to_refuse_a_second_derivative() -> None:
    student = torch.randn(8, 300, 64).transpose(0, 1).requires_grad_()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], record_shapes=True) as seen:
        cosine(student, torch.randn(300, 8, 64), backend="torch").backward()
    names = {event.name for event in seen.events() if event.cpu_parent and "copy" in event.cpu_parent.name}
    assert "aten::contiguous" not in names


@pytest.mark.parametrize("name", ["kd", "cosine", "pkd", "hidden_mse", "cos_nce"])
def test_losses_of_vectors_and_logits_pass_through_torch_func(name: str) -> None:
    loss, student, teacher = kdzoo.create(name), torch.randn(6, 37, requires_grad=True), torch.randn(6, 37)
    loss(student, teacher).backward()
    torch.testing.assert_close(torch.func.grad(loss)(student.detach(), teacher), student.grad)


@pytest.mark.parametrize("name", ["cos_nce", "info_nce", "hidden_mse"])
def test_a_default_device_is_not_the_inputs(name: str) -> None:
    student, teacher = torch.randn(512, 768), torch.randn(512, 768)
    student[0] = 0.0  # of no length, which takes the long way
    student.requires_grad_()
    loss = kdzoo.create(name)
    with torch.device("meta"):
        value = loss(student, teacher)
        value.backward()
    assert value.device.type == "cpu" and student.grad is not None and student.grad.device.type == "cpu"


ONE_COUNT = (
    cos_nce,
    cosine,
    hidden_mse,
    info_nce,
    normalized_mse,
    divergence,
    relation,
    partial(relation, backend="torch"),
)


@pytest.mark.parametrize("kernel", ONE_COUNT)
def test_a_count_of_one_element_of_any_shape_gives_a_scalar(kernel: Callable[..., Tensor]) -> None:
    sides = torch.randn(2, 4, 8), torch.randn(2, 4, 8)
    plain = kernel(*sides, count=torch.tensor(3.0))
    assert torch.equal(kernel(*sides, count=torch.tensor([3.0])), plain) and plain.dim() == 0
    with pytest.raises(KernelError, match="one element"):
        kernel(*sides, count=torch.ones(2))


@pytest.mark.parametrize("name", ["cosine", "cos_nce", "hidden_mse", "pkd", "info_nce", "jsd", "pkt"])
def test_gradients_may_be_taken_in_a_batch(name: str) -> None:
    """As `torch.autograd.functional.jacobian(vectorize=True)` takes them."""
    student, teacher = torch.randn(2, 90, 400)
    student.requires_grad_()
    value = kdzoo.create(name)(student, teacher)
    (once,) = torch.autograd.grad(value, student, retain_graph=True)
    (batched,) = torch.autograd.grad(value, student, torch.tensor([1.0, -2.0]), is_grads_batched=True)
    torch.testing.assert_close(batched, torch.stack([once, -2 * once]))
