"""Losses on predictions, and SquareHead, VID and the hint, beyond the conformance suite: options, limits, refusals."""

from __future__ import annotations

import math
import secrets
import warnings
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch._dynamo.testing import CompileCounterWithBackend

import kdzoo
from kdzoo import KdzooError, KdzooWarning
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.models.shape import LABELS, NUMBERS, ModelShape

DIVERGENCES = ("reverse_kl", "jsd", "skew_kl", "tvd", "ab", "akl", "taid")


def logits(classes: int = 4, rows: int = 6, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, rows, classes, generator=generator, dtype=torch.float64)
    return student, teacher


def fit(name: str, classes: int, **options: Any) -> dict[str, Any]:
    shape = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=classes)
    return loss_class(name).fit(options, feature="logits", student=shape, teacher=shape, layers=(), num_samples=None)


# Options without effect


OTHER = {"temperature": 3.0, "reduction": "mean", "variant": "released", "alpha": 0.4, "beta": 0.2, "reverse": True}


@pytest.mark.parametrize("name", ["kd", "soft_ce", "jsd", "skew_kl", "reverse_kl", "tvd"])
def test_options_of_classes_change_nothing_on_numbers(name: str) -> None:
    def idle(classes: int, problem: str | None = None) -> set[str]:
        shape = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=classes, problem_type=problem)
        options = {"problem_type": problem} if problem else {}
        return {*kdzoo.create(name, **options).idle(shape)}

    student, teacher = logits(classes=1)
    found = idle(1)
    one_variant = {"variant"} if len(loss_class(name).variants) == 1 else set()
    assert found == {*OTHER} & {*options_of(loss_class(name))} - one_variant
    for option in found:
        assert kdzoo.create(name, **{option: OTHER[option]})(student, teacher) == kdzoo.create(name)(student, teacher)
    assert not idle(3)
    if name in ("kd", "soft_ce"):
        assert idle(3, NUMBERS) == found and idle(3, LABELS) == found - {"temperature"}
        student, teacher = logits(classes=3)
        for option in found - {"temperature"}:
            plain, other = (kdzoo.create(name, problem_type=LABELS, **more) for more in ({}, {option: OTHER[option]}))
            assert plain(student, teacher) == other(student, teacher)


@pytest.mark.parametrize("name", [name for name in kdzoo.available() if "bias" in options_of(loss_class(name))])
def test_a_bias_is_idle_where_nothing_is_projected(name: str) -> None:
    for student_dim in (4, 6):
        shape = ModelShape(num_layers=2, hidden_size=student_dim, num_heads=2, num_labels=2)
        made = [kdzoo.create(name, student_dim=student_dim, teacher_dim=4, bias=bias) for bias in (False, True)]
        same = made[0].state_dict().keys() == made[1].state_dict().keys()
        assert ("bias" in made[0].idle(shape)) == same == (student_dim == 4 and name != "hint")


# Divergences


def test_a_divergence_of_known_probabilities() -> None:
    """From (3/4, 1/4) of the teacher to (1/2, 1/2) of the student."""
    student, teacher = torch.zeros(5, 2), torch.tensor([[math.log(3), 0.0]]).repeat(5, 1)
    expected = {
        "reverse_kl": 0.5 * math.log(0.5 / 0.75) + 0.5 * math.log(0.5 / 0.25),
        "tvd": 0.25,
        "skew_kl": 0.75 * math.log(0.75 / 0.525) + 0.25 * math.log(0.25 / 0.475),
        "jsd": 0.5 * (0.75 * math.log(0.75 / 0.625) + 0.25 * math.log(0.25 / 0.375))
        + 0.5 * (0.5 * math.log(0.5 / 0.625) + 0.5 * math.log(0.5 / 0.375)),
    }
    for name, value in expected.items():
        assert kdzoo.create(name)(student, teacher).item() == pytest.approx(value, rel=1e-5), name
        scaled = kdzoo.create(name, temperature=3.0)(student, 3 * teacher).item()
        assert scaled == pytest.approx(value, rel=1e-5), f"{name} has no T²"


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("classes", [2, 3, 7])
def test_kd_averaged_over_classes_as_well(classes: int) -> None:
    student, teacher = logits(classes)
    soft = F.log_softmax(student / 3, -1), F.softmax(teacher / 3, -1)
    for reduction in ("batchmean", "mean"):
        expected = 9 * torch.nn.KLDivLoss(reduction=reduction)(*soft)
        torch.testing.assert_close(kdzoo.create("kd", temperature=3.0, reduction=reduction)(student, teacher), expected)
    torch.testing.assert_close(kdzoo.create("kd", temperature=3.0)(student, teacher), classes * expected)
    tokens = student.view(2, 3, classes), teacher.view(2, 3, classes)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    each = 9 * F.kl_div(*soft, reduction="none").mean(-1)
    found = kdzoo.create("kd", temperature=3.0, reduction="mean")(*tokens, mask=mask)
    torch.testing.assert_close(found, each[mask.flatten().bool()].mean())


def test_kd_of_one_logit_knows_no_reduction() -> None:
    student, teacher = logits(1)
    for reduction in ("batchmean", "mean"):
        found = kdzoo.create("kd", temperature=3.0, reduction=reduction)(student, teacher)
        torch.testing.assert_close(found, F.mse_loss(student, teacher))
    with pytest.raises(KdzooError, match="unknown reduction of kd 'sum'; known: batchmean, mean"):
        kdzoo.create("kd", reduction="sum")


def test_jsd_ends_in_the_two_divergences_and_tends_to_zero_beside_them() -> None:
    student, teacher = logits()
    forward, reverse = kdzoo.create("kd")(student, teacher), kdzoo.create("reverse_kl")(student, teacher)
    for beta, end in ((0.0, forward), (1.0, reverse)):
        torch.testing.assert_close(kdzoo.create("jsd", beta=beta)(student, teacher), end)
        near = kdzoo.create("jsd", beta=abs(beta - 1e-6))(student, teacher)
        torch.testing.assert_close(near / 1e-6, end, rtol=1e-4, atol=0)


def test_skew_kl_at_zero_and_reversed_and_as_released() -> None:
    student, teacher = logits()
    torch.testing.assert_close(
        kdzoo.create("skew_kl", alpha=0.0)(student, teacher), kdzoo.create("kd")(student, teacher)
    )
    torch.testing.assert_close(
        kdzoo.create("skew_kl", reverse=True)(student, teacher), kdzoo.create("skew_kl")(teacher, student)
    )
    entropy = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1).mean()
    released = kdzoo.create("skew_kl", variant="released")(student, teacher)
    torch.testing.assert_close(released - entropy, kdzoo.create("skew_kl")(student, teacher))


def test_label_smoothing_is_its_formula_over_counted_words() -> None:
    rng = np.random.default_rng(secrets.randbits(32))
    smoothing, z = rng.uniform(0.05, 0.4), 3 * rng.normal(size=(3, 5, 11))
    labels = rng.integers(11, size=(3, 5))
    labels[0, 3:], labels[2] = -100, -100
    total, count = 0.0, 0
    for row, place in np.argwhere(labels != -100):
        logs = z[row, place] - np.log(np.exp(z[row, place]).sum())
        total += -(1 - smoothing) * logs[labels[row, place]] - smoothing * logs.mean()
        count += 1
    loss = kdzoo.create("ce", label_smoothing=smoothing)
    z[labels == -100] = [np.nan, np.inf, *z[0, 0, 2:]]  # what a model says there may be no number
    given = torch.tensor(z).requires_grad_()
    found = loss(given, labels=torch.tensor(labels))
    found.backward()
    assert found.item() == pytest.approx(total / count)
    assert given.grad is not None and bool(given.grad.isfinite().all())
    assert not given.grad[torch.tensor(labels == -100)].any()
    for numbers in (lambda: loss(torch.zeros(3, 1), labels=torch.zeros(3)), lambda: fit("ce", 1, label_smoothing=0.1)):
        with pytest.raises(KdzooError, match="label_smoothing is for classes"):
            numbers()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_one_logit_is_its_squared_difference(name: str) -> None:
    assert kdzoo.create(name, temperature=2.0)(torch.zeros(3, 1), torch.full((3, 1), 2.0)).item() == 4.0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_divergence_of_sure_sides_is_finite_in_float32(name: str) -> None:
    student = torch.tensor([[300.0, 0.0, -300.0]], requires_grad=True)
    loss = kdzoo.create(name)(student, torch.tensor([[-300.0, 0.0, 300.0]]))
    loss.backward()
    assert loss.isfinite() and student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("jsd", {"beta": 1.5}, "jsd: beta is 1.5; it must be from 0 to 1"),
        ("skew_kl", {"alpha": 1.0}, "skew_kl: alpha is 1.0; it must be at least 0 and under 1"),
        ("tvd", {"temperature": 0.0}, "tvd: temperature is 0.0; it must be a positive number"),
        ("dkd", {"beta": -1.0}, "dkd: beta is -1.0; it must be 0 or above"),
        ("dkd", {"alpha": math.inf}, "dkd: alpha is inf; it must be 0 or above, and finite"),
        ("dist", {"beta": "2"}, "dist: beta is '2'; it must be 0 or above, and finite"),
        ("dist", {"gamma": math.nan}, "dist: gamma is nan; it must be 0 or above"),
        (
            "annealing",
            {"max_temperature": 0},
            "annealing: max_temperature is 0; it must be a whole number of 1 or more",
        ),
        ("vid", {"student_dim": 3}, "vid learns a network between the widths: give student_dim= and teacher_dim="),
        ("vid", {"student_dim": 3, "teacher_dim": 4, "init_variance": 0.0}, "init_variance is 0.0; it must be above"),
        ("hint", {"teacher_dim": 3}, "hint always learns a regressor: give student_dim= and teacher_dim="),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=message.replace("(", r"\(")):
        kdzoo.create(name, **options)


@pytest.mark.parametrize("name", ["kd", "soft_ce"])
def test_several_labels_keep_float64_and_know_neither_padding_nor_a_label_that_is_not_there(name: str) -> None:
    loss = kdzoo.create(name, temperature=3.0, problem_type=LABELS)
    student, teacher = torch.randn(2, 2, 3, 4, dtype=torch.float64)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    p, q = torch.sigmoid(teacher[mask == 1] / 3), torch.sigmoid(student[mask == 1] / 3)
    want = -(p * q.log() + (1 - p) * (1 - q).log()).mean() * (9 if name == "kd" else 1)
    found = loss(student.requires_grad_(), teacher, mask=mask)
    torch.testing.assert_close(found, want, rtol=1e-12, atol=0)
    (gradient,) = torch.autograd.grad(found, student)
    padding = (mask == 0).unsqueeze(-1)
    poisoned = student.detach().masked_fill(padding, math.nan).requires_grad_()
    value = loss(poisoned, teacher.masked_fill(padding, math.inf), mask=mask)
    value.backward()
    assert value == found and poisoned.grad is not None and poisoned.grad.equal(gradient)
    wider = [F.pad(side.detach(), (0, 1), value=-math.inf).requires_grad_() for side in (student, teacher)]
    value = loss(*wider, mask=mask)
    value.backward()
    torch.testing.assert_close(value, found)
    assert wider[0].grad is not None
    torch.testing.assert_close(wider[0].grad, F.pad(gradient, (0, 1)))
    halved = [side.detach().bfloat16() for side in (student, teacher)]
    torch.testing.assert_close(loss(*halved), loss(*(side.float() for side in halved)), rtol=1e-6, atol=0)


# DKD, DIST, logit standardisation


def test_dkd_with_the_weight_of_the_rest_is_kd() -> None:
    """Equation 7 of the paper: KD = TCKD + (1 - p_y) NCKD, here with one 1 - p_y for all rows."""
    student, _ = logits()
    teacher = torch.tensor([2.0, 0.5, 0.0, -1.0], dtype=torch.float64).repeat(6, 1)
    labels = torch.zeros(6, dtype=torch.long)
    rest = 1 - (teacher / 3).softmax(-1)[0, 0].item()
    value = kdzoo.create("dkd", alpha=1.0, beta=rest, temperature=3.0)(student, teacher, labels=labels)
    torch.testing.assert_close(value, kdzoo.create("kd", temperature=3.0)(student, teacher))


def test_dkd_of_sure_sides_is_finite_in_float32() -> None:
    student = torch.tensor([[400.0, 0.0, -400.0]], requires_grad=True)
    for label in range(3):
        loss = kdzoo.create("dkd", temperature=1.0)
        loss(student, torch.tensor([[-400.0, 0.0, 400.0]]), labels=torch.tensor([label])).backward()
        assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("name", ["dkd", "logit_std"])
@pytest.mark.parametrize("classes", [1, 2])
def test_too_few_classes_are_refused_before_training_and_in_a_call(name: str, classes: int) -> None:
    with pytest.raises(KdzooError, match=f"^{name} compares .*; use kd$"):
        fit(name, classes)
    with pytest.raises(KdzooError, match=f"^{name} compares .*; use kd$"):
        kdzoo.create(name)(*logits(classes), labels=torch.zeros(6, dtype=torch.long))
    assert fit(name, 3) == {}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(5, dtype=torch.long), r"labels \(5,\) do not fit logits \(6, 4\)"),
        (torch.zeros(6), "labels of 4 classes must be integers, got torch.float32"),
        (torch.full((6,), 4), "label 4 is out of range; with 4 classes it is 0 to 3"),
    ],
)
def test_dkd_refuses_labels_that_do_not_fit(labels: Tensor, message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        kdzoo.create("dkd")(*logits(), labels=labels)


def test_dist_warns_of_two_classes_and_has_no_gradient_within_a_row() -> None:
    with pytest.warns(KdzooWarning, match="two classes"):
        assert fit("dist", 2) == {}
    student, teacher = logits(2)
    with pytest.warns(KdzooWarning, match="two classes"):
        inter = kdzoo.create("dist", gamma=0.0)(student.requires_grad_(), teacher)
    (gradient,) = torch.autograd.grad(inter, student)
    assert gradient.abs().max() < 1e-6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit("dist", 2, beta=0.0)
        fit("dist", 3)
        intra = kdzoo.create("dist", beta=0.0)(student, teacher)
    (gradient,) = torch.autograd.grad(intra, student)
    assert gradient.abs().max() > 1e-3


def test_dist_of_one_logit_is_the_correlation_over_the_batch() -> None:
    _, teacher = logits(1)
    loss = kdzoo.create("dist", temperature=2.0)
    assert loss(3 * teacher + 5, teacher).item() == pytest.approx(0, abs=1e-6)
    assert loss(-teacher, teacher).item() == pytest.approx(8, rel=1e-6)


def test_dist_correlates_over_valid_tokens_as_over_rows() -> None:
    student, teacher = logits(4, rows=12)
    mask = torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 0, 0]])
    tokens = kdzoo.create("dist")(student.view(4, 3, 4), teacher.view(4, 3, 4), mask=mask)
    valid = mask.flatten().bool()
    torch.testing.assert_close(tokens, kdzoo.create("dist")(student[valid], teacher[valid]))


def test_logit_std_forgets_shift_and_scale() -> None:
    student, teacher = logits()
    loss = kdzoo.create("logit_std")
    torch.testing.assert_close(loss(7 * student - 2, teacher), loss(student, 0.3 * teacher + 1), rtol=1e-5, atol=0)


# Annealing


def test_annealing_rises_in_equal_steps_to_the_logits() -> None:
    loss, student, teacher = kdzoo.create("annealing", max_temperature=4), torch.zeros(2, 3), torch.ones(2, 3)
    factors = [loss(student, teacher, progress=at).sqrt().item() for at in (0.0, 0.2, 0.25, 0.5, 0.75, 0.99, 1.0)]
    assert factors == [0.25, 0.25, 0.5, 0.75, 1.0, 1.0, 1.0]
    assert loss(student, teacher).item() == F.mse_loss(student, teacher).item()
    with pytest.raises(KdzooError, match=r"annealing: progress is 1\.2; it must be from 0 to 1"):
        loss(student, teacher, progress=1.2)


def test_annealing_compiles_once_for_a_progress_that_moves() -> None:
    torch._dynamo.reset()
    loss, (student, teacher) = kdzoo.create("annealing"), logits()
    counter = CompileCounterWithBackend("eager")
    compiled = torch.compile(loss, fullgraph=True, backend=counter)
    for step in range(21):
        progress = step / 20
        torch.testing.assert_close(
            compiled(student, teacher, progress=progress), loss(student, teacher, progress=progress)
        )
    assert counter.frame_count <= 2


def test_the_annealing_recipe_steps_within_its_stage() -> None:
    objective = kdzoo.Recipe.load("annealing").objective()
    term = next(term for term in objective.terms if term.name == "annealing")
    assert term.progress_at(0.39) == pytest.approx(0.5)
    assert term.weight_at(0.79) == 0


# Hidden states


def test_squarehead_counts_every_layer_alike_released_adds_them_up_and_an_epsilon_joins_the_size() -> None:
    teacher = torch.randn(3, 2, 5, 4, dtype=torch.float64) * torch.tensor([1.0, 100.0]).view(1, 2, 1, 1)
    student = 1.5 * teacher
    assert kdzoo.create("squarehead")(student, teacher).item() == pytest.approx(0.25)
    assert kdzoo.create("squarehead", variant="released")(student, teacher).item() == pytest.approx(0.5)
    one = torch.ones(3, 5, 4)
    steadied = kdzoo.create("squarehead", epsilon=1 / 128)
    assert steadied(3 * one, one, mask=torch.tensor([[1, 0, 0, 0, 0]] * 3)).item() == pytest.approx(4 / (1 + 1 / 128))
    with pytest.raises(KdzooError, match=r"squarehead: epsilon is -1\.0; it must be 0 or a positive number"):
        kdzoo.create("squarehead", epsilon=-1.0)


def test_vid_is_half_of_log_variance_and_scaled_error() -> None:
    loss = kdzoo.create("vid", student_dim=3, teacher_dim=2, hidden_dim=4, init_variance=2.0).double()
    assert [tuple(layer.weight.shape) for layer in list(loss.regressor)[::2]] == [(4, 3), (4, 4), (2, 4)]
    zeros, teacher = torch.zeros(5, 3, dtype=torch.float64), torch.full((5, 2), 3.0, dtype=torch.float64)
    assert loss(zeros, teacher).item() == pytest.approx((math.log(2) + 9 / 2) / 2, rel=1e-6)
    with pytest.raises(KdzooError, match=r"\(5, 4\) and teacher \(5, 2\) do not fit student_dim=3, teacher_dim=2"):
        loss(torch.zeros(5, 4), teacher)


def test_hint_is_half_the_width_times_hidden_mse_and_always_has_a_regressor() -> None:
    student, teacher = torch.randn(2, 4, 7, 6)
    hint = kdzoo.create("hint", student_dim=6, teacher_dim=6, bias=False)
    with torch.no_grad():
        hint.projection.weight.copy_(torch.eye(6))
    torch.testing.assert_close(hint(student, teacher), 3 * kdzoo.create("hidden_mse")(student, teacher))
    assert kdzoo.create("hint", student_dim=6, teacher_dim=6).projection.bias is not None


@pytest.mark.parametrize("name", ["vid", "hint"])
def test_an_objective_gives_a_learned_regressor_its_widths(name: str) -> None:
    assert fit(name, 2) == {"student_dim": 8, "teacher_dim": 8}
