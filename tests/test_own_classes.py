"""ULD, and two models whose labels or vocabularies differ: what takes them, and that nothing else does."""

from __future__ import annotations

import re
import secrets
from itertools import permutations
from typing import Any

import pytest
import torch
from tiny_models import batch, tiny
from torch import Tensor

import kdzoo
from kdzoo import KdzooError
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape


def logits(*shape: int, scale: float = 2.0) -> Tensor:
    """Fresh at every call."""
    generator = torch.Generator().manual_seed(secrets.randbits(32))
    return scale * torch.randn(*shape, generator=generator, dtype=torch.float64)


def shape(classes: int, problem_type: str | None = None) -> ModelShape:
    return ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=classes, problem_type=problem_type)


# The loss


def test_uld_by_hand() -> None:
    student = torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.25, 0.25]]).log()
    teacher = torch.tensor([[0.05, 0.25, 0.1, 0.6], [0.25, 0.5, 0.125, 0.125]]).log()
    expected = [0.1 + 0.05 + 0.0 + 0.05, 0.0 + 0.0 + 0.125 + 0.125]
    for own, other in ((student, teacher), (teacher, student)):
        assert kdzoo.create("uld")(own, other).item() == pytest.approx(sum(expected) / 2)


def test_uld_does_not_see_which_class_has_a_rank_and_is_no_more_than_twice_tvd() -> None:
    student, teacher = logits(6, 5), logits(6, 5)
    loss = kdzoo.create("uld", temperature=1.7)
    value = loss(student, teacher)
    order = torch.randperm(5)
    torch.testing.assert_close(loss(student, teacher[:, order]), value)
    torch.testing.assert_close(loss(student[:, order], teacher), value)
    assert loss(teacher[:, order], teacher).item() == pytest.approx(0.0, abs=1e-12)
    assert 0 < value.item() <= 2 * kdzoo.create("tvd", temperature=1.7)(student, teacher).item()


def test_uld_is_twice_the_cost_of_carrying_what_does_not_lie_there_already() -> None:
    """With a cost of 1 and the classes matched by their ranks, which no other matching undercuts."""
    student, teacher = logits(4, 3), logits(4, 5)
    s = torch.nn.functional.pad(student.softmax(-1), (0, 2))
    t = teacher.softmax(-1)
    matchings = torch.tensor([*permutations(range(5))])
    least = (s.unsqueeze(1) - t[:, matchings]).clamp_min(0).sum(-1).min(1).values
    torch.testing.assert_close(kdzoo.create("uld")(student, teacher), 2 * least.mean())


def test_a_vocabulary_with_words_that_nobody_says_is_the_smaller_one() -> None:
    student, teacher = logits(2, 4, 6).requires_grad_(), logits(2, 4, 3)
    loss, mask = kdzoo.create("uld"), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    more = torch.cat([teacher, torch.full((2, 4, 2), -torch.inf, dtype=torch.float64)], -1)
    value = loss(student, more, mask=mask)
    torch.testing.assert_close(value, loss(student, teacher, mask=mask))
    value.backward()
    assert student.grad is not None and student.grad.isfinite().all()
    assert student.grad[mask == 1].any(-1).all() and not student.grad[mask == 0].any()


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        ((4, 5), (3, 7), "uld: student (4, 5) and teacher (3, 7) must be logits of the same rows and positions"),
        ((2, 4, 5), (2, 3, 7), "must be logits of the same rows and positions, (B, C) or (B, S, C)"),
        ((2, 4, 5), (2, 7), "must be logits of the same rows and positions"),
        ((5,), (7,), "must be logits of the same rows and positions"),
        ((4, 1), (4, 5), "uld sorts probabilities of classes, and one logit has none; use kd or logit_mse"),
        ((4, 5), (4, 1), "uld sorts probabilities of classes, and one logit has none; use kd or logit_mse"),
    ],
)
def test_uld_refuses_what_does_not_fit(student: tuple[int, ...], teacher: tuple[int, ...], message: str) -> None:
    with pytest.raises(KdzooError, match=re.escape(message)) as refused:
        kdzoo.create("uld")(torch.zeros(student), torch.zeros(teacher))
    assert "\n" not in str(refused.value)


def test_uld_refuses_a_temperature_of_zero() -> None:
    with pytest.raises(KdzooError, match=r"^uld: temperature is 0\.0; it must be a positive number$"):
        kdzoo.create("uld", temperature=0.0)


# An objective for two models of other labels


def named(of: Any, *names: str) -> Any:
    of.config.id2label = dict(enumerate(names))
    return of


def test_an_objective_in_a_loop_of_ones_own_takes_two_models_of_other_labels() -> None:
    student = named(tiny("bert", num_labels=3), "good", "bad", "fine")
    teacher = named(tiny("bert", num_labels=5), "a", "b", "c", "d", "e")
    objective = kdzoo.Objective("uld*1.5 + ce + hidden_mse[last]").bind(student, teacher)
    rows, labels = batch(), torch.tensor([0, 2, 1, 1])
    ours, theirs = objective.needs(0.0)
    assert theirs is not None
    with torch.no_grad(), kdzoo.capture(teacher.eval(), theirs) as recorder:
        t = recorder.activations(teacher(**rows), mask=rows["attention_mask"])
    with kdzoo.capture(student, ours) as recorder:
        s = recorder.activations(student(**rows), mask=rows["attention_mask"])
    assert s.logits is not None and t.logits is not None and (s.logits.shape[-1], t.logits.shape[-1]) == (3, 5)
    total, terms = objective(s, t, labels=labels)
    torch.testing.assert_close(terms["uld"], kdzoo.create("uld")(s.logits, t.logits).detach())
    total.backward()
    assert student.classifier.weight.grad is not None and student.classifier.weight.grad.any()


def test_an_objective_takes_two_vocabularies_position_by_position() -> None:
    objective = kdzoo.Objective("uld").bind(shape(50), shape(80))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0]]) != 0
    student, teacher = logits(2, 3, 50), logits(2, 3, 80)
    found = objective(kdzoo.Activations(logits=student, mask=mask), kdzoo.Activations(logits=teacher, mask=mask))
    torch.testing.assert_close(found.total, kdzoo.create("uld")(student, teacher, mask=mask))


@pytest.mark.parametrize("terms", ["kd", "uld + kd", "kd*0.5 + uld + ce", "mlkd", "dist + uld"])
def test_what_matches_classes_is_refused_as_before(terms: str) -> None:
    student, teacher = shape(3), shape(5)
    with pytest.raises(KdzooError, match="the student has 3 classes and the teacher 5; they must be trained for"):
        kdzoo.Objective(terms).bind(student, teacher)
    with pytest.raises(KdzooError, match=r"\(4, 3\) and teacher \(4, 5\) must be logits of the same shape"):
        kdzoo.create("kd")(torch.zeros(4, 3), torch.zeros(4, 5))
    assert kdzoo.Objective("uld + ce").bind(student, teacher)
    taking = [name for name in kdzoo.available() if loss_class(name).own_classes]
    assert taking == ["uld"]


def test_labels_are_matched_by_name_where_a_loss_matches_classes() -> None:
    ours, theirs = ("yes", "no", "not given"), ("no", "not given", "yes")
    student, teacher = (named(tiny("bert", num_labels=3), *names) for names in (ours, theirs))
    activations = [kdzoo.Activations(logits=logits(4, 3)) for _ in range(2)]
    both = kdzoo.Objective("uld + kd").bind(student, teacher)(*activations).terms
    assert activations[1].logits is not None
    read = activations[1].logits[:, [2, 0, 1]]
    torch.testing.assert_close(both["kd"], kdzoo.create("kd")(activations[0].logits, read))
    alone = kdzoo.Objective("uld").bind(student, teacher)(*activations).terms
    torch.testing.assert_close(alone["uld"], both["uld"])
    other = named(tiny("bert", num_labels=3), "good", "bad", "fine")
    with pytest.raises(KdzooError, match="has the labels good, bad, fine and the student has yes, no, not given"):
        kdzoo.Objective("uld + kd").bind(student, other)
    assert kdzoo.Objective("uld").bind(student, other)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (shape(1), shape(3), "uld sorts probabilities of classes, and one logit has none"),
        (shape(3), shape(1), "uld sorts probabilities of classes, and one logit has none"),
        (shape(3), shape(5, "multi_label_classification"), "uld is for classes, .* has several labels a row"),
        (shape(3, "regression"), shape(5), "uld is for classes, and this task has 3 numbers a row"),
        (shape(3, "single_label_classification"), shape(5, "regression"), "take two models for one kind of task"),
    ],
)
def test_what_is_no_classes_on_either_side_is_refused(student: ModelShape, teacher: ModelShape, message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        kdzoo.Objective("uld").bind(student, teacher)
