"""Multi-level logit distillation and curriculum temperature: what the conformance suite does not try."""

from __future__ import annotations

import copy
import math
import secrets
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import kdzoo
from kdzoo import KdzooError
from kdzoo.baselines.mlkd import _apart
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape


def logits(rows: int = 6, classes: int = 5, scale: float = 2.0) -> tuple[Tensor, Tensor]:
    """Student and teacher, fresh at every call."""
    generator = torch.Generator().manual_seed(secrets.randbits(32))
    student, teacher = scale * torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student.requires_grad_(), teacher


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("mlkd", {"temperatures": []}, r"mlkd: temperatures is \[\]; it must be a list of at least one"),
        ("mlkd", {"temperatures": 4.0}, r"mlkd: temperatures is 4\.0; it must be a list of at least one"),
        ("mlkd", {"temperatures": "24"}, "mlkd: temperatures is '24'; it must be a list of at least one"),
        ("mlkd", {"temperatures": [2.0, 0.0]}, r"mlkd: temperatures is 0\.0; it must be a positive number"),
        ("mlkd", {"beta": -1.0}, r"mlkd: beta is -1\.0; it must be 0 or above"),
        ("mlkd", {"gamma": math.nan}, "mlkd: gamma is nan; it must be 0 or above"),
        ("ctkd", {"min_temperature": 0.0}, r"ctkd: min_temperature is 0\.0; it must be a positive number"),
        ("ctkd", {"max_temperature": math.inf}, "ctkd: max_temperature is inf; it must be a positive number"),
        ("ctkd", {"max_temperature": 1.0}, r"ctkd: max_temperature is 1\.0; it must be above min_temperature"),
        ("ctkd", {"max_reversal": -0.1}, r"ctkd: max_reversal is -0\.1; it must be 0 or above"),
        ("ctkd", {"max_reversal": math.inf}, "ctkd: max_reversal is inf; it must be 0 or above, and finite"),
        ("ctkd", {"rise": 0.0}, r"ctkd: rise is 0\.0; it must be over 0 and at most 1"),
        ("ctkd", {"rise": 1.5}, r"ctkd: rise is 1\.5; it must be over 0 and at most 1"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=f"^{message}") as refused:
        kdzoo.create(name, **options)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["mlkd", "ctkd"])
def test_one_logit_is_refused_before_training_and_in_a_call(name: str) -> None:
    one = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=1)
    with pytest.raises(KdzooError, match=f"^{name} .* one logit has none; use kd"):
        loss_class(name).fit({}, feature="logits", student=one, teacher=one, layers=(), num_samples=None)
    with pytest.raises(KdzooError, match=f"^{name} .* one logit has none; use kd"):
        kdzoo.create(name)(*logits(classes=1))


@pytest.mark.parametrize("name", ["mlkd", "ctkd"])
def test_sure_sides_are_finite_in_float32_and_what_is_no_number_stays_none(name: str) -> None:
    teacher = torch.tensor([[-1e4, 0.0, 1e4], [0.0, 2.0, -torch.inf], [torch.inf, 0.0, 1.0], [-1e4, 0.0, 1e4]])
    student = torch.tensor([[1e4, 0.0, -1e4], [-torch.inf, 0.0, 3.0], [0.0, torch.inf, 1.0], [-1e4, 0.0, 1e4]])
    loss = kdzoo.create(name)
    value = loss(student.requires_grad_(), teacher)
    value.backward()
    gradients = [student.grad, *(parameter.grad for parameter in loss.parameters())]
    assert value.isfinite() and value >= 0
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    for side in (0, 1):
        pair = [z.detach().float() for z in logits()]
        pair[side][2, 3] = math.nan
        assert kdzoo.create(name)(*pair).isnan()


# Multi-level logit distillation


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_mlkd_without_relations_is_kd_at_each_temperature(variant: str) -> None:
    student, teacher = logits()
    temperatures = (1.0, 2.5, 4.0)
    loss = kdzoo.create("mlkd", temperatures=temperatures, beta=0.0, gamma=0.0, variant=variant)
    terms = [kdzoo.create("kd", temperature=t)(student, teacher) for t in temperatures]
    if variant == "paper":  # kd has the factor T²
        terms = [term / t**2 for term, t in zip(terms, temperatures, strict=True)]
    torch.testing.assert_close(loss(student, teacher), sum(terms))


def test_mlkd_by_hand() -> None:
    """Two rows of two classes: which row is sure of which class is told by the relations of rows."""
    student, teacher = torch.tensor([[0.5, 0.5], [0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).log()
    found = [
        kdzoo.create("mlkd", temperatures=[1.0], beta=beta, gamma=gamma)(student, teacher).item()
        for beta, gamma in ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0))
    ]
    # On both levels [[1, 0], [0, 1]] beside [[.5, .5], [.5, .5]], over two rows or classes.
    assert found == pytest.approx([math.log(2), math.log(2) + 0.5, math.log(2) + 0.5])


@pytest.mark.parametrize(("rows", "width"), [(3, 7), (7, 3), (5, 5)])
def test_squared_differences_of_products_by_the_smaller_matrices(rows: int, width: int) -> None:
    a, b = logits(rows, width)
    expected = ((a @ a.mT - b @ b.mT) ** 2).sum()
    torch.testing.assert_close(_apart(a, b), expected)
    torch.testing.assert_close(torch.autograd.grad(_apart(a, b), a), torch.autograd.grad(expected, a))
    close = (a.detach() + 1e-5 * b).float(), a.detach().float()
    exact = ((close[0].double() @ close[0].double().mT - close[1].double() @ close[1].double().mT) ** 2).sum()
    torch.testing.assert_close(_apart(*close).double(), exact, rtol=1e-3, atol=0)


def test_mlkd_takes_its_temperatures_from_an_expression() -> None:
    student, teacher = logits(classes=3)
    sides = [kdzoo.Activations(logits=side) for side in (student, teacher)]
    shape = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=3)
    found = kdzoo.Objective("mlkd(temperatures=[1, 2], gamma=0.5)").bind(shape, shape)(*sides).total
    torch.testing.assert_close(found, kdzoo.create("mlkd", temperatures=(1.0, 2.0), gamma=0.5)(student, teacher))


# Curriculum temperature


def test_ctkd_is_kd_at_its_temperature() -> None:
    student, teacher = logits()
    loss = kdzoo.create("ctkd", min_temperature=2.0, max_temperature=6.0).double()
    torch.nn.init.constant_(loss.raw_temperature, math.log(3.0))  # the sigmoid of which is 3/4
    assert loss.temperature.item() == pytest.approx(5.0) and not loss.temperature.requires_grad
    kd = kdzoo.create("kd", temperature=5.0)(student, teacher)
    found = loss(student, teacher, progress=0.3)
    torch.testing.assert_close(found, kd)
    torch.testing.assert_close(torch.autograd.grad(found, student), torch.autograd.grad(kd, student))


@pytest.mark.parametrize(
    ("progress", "reversal"), [(0.0, 0.0), (0.125, 0.75 * (1 - math.sqrt(0.5))), (0.25, 0.75), (0.5, 1.5), (1.0, 1.5)]
)
def test_the_gradient_of_the_temperature_is_turned_round_by_as_much_as_the_curriculum_says(
    progress: float, reversal: float
) -> None:
    student, teacher = logits()
    loss = kdzoo.create("ctkd", max_reversal=1.5, rise=0.5).double()
    loss(student, teacher, progress=progress).backward()
    raw = torch.ones((), dtype=torch.float64, requires_grad=True)
    temperature = 1 + 20 * raw.sigmoid()
    p, q = ((side.detach() / temperature).softmax(-1) for side in (teacher, student))
    (plain,) = torch.autograd.grad(temperature**2 * (p * (p / q).log()).sum(-1).mean(), raw)
    torch.testing.assert_close(loss.raw_temperature.grad, -reversal * plain)


def test_the_temperature_goes_where_the_loss_is_larger() -> None:
    student, teacher = logits()
    loss = kdzoo.create("ctkd").double()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.05)
    values = []
    for _ in range(20):
        optimizer.zero_grad()
        value = loss(student.detach(), teacher)
        value.backward()
        optimizer.step()
        values.append(value.item())
    assert values == sorted(values) and values[-1] > values[0]


def test_ctkd_at_its_defaults_rises_within_ten_of_240_epochs() -> None:
    student, teacher = logits()
    found = []
    for progress in (0.0, 5 / 240, 10 / 240, 1.0, None):
        loss = kdzoo.create("ctkd").double()
        loss(student, teacher, **({} if progress is None else {"progress": progress})).backward()
        found.append(float(loss.raw_temperature.grad))
    assert found == pytest.approx([0.0, found[-1] / 2, *[found[-1]] * 3])
    with pytest.raises(KdzooError, match=r"ctkd: progress is 1\.2; it must be from 0 to 1"):
        loss(student, teacher, progress=1.2)


def test_ctkd_compiles_once_for_a_progress_that_moves() -> None:
    torch._dynamo.reset()
    student, teacher = logits()
    loss = kdzoo.create("ctkd", rise=0.7).double()
    eager, counter = copy.deepcopy(loss), CompileCounterWithBackend("eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for step in range(11):
        for one, call in ((loss, compiled), (eager, eager)):
            one.zero_grad()
            call(student, teacher, progress=step / 10).backward()
        torch.testing.assert_close(loss.raw_temperature.grad, eager.raw_temperature.grad)
    assert counter.frame_count <= 2


def test_an_objective_trains_the_temperature_in_the_terms_own_time() -> None:
    shape = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=5)
    objective = kdzoo.Objective([kdzoo.Term("ctkd", rise=1.0, weight=kdzoo.after(0.5, 1.0)), kdzoo.Term("logit_mse")])
    objective.bind(shape, shape)
    (parameter,) = objective.parameters()
    student, teacher = (kdzoo.Activations(logits=side.float()) for side in logits())
    found = []
    for progress in (0.5, 0.75, 1.0):
        objective.zero_grad()
        objective(student, teacher, progress=progress).total.backward()
        assert parameter.grad is not None
        found.append(parameter.grad.item())
    assert found == pytest.approx([0.0, found[-1] / 2, found[-1]]) and found[-1]
