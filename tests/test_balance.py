"""Balancing the terms of an objective, and what is measured of their gradients."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from test_objective import LABELS, activations, bound, model
from test_trainer import trainer as made
from torch import Tensor, nn

import kdzoo
from kdzoo import KdzooError, Objective, Term
from kdzoo.models.activations import Activations
from kdzoo.objectives.recipe import Recipe


class Linear(nn.Module):
    """A student of one layer, whose gradients are easily written down."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.weight = nn.Parameter(torch.randn(3, 6))
        self.inputs = torch.randn(4, 6)

    def activations(self) -> Activations:
        return Activations(logits=self.inputs @ self.weight.T)


TEACHER = Activations(logits=torch.randn(4, 3, generator=torch.Generator().manual_seed(2)))


def balanced(balance: str, *weights: float) -> Objective:
    terms = [Term("kd", weight=weights[0]), Term("ce", weight=weights[1]), Term("logit_mse", weight=weights[2])]
    return Objective(terms, balance=balance).bind(model(), model())


def gradient(value: Tensor, parameter: nn.Parameter) -> Tensor:
    return torch.autograd.grad(value, parameter, retain_graph=True)[0]


def test_norms_and_cosines_are_those_of_each_terms_gradient() -> None:
    student, objective = Linear(), balanced("fixed", 1, 2, 3)
    ours = student.activations()
    output = objective(ours, TEACHER, labels=LABELS, parameters=student.parameters())
    each = {
        "kd": gradient(kdzoo.create("kd")(ours.logits, TEACHER.logits), student.weight),
        "ce": gradient(kdzoo.create("ce")(ours.logits, labels=LABELS), student.weight),
        "logit_mse": gradient(kdzoo.create("logit_mse")(ours.logits, TEACHER.logits), student.weight),
    }
    assert set(objective.gradients) == {*each, "kd~ce", "kd~logit_mse", "ce~logit_mse"}
    for name, one in each.items():
        assert objective.gradients[name].item() == pytest.approx(one.norm().item(), rel=1e-5)
    expected = torch.cosine_similarity(each["kd"].flatten(), each["ce"].flatten(), dim=0).item()
    assert objective.gradients["kd~ce"].item() == pytest.approx(expected, rel=1e-4)
    total = sum(weight * one for weight, one in zip((1, 2, 3), each.values(), strict=True))
    assert torch.allclose(gradient(output.total, student.weight), total, atol=1e-6), "measuring changed the gradient"


def test_nothing_is_measured_unasked() -> None:
    student, objective = Linear(), balanced("fixed", 1, 1, 1)
    objective(student.activations(), TEACHER, labels=LABELS, parameters=[student.weight])
    objective(student.activations(), TEACHER, labels=LABELS)
    assert objective.gradients == {}


def test_gradient_norm_makes_the_weights_shares_of_the_gradient() -> None:
    student, objective = Linear(), balanced("gradient_norm", 1, 2, 3)
    objective(student.activations(), TEACHER, labels=LABELS, parameters=student.parameters())
    norms = [objective.gradients[name] for name in ("kd", "ce", "logit_mse")]
    target = sum(norms) / 3
    output = objective(ours := student.activations(), TEACHER, labels=LABELS)
    expected = sum(
        weight * target / norm * gradient(value, student.weight)
        for weight, norm, value in zip(
            (1, 2, 3),
            norms,
            (
                kdzoo.create("kd")(ours.logits, TEACHER.logits),
                kdzoo.create("ce")(ours.logits, labels=LABELS),
                kdzoo.create("logit_mse")(ours.logits, TEACHER.logits),
            ),
            strict=True,
        )
    )
    assert torch.allclose(gradient(output.total, student.weight), expected, rtol=1e-4, atol=1e-6)


def test_gradient_norm_is_a_moving_average_and_is_saved() -> None:
    student, objective = Linear(), balanced("gradient_norm", 1, 1, 1)
    arguments: dict[str, Any] = {"labels": LABELS, "parameters": [student.weight]}
    objective(student.activations(), TEACHER, **arguments)
    first = objective.gradients["kd"]
    with torch.no_grad():
        student.weight.mul_(3)
    objective(student.activations(), TEACHER, **arguments)
    second = objective.gradients["kd"]
    assert objective.state_dict()["gradient_norms"][0].item() == pytest.approx((0.9 * first + 0.1 * second).item())


def test_gradient_norm_before_any_measurement_is_fixed() -> None:
    ours = Linear().activations()
    totals = [balanced(b, 1, 2, 3)(ours, TEACHER, labels=LABELS).total.item() for b in ("fixed", "gradient_norm")]
    assert totals[0] == pytest.approx(totals[1])


def test_uncertainty_learns_a_variance_a_term() -> None:
    student, objective = Linear(), balanced("uncertainty", 1, 2, 0.5)
    ours = student.activations()
    fixed = balanced("fixed", 1, 2, 0.5)(ours, TEACHER, labels=LABELS)
    assert objective(ours, TEACHER, labels=LABELS).total.item() == pytest.approx(fixed.total.item())
    with torch.no_grad():
        objective.log_variances.copy_(torch.tensor([0.3, -0.2, 1.0]))
    output = objective(ours, TEACHER, labels=LABELS)
    s = [0.3, -0.2, 1.0]
    values = [fixed.terms[name].item() for name in ("kd", "ce", "logit_mse")]
    expected = sum(w * math.exp(-v) * x + v / 2 for w, v, x in zip((1, 2, 0.5), s, values, strict=True))
    assert output.total.item() == pytest.approx(expected, rel=1e-5)
    output.total.backward()
    slopes = [-w * math.exp(-v) * x + 0.5 for w, v, x in zip((1, 2, 0.5), s, values, strict=True)]
    assert objective.log_variances.grad is not None
    assert objective.log_variances.grad.tolist() == pytest.approx(slopes, rel=1e-4)


def test_a_term_without_weight_takes_no_part_in_the_balance() -> None:
    for balance in ("uncertainty", "gradient_norm"):
        objective = Objective([Term("kd"), Term("ce", weight=kdzoo.after(0.5, 1.0))], balance=balance)
        objective.bind(model(), model())
        student = Linear()
        output = objective(student.activations(), TEACHER, labels=LABELS, progress=0.0, parameters=[student.weight])
        assert set(objective.gradients) == {"kd"}
        assert output.total.item() == pytest.approx(output.terms["kd"].item())


def test_an_unknown_balance() -> None:
    with pytest.raises(KdzooError, match="unknown balance 'uncertain'; did you mean 'uncertainty'"):
        Objective([Term("ce")], balance="uncertain")


def test_a_recipe_names_its_balance_and_the_trainer_measures(tmp_path: Path) -> None:
    recipe = Recipe.load("kd").override(["balance=gradient_norm"])
    assert Recipe.parse(recipe.model_dump()).objective().balance == "gradient_norm"
    trainer = made(tmp_path, recipe, also={"log_gradients": True}, logging_steps=2, max_steps=4)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "gradient/kd" in entry]
    assert [entry["step"] for entry in logged] == [2, 4]
    for entry in logged:
        assert entry["gradient/kd"] > 0 and entry["gradient/ce"] > 0 and -1 <= entry["gradient/kd~ce"] <= 1
    assert (trainer.model.objective.gradient_norms > 0).all()


# --- layers one by one ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("schedule", "taken"),
    [
        ("together", [(0, 1, 2, 3)] * 5),
        ("progressive", [(0,), (0,), (1,), (2,), (3,)]),
        ("stacked", [(0,), (0,), (0, 1), (0, 1, 2), (0, 1, 2, 3)]),
    ],
)
def test_layers_come_in_by_their_schedule(schedule: str, taken: list[tuple[int, ...]]) -> None:
    """Within the first half of the training, in which the term has its weight."""
    term = Term("hidden_mse", layer_schedule=schedule, weight=kdzoo.before(0.5, 1.0))
    objective = bound(term, Term("ce"), student=model(4), teacher=model(4, 8))
    ours, theirs = activations(4, 8), activations(4, 8, seed=1)
    for progress, layers in zip((0.0, 0.1, 0.125, 0.26, 0.49), taken, strict=True):
        output = objective(ours, theirs, labels=LABELS, progress=progress)
        each = [kdzoo.create("hidden_mse")(ours.hidden[i + 1], theirs.hidden[i + 1], mask=ours.mask) for i in layers]
        expected = torch.stack(each).sum()
        assert output.terms["hidden_mse"].item() == pytest.approx(float(expected.detach()), rel=1e-5)
        needs, _ = objective.needs(progress)
        assert needs.hidden == {i + 1 for i in layers}, "layers that take no part are captured"


def test_a_loss_without_layers_has_no_layer_schedule() -> None:
    with pytest.raises(KdzooError, match="kd on the logits does not go layer by layer; leave out layer_schedule"):
        Term("kd", layer_schedule="stacked")
    with pytest.raises(KdzooError, match="unknown layer_schedule 'stacking'; did you mean 'stacked'"):
        Term("hidden_mse", layer_schedule="stacking")


@pytest.mark.parametrize(
    ("weight", "span"),
    [
        (kdzoo.before(0.8, 1.0), (0.0, 0.8)),
        (kdzoo.after(0.8, 1.0), (0.8, 1.0)),
        (kdzoo.linear(0.0, 1.0), (0.0, 1.0)),
        (kdzoo.Schedule(((0.0, 0.0), (0.2, 1.0), (0.6, 0.0))), (0.2, 0.6)),
        (kdzoo.Schedule(((0.0, 0.0), (0.2, 0.0), (0.5, 1.0), (0.6, 0.0)), interpolate=True), (0.2, 0.6)),
        (kdzoo.Schedule(((0.0, 0.0),)), (0.0, 0.0)),
    ],
)
def test_the_span_of_a_schedule(weight: kdzoo.Schedule, span: tuple[float, float]) -> None:
    assert weight.span == pytest.approx(span)
