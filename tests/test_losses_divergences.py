"""α-β divergence, AKL, NKD and TAID beyond the conformance suite: limits, digits, state, options, refusals."""

from __future__ import annotations

import copy
import io
import math
import secrets
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import kdzoo
from kdzoo import KdzooError
from kdzoo.baselines.ab import _Terms
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape

NAMES = ("ab", "akl", "nkd", "taid")


def logits(classes: int = 5, rows: int = 6, scale: float = 2.0) -> tuple[Tensor, Tensor, Tensor]:
    """Student, teacher and labels, fresh at every call."""
    rng = np.random.default_rng(secrets.randbits(32))
    student, teacher = torch.from_numpy(scale * rng.normal(size=(2, rows, classes)))
    return student.requires_grad_(), teacher, torch.from_numpy(rng.integers(classes, size=rows))


def softmax(z: Tensor) -> np.ndarray:
    powers = np.exp(z.detach().numpy() - z.detach().numpy().max(-1, keepdims=True))
    result: np.ndarray = powers / powers.sum(-1, keepdims=True)
    return result


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    result: np.ndarray = (p * np.log(p / q)).sum(-1)
    return result


def through_softmax(s: np.ndarray, slope: np.ndarray) -> np.ndarray:
    """The gradient of a mean over rows at the logits, from that of a row at its log-probabilities."""
    result: np.ndarray = (slope - s * slope.sum(-1, keepdims=True)) / len(s)
    return result


def shape(classes: int) -> ModelShape:
    return ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=classes)


# What all of them do


@pytest.mark.parametrize("name", NAMES)
def test_sure_sides_are_finite_in_float32(name: str) -> None:
    teacher = torch.tensor([[-1e4, 0.0, 1e4], [0.0, 2.0, -torch.inf], [torch.inf, 0.0, 1.0], [-1e4, 0.0, 1e4]])
    student = torch.tensor([[1e4, 0.0, -1e4], [-torch.inf, 0.0, 3.0], [0.0, torch.inf, 1.0], [-1e4, 0.0, 1e4]])
    options: list[dict[str, Any]] = [{}]
    if name == "ab":
        options += [{"alpha": a, "beta": b} for a, b in ((1, 0), (0, 1), (0.3, 1e-7), (1e-7, 0.5), (3, 2))]
    for option in options:
        for labels in (torch.zeros(4), torch.tensor([2, 0, 1, 1])):
            given = student.clone().requires_grad_()
            loss = kdzoo.create(name, **option)
            extras = {"progress": 0.3} if "progress" in loss.extras else {}
            value = loss(given, teacher, labels=labels.long(), **extras)
            value.backward()
            assert value.isfinite() and value >= 0 and given.grad is not None and given.grad.isfinite().all(), option


@pytest.mark.parametrize("name", NAMES)
def test_what_is_no_number_stays_none(name: str) -> None:
    for side in (0, 1):
        pair = [z.detach().float() for z in logits()[:2]]
        pair[side][2, 3] = math.nan
        assert kdzoo.create(name)(*pair, labels=torch.zeros(6, dtype=torch.long)).isnan()


@pytest.mark.parametrize("name", ["ab", "akl", "taid"])
def test_options_of_classes_change_nothing_on_numbers(name: str) -> None:
    other = {"temperature": 3.0, "variant": "released", "alpha": 0.4, "beta": 0.3, "head": 0.2}
    other |= {"t_start": 0.1, "t_end": 0.9, "adaptive": False}
    student, teacher, _ = logits(classes=1)
    found = kdzoo.create(name).idle(shape(1))
    assert set(found) == set(loss_class(name).of_classes)
    for option in found:
        loss = kdzoo.create(name, **{option: other[option]})
        assert loss(student, teacher).item() == pytest.approx(((student - teacher) ** 2).mean().item())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ab", {"alpha": math.nan}, "ab: alpha is nan; it must be a finite number"),
        ("ab", {"beta": math.inf}, "ab: beta is inf; it must be a finite number"),
        ("ab", {"temperature": 0.0}, "ab: temperature is 0.0; it must be a positive number"),
        ("akl", {"head": 1.0}, "akl: head is 1.0; it must be over 0 and under 1"),
        ("akl", {"temperature": -1.0}, "akl: temperature is -1.0; it must be a positive number"),
        ("nkd", {"gamma": -1.0}, "nkd: gamma is -1.0; it must be 0 or above"),
        ("nkd", {"temperature": math.inf}, "nkd: temperature is inf; it must be a positive number"),
        ("taid", {"t_start": 1.0}, "taid: t_start is 1.0; it must be at least 0 and under 1"),
        ("taid", {"t_end": 0.2}, "taid: t_end is 0.2; it must be from t_start to 1, and over 0"),
        ("taid", {"t_start": 0.0, "t_end": 0.0}, "taid: t_end is 0.0; it must be from t_start to 1, and over 0"),
        ("taid", {"alpha": 2.0}, "taid: alpha is 2.0; it must be from 0 to 1"),
        ("taid", {"beta": math.nan}, "taid: beta is nan; it must be from 0 to 1"),
        ("taid", {"variant": "relased"}, "unknown variant of taid 'relased'"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=message) as refused:
        kdzoo.create(name, **options)
    assert "\n" not in str(refused.value)


# α-β divergence


def test_ab_is_the_divergences_that_it_is_named_after() -> None:
    student, teacher, _ = logits()
    s, t = softmax(student), softmax(teacher)
    expected = {
        (1.0, 0.0): kl(t, s),
        (0.0, 1.0): kl(s, t),
        (0.5, 0.5): 2 * ((np.sqrt(s) - np.sqrt(t)) ** 2).sum(-1),
        (1.0, 1.0): ((s - t) ** 2).sum(-1) / 2,
        (0.0, 0.0): (np.log(s / t) ** 2).sum(-1) / 2,
    }
    for (alpha, beta), rows in expected.items():
        found = kdzoo.create("ab", alpha=alpha, beta=beta)(student, teacher).item()
        assert found == pytest.approx(rows.mean(), rel=1e-12), (alpha, beta)
    for name, (alpha, beta) in {"kd": (1, 0), "reverse_kl": (0, 1)}.items():
        loss, other = kdzoo.create("ab", alpha=alpha, beta=beta, temperature=3.0), kdzoo.create(name, temperature=3.0)
        squared = 9 if name == "kd" else 1  # the T² of kd
        torch.testing.assert_close(squared * loss(student, teacher), other(student, teacher))


def test_ab_and_its_slope_by_numpy() -> None:
    rng = np.random.default_rng(secrets.randbits(32))
    for alpha, beta in [rng.uniform(0.05, 1.5, 2) for _ in range(4)] + [(-0.4, 0.9), (1.3, -0.5)]:
        student, teacher, _ = logits()
        s, t, both = softmax(student), softmax(teacher), alpha + beta
        rows = (alpha * t**both + beta * s**both) / both - t**alpha * s**beta
        value = kdzoo.create("ab", alpha=float(alpha), beta=float(beta))(student, teacher)
        value.backward()
        assert value.item() == pytest.approx(rows.sum(-1).mean() / (alpha * beta), rel=1e-10)
        slope = through_softmax(s, (s**both - t**alpha * s**beta) / alpha)
        assert student.grad is not None
        np.testing.assert_allclose(student.grad.numpy(), slope, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("alpha", "beta"), [(0.2, 0.7), (1, 0), (0, 1), (0, 0), (0.3, -0.3), (-0.5, 0.2), (1e-7, 0.5), (0.5, 1e-9)]
)
def test_ab_has_first_and_second_derivatives(alpha: float, beta: float) -> None:
    student, teacher, _ = logits(rows=2, scale=1.0)
    log_s, log_t = student.detach().log_softmax(-1).requires_grad_(), teacher.log_softmax(-1)

    def terms(log_s: Tensor) -> Tensor:
        found: Tensor = _Terms.apply(log_s, log_t, alpha, beta)
        return found

    assert torch.autograd.gradcheck(terms, (log_s,)) and torch.autograd.gradgradcheck(terms, (log_s,))
    equal = log_t.clone().requires_grad_()
    (slope,) = torch.autograd.grad(terms(equal).sum(), equal, create_graph=True)
    (bend,) = torch.autograd.grad(slope.sum(), equal)
    assert not slope.any()
    torch.testing.assert_close(bend, ((alpha + beta) * log_t).exp())


@pytest.mark.parametrize("alpha, beta", [(0.6, 0.0), (0.0, 0.4), (0.5, -0.5), (1.0, 0.0), (0.0, 1.0)])
def test_ab_keeps_its_digits_beside_a_limit(alpha: float, beta: float) -> None:
    """In float32, where the formula as it is written has none left."""
    student, teacher, _ = logits(scale=1.0)
    exact = kdzoo.create("ab", alpha=alpha, beta=beta)(student, teacher)
    (slope,) = torch.autograd.grad(exact, student)
    for shift in (1e-3, 1e-5, 1e-7, -1e-9, 1e-12):
        small = student.detach().float().requires_grad_()
        near = kdzoo.create("ab", alpha=alpha + shift, beta=beta)(small, teacher.float())
        near.backward()
        assert near.item() == pytest.approx(exact.item(), rel=20 * abs(shift) + 1e-5)
        torch.testing.assert_close(small.grad, slope.float(), rtol=0, atol=20 * abs(shift) + 1e-6)


def test_ab_keeps_its_digits_where_the_sides_all_but_agree() -> None:
    student, teacher, _ = logits(scale=1.0)
    student = (teacher + 1e-3 * student.detach()).float()
    for alpha, beta in ((0.2, 0.7), (0.5, 0.5), (1.0, 0.0), (0.0, 0.0)):
        loss = kdzoo.create("ab", alpha=alpha, beta=beta)
        exact = loss(student.double(), teacher.float().double()).item()
        assert 0 < exact < 1e-4 and loss(student, teacher.float()).item() == pytest.approx(exact, rel=2e-3)


def test_ab_of_exponents_all_but_0_is_that_of_0() -> None:
    student, teacher, _ = logits(scale=1.0)
    exact = kdzoo.create("ab", alpha=0.0, beta=0.0)(student, teacher).item()
    for size in (1e-5, 1e-8, 1e-12):
        near = kdzoo.create("ab", alpha=size, beta=-size / 3)(student.detach().float(), teacher.float())
        assert near.item() == pytest.approx(exact, rel=1e-4)


def test_ab_as_released_differs_in_the_limits_alone() -> None:
    student, teacher, _ = logits()
    factors = {(0.2, 0.7): 1, (1.0, 0.0): 1, (0.0, 0.0): 1, (0.6, 0.0): 0.6, (0.0, 0.4): 0.4, (0.3, -0.3): 0.3}
    for (alpha, beta), factor in factors.items():
        paper, released = (
            kdzoo.create("ab", alpha=alpha, beta=beta, variant=variant) for variant in ("paper", "released")
        )
        torch.testing.assert_close(released(student, teacher), factor * paper(student, teacher))
        assert ("variant" in paper.idle(shape(3))) == (factor == 1)


def test_ab_of_a_vanishing_probability_is_infinite_with_a_negative_exponent_alone() -> None:
    sides = torch.tensor([[0.0, -1e4]]), torch.tensor([[-1e4, 0.0]])
    assert kdzoo.create("ab", alpha=1.0, beta=-0.5)(*sides).isinf()
    student = torch.tensor([[0.0, -1e4]], requires_grad=True)
    value = kdzoo.create("ab", alpha=-0.5, beta=0.2)(student, student.detach())
    value.backward()
    assert value == 0 and student.grad is not None and not student.grad.any()


# AKL


def test_akl_of_known_probabilities() -> None:
    """The head of (0.4, 0.3, 0.2, 0.1) at 0.5 is two classes, and one in the authors' code."""
    t, s = np.array([0.3, 0.1, 0.4, 0.2]), np.array([0.1, 0.2, 0.5, 0.2])
    for variant, head in (("paper", [0, 2]), ("released", [2])):
        share = np.abs(t - s)[head].sum() / np.abs(t - s).sum()
        expected = share * kl(t, s) + (1 - share) * kl(s, t)
        sides = (torch.from_numpy(np.log(side))[None] for side in (s, t))
        assert kdzoo.create("akl", variant=variant)(*sides).item() == pytest.approx(expected, rel=1e-12)


def test_akl_s_first_class_is_in_the_head_however_likely_it_is() -> None:
    t, s = torch.tensor([[0.9, 0.05, 0.05]]).log(), torch.tensor([[0.5, 0.25, 0.25]]).log()
    values = [kdzoo.create("akl", variant=variant)(s, t).item() for variant in ("paper", "released")]
    assert values[0] == values[1] == pytest.approx(0.5 * (kl(*map(softmax, (t, s))) + kl(*map(softmax, (s, t)))).item())


def test_akl_s_weights_have_no_gradient() -> None:
    student, teacher, _ = logits(rows=1)
    both = [kdzoo.create(name)(student, teacher) for name in ("kd", "reverse_kl")]
    value = kdzoo.create("akl")(student, teacher)
    share = ((value - both[1]) / (both[0] - both[1])).item()
    assert 0 <= share <= 1
    expected = torch.autograd.grad(share * both[0] + (1 - share) * both[1], student)
    torch.testing.assert_close(torch.autograd.grad(value, student), expected, rtol=1e-6, atol=1e-9)


# NKD


def test_nkd_and_its_slope_by_numpy() -> None:
    student, teacher, labels = logits()
    rng = np.random.default_rng(secrets.randbits(32))
    gamma, temperature = rng.uniform(0.5, 4), rng.uniform(0.5, 4)
    value = kdzoo.create("nkd", gamma=gamma, temperature=temperature)(student, teacher, labels=labels)
    value.backward()
    total, slope = 0.0, np.zeros((6, 5))
    for row, y in enumerate(labels.tolist()):
        s, t = softmax(student[row]), softmax(teacher[row])
        rest = [c for c in range(5) if c != y]
        s_rest, t_rest = (softmax(side[row][rest] / temperature) for side in (student, teacher))
        total -= t[y] * np.log(s[y]) + gamma * temperature**2 * (t_rest * np.log(s_rest)).sum()
        slope[row] = t[y] * s
        slope[row, y] -= t[y]
        slope[row, rest] += gamma * temperature * (s_rest - t_rest)
    assert value.item() == pytest.approx(total / 6)
    assert student.grad is not None
    np.testing.assert_allclose(student.grad.numpy(), slope / 6, rtol=1e-9, atol=1e-12)


def test_nkd_of_two_classes_is_the_labelled_class_alone() -> None:
    student, teacher, labels = logits(classes=2)
    rows = torch.arange(6)
    expected = -(teacher.softmax(-1) * student.log_softmax(-1))[rows, labels].mean()
    for options in ({}, {"gamma": 4.0}, {"temperature": 3.0}):
        loss = kdzoo.create("nkd", **options)
        torch.testing.assert_close(loss(student, teacher, labels=labels), expected)
        assert set(loss.idle(shape(2))) >= {"gamma", "temperature"} and "gamma" not in loss.idle(shape(3))
    assert "temperature" in kdzoo.create("nkd", gamma=0.0).idle(shape(3))


def test_nkd_refuses_one_logit_before_training_and_in_a_call() -> None:
    message = "^nkd compares classes, and one logit has none; use kd$"
    context = {"feature": "logits", "teacher": shape(1), "layers": (), "num_samples": None}
    with pytest.raises(KdzooError, match=message):
        loss_class("nkd").fit({}, student=shape(1), **context)
    with pytest.raises(KdzooError, match=message):
        kdzoo.create("nkd")(*logits(classes=1)[:2], labels=torch.zeros(6, dtype=torch.long))
    assert loss_class("nkd").fit({}, student=shape(2), **context) == {}
    with pytest.raises(KdzooError, match="label 5 is out of range; with 5 classes it is 0 to 4"):
        kdzoo.create("nkd")(*logits()[:2], labels=torch.full((6,), 5))


# TAID


def steps_by_hand(pairs: list[tuple[Tensor, Tensor]], released: bool, **options: float) -> list[tuple[float, float]]:
    """The t and the value of the first of 40 steps, by the paper's algorithm: t is moved on at the end of a step."""
    t, last, momentum, found = options["t_start"], math.inf, 0.0, []
    for number, (student, teacher) in enumerate(pairs, 1):
        s, p = softmax(student), softmax((1 - t) * student + t * teacher)
        value = float((kl(p, s) - (0.0 if not released else (p * np.log(p)).sum(-1))).mean())
        found.append((t, value))
        line = options["t_start"] + (options["t_end"] - options["t_start"]) * number / 40
        step = 0.0
        if last < math.inf:
            change = (last - value) / (last + 1e-15)
            momentum = options["beta"] * momentum + (1 - options["beta"]) * change
            step = options["alpha"] / (1 + math.exp(-momentum)) * (1 - t)
        t, last = min(options["t_end"], max(line, t + step)), value
    return found


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_taid_takes_the_steps_of_the_paper_and_goes_on_from_a_checkpoint(variant: str) -> None:
    rng = np.random.default_rng(secrets.randbits(32))
    options = {"t_start": 0.1, "t_end": 0.9, "alpha": 0.9, "beta": float(rng.uniform(0.5, 1))}
    pairs = [logits()[:2] for _ in range(10)]
    loss = kdzoo.create("taid", variant=variant, **options).double()
    found = []
    for number, (student, teacher) in enumerate(pairs):
        if number == 6:
            file = io.BytesIO()
            torch.save(loss.state_dict(), file)
            file.seek(0)
            loss = kdzoo.create("taid", variant=variant, **options).double()
            loss.load_state_dict(torch.load(file, weights_only=True))
        value = loss(student, teacher, progress=number / 40)
        found.append(value.item())
        t = steps_by_hand(pairs, variant == "released", **options)[number][0]
        p, s = softmax((1 - t) * student + t * teacher), softmax(student)
        value.backward()
        assert student.grad is not None
        np.testing.assert_allclose(student.grad.numpy(), (s - p) / 6, rtol=1e-8, atol=1e-12)
    ts, values = zip(*steps_by_hand(pairs, variant == "released", **options), strict=True)
    assert found == pytest.approx(values, rel=1e-9)
    assert max(t - (0.1 + 0.02 * number) for number, t in enumerate(ts)) > 0.01  # not the straight line


def test_taid_learns_in_training_alone_and_of_numbers_alone() -> None:
    student, teacher, _ = logits()
    loss = kdzoo.create("taid", alpha=0.5)
    for _ in range(3):
        loss(student, teacher, progress=0.0)
    before = copy.deepcopy(loss.state_dict())
    assert loss.t.item() > 0.5 and loss.last.isfinite() and loss.momentum.isfinite()
    loss(student * math.nan, teacher, progress=0.0)
    loss(student[:, None], teacher[:, None], progress=0.0, mask=torch.zeros(6, 1))
    loss.eval()(3 * student, teacher, progress=0.0)
    torch.testing.assert_close(loss.state_dict(), before, rtol=0, atol=0)


def test_taid_in_a_straight_line_ends_in_kd_and_has_no_state() -> None:
    student, teacher, _ = logits()
    loss = kdzoo.create("taid", t_start=0.0, adaptive=False)
    assert not loss.state_dict() and set(loss.idle(shape(3))) == {"alpha", "beta"}
    assert loss(student, teacher, progress=0.0).item() == pytest.approx(0, abs=1e-12)
    kd = kdzoo.create("kd")(student, teacher)
    for value in (loss(student, teacher), kdzoo.create("taid")(student, teacher, progress=1.0)):
        torch.testing.assert_close(value, kd)
    assert set(kdzoo.create("taid", t_start=0.5, t_end=0.5).idle(shape(3))) == {"alpha", "beta", "adaptive"}
    with pytest.raises(KdzooError, match=r"taid: progress is 1\.2; it must be from 0 to 1"):
        loss(student, teacher, progress=1.2)


def test_taid_compiles_once_for_a_progress_that_moves() -> None:
    torch._dynamo.reset()
    student, teacher, _ = logits()
    loss = kdzoo.create("taid", alpha=0.3).double()
    eager = copy.deepcopy(loss)
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for step in range(11):
        found = compiled(student, teacher, progress=step / 10)
        torch.testing.assert_close(found, eager(student, teacher, progress=step / 10))
    torch.testing.assert_close(loss.state_dict(), eager.state_dict())
    assert counter.frame_count <= 2


def test_an_objective_moves_taid_along_its_stage() -> None:
    objective = kdzoo.Objective([kdzoo.Term("taid", adaptive=False, weight=kdzoo.Schedule([(0.0, 1.0), (0.5, 0.0)]))])
    (term,) = objective.terms
    assert [term.progress_at(at) for at in (0.0, 0.25, 0.5)] == [0.0, 0.5, 1.0]
