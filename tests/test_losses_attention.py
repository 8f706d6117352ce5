"""Attention, relation and feature map losses: what the conformance suite does not reach, and their recipes."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import kdzoo
from kdzoo import QKV, KdzooError
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.recipe import Recipe

B, S = 3, 5


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def qkv(heads: int, width: int, seed: int = 0) -> QKV:
    return QKV(*(draw(B, heads, S, width, seed=seed + i) for i in range(3)))


def fit(name: str, feature: str, student: ModelShape, teacher: ModelShape, **options: Any) -> dict[str, Any]:
    return loss_class(name).fit(
        options, feature=feature, student=student, teacher=teacher, layers=((0, 0),), num_samples=None
    )


SMALL, LARGE = ModelShape(2, 24, 4, 2), ModelShape(4, 36, 12, 2)


# attention_ce


def test_attention_ce_is_attention_kl_and_the_teachers_entropy():
    student, teacher = draw(B, 4, S, S), draw(B, 4, S, S, seed=1)
    entropy = kdzoo.create("attention_ce")(teacher, teacher)
    expected = -(teacher.softmax(-1) * teacher.log_softmax(-1)).sum(-1).mean()
    assert math.isclose(entropy, expected, rel_tol=1e-12)
    values = [kdzoo.create(name)(student, teacher) for name in ("attention_ce", "attention_kl")]
    assert math.isclose(values[0], values[1] + entropy, rel_tol=1e-12)


# minilm and minilmv2


def test_minilm_adds_the_value_relation_to_the_attention():
    student, teacher = qkv(4, 3), qkv(4, 6, seed=9)
    attention = kdzoo.create("attention_kl")(student, teacher)
    values = kdzoo.create("attention_kl")(*(QKV(side.value, side.value, side.value) for side in (student, teacher)))
    assert math.isclose(kdzoo.create("minilm")(student, teacher), attention + values, rel_tol=1e-12)


def test_minilmv2_on_equal_heads_and_the_relations_of_minilm_is_minilm():
    student, teacher = qkv(4, 3), qkv(4, 6, seed=9)
    loss = kdzoo.create("minilmv2", relation_heads=4, relations=("qk", "vv"))
    assert math.isclose(loss(student, teacher), kdzoo.create("minilm")(student, teacher), rel_tol=1e-12)


def test_minilmv2_does_not_care_how_the_width_is_cut_into_heads():
    student, teacher = qkv(2, 6), qkv(3, 8, seed=9)

    def cut(tensor: Tensor, heads: int) -> Tensor:
        return tensor.transpose(1, 2).flatten(2).unflatten(-1, (heads, -1)).transpose(1, 2)

    loss = kdzoo.create("minilmv2", relation_heads=4)
    again = loss(QKV(*(cut(t, 6) for t in student)), QKV(*(cut(t, 12) for t in teacher)))
    assert math.isclose(loss(student, teacher), again, rel_tol=1e-12)


def test_minilm_refuses_unequal_heads_and_names_minilmv2():
    with pytest.raises(KdzooError, match=r"the student has 2 attention heads and the teacher 3.*minilmv2"):
        kdzoo.create("minilm")(qkv(2, 6), qkv(3, 6))
    with pytest.raises(KdzooError, match=r"the student has 4 and the teacher 12.*minilmv2"):
        fit("minilm", "qkv", SMALL, LARGE)


@pytest.mark.parametrize("name", ["minilm", "minilmv2"])
def test_relations_need_queries_keys_and_values(name):
    with pytest.raises(KdzooError, match=rf"{name} needs a QKV .*; the student's is \(3, 4, 5, 5\)"):
        kdzoo.create(name)(draw(B, 4, S, S), qkv(4, 6))
    hides = ModelShape(4, 24, 4, 2, shows_qkv=False)
    feature = "qkv" if name == "minilm" else "decoder_qkv"
    with pytest.raises(KdzooError, match="the teacher shows its attention scores only; use attention_kl"):
        fit(name, feature, SMALL, hides)


def test_a_value_that_does_not_belong_to_its_keys_is_refused():
    query, key, _ = qkv(4, 6)
    with pytest.raises(KdzooError, match=r"value \(3, 4, 4, 6\) must be"):
        kdzoo.create("minilm")(QKV(query, key, key[:, :, 1:]), qkv(4, 6))


def test_minilmv2_takes_relation_heads_that_divide_both_widths():
    assert fit("minilmv2", "qkv", SMALL, LARGE)["relation_heads"] == 12
    base, small = ModelShape(12, 768, 12, 2), ModelShape(6, 384, 12, 2)
    assert fit("minilmv2", "qkv", small, base)["relation_heads"] == 48, "the paper's, for a base-sized teacher"
    assert fit("minilmv2", "qkv", ModelShape(4, 312, 12, 2), base)["relation_heads"] == 24
    assert fit("minilmv2", "qkv", ModelShape(2, 16, 4, 2), ModelShape(3, 40, 4, 2))["relation_heads"] == 8
    assert fit("minilmv2", "qkv", SMALL, LARGE, relation_heads=6)["relation_heads"] == 6
    with pytest.raises(KdzooError, match=r"does not divide both .* 24 and .* 36; 1, 2, 3, 4, 6, 12 do"):
        fit("minilmv2", "qkv", SMALL, LARGE, relation_heads=8)
    with pytest.raises(KdzooError, match="relation_heads=8 does not divide the teacher's width 36, the 6 heads of 6"):
        kdzoo.create("minilmv2", relation_heads=8)(qkv(4, 6), qkv(6, 6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"relation_heads": 0}, "relation_heads is 0; it must be a whole number"),
        ({"relations": ("vq", "qx")}, "'qx'"),
        ({"relations": ()}, "relations is empty"),
    ],
)
def test_minilmv2_refuses_options_that_mean_nothing(options, message):
    with pytest.raises(KdzooError, match=message):
        kdzoo.create("minilmv2", **options)


# mobilebert


def test_mobilebert_adds_up_both_parts_in_one_call():
    student, teacher = draw(B, S, 6).requires_grad_(), draw(B, S, 6, seed=1).requires_grad_()
    ours, theirs = qkv(4, 3), QKV(*(tensor.requires_grad_() for tensor in qkv(4, 3, seed=5)))
    ours = QKV(*(tensor.requires_grad_() for tensor in ours))
    mask = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]])
    loss = kdzoo.create("mobilebert", attention_weight=0.5)
    both = loss(student, teacher, mask=mask, student_attention=ours, teacher_attention=theirs)
    hidden = kdzoo.create("hidden_mse")(student, teacher, mask=mask)
    attention = kdzoo.create("attention_kl")(ours, theirs, mask=mask)
    assert math.isclose(both.item(), (hidden + 0.5 * attention).item(), rel_tol=1e-12)
    both.backward()
    assert student.grad is not None and ours.query.grad is not None
    assert all(tensor.grad is None for tensor in (teacher, *theirs))


def test_mobilebert_takes_half_precision_attention_beside_hidden_states():
    hidden, attention = draw(B, S, 6).half(), draw(B, 4, S, S).bfloat16().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = kdzoo.create("mobilebert")(
            hidden, hidden, student_attention=attention, teacher_attention=draw(B, 4, S, S, seed=1).bfloat16()
        )
    assert value.dtype == torch.float32 and value > 0


def test_mobilebert_apart_is_nothing_where_states_agree_and_sees_scale_and_shift():
    states = draw(B, S, 6)
    apart = kdzoo.create("mobilebert", decomposed=True, variance_weight=0.0)
    assert apart(states, states) == 0
    assert math.isclose(apart(states + 2, states), 4.0, rel_tol=1e-9)  # the means alone
    variance = kdzoo.create("mobilebert", decomposed=True, mean_weight=0.0)(3 * states, states)
    assert math.isclose(variance, 8 * states.var(-1, correction=0).mean(), rel_tol=1e-9)
    assert kdzoo.create("mobilebert", variant="released").decomposed


@pytest.mark.parametrize(
    ("sides", "beside"),
    [
        ((draw(B, S, 6), qkv(4, 3)), {}),
        ((draw(B, S, 6), draw(B, S, 6)), {"student_attention": qkv(4, 3)}),
        ((draw(B, S, 6), draw(B, S, 6)), {"teacher_attention": qkv(4, 3)}),
        ((qkv(4, 3), qkv(4, 3)), {"student_attention": qkv(4, 3), "teacher_attention": qkv(4, 3)}),
    ],
)
def test_mobilebert_refuses_halves(sides, beside):
    with pytest.raises(KdzooError, match="mobilebert takes hidden states"):
        kdzoo.create("mobilebert")(*sides, **beside)


@pytest.mark.parametrize("decomposed", [False, True])
def test_mobilebert_takes_layers_that_cannot_be_attention(decomposed: bool) -> None:
    student, teacher = torch.randn(2, 5, 3, 7, 16, dtype=torch.float64)
    mask = torch.ones(5, 7)
    mask[:, 4:] = 0
    loss = kdzoo.create("mobilebert", decomposed=decomposed)
    each = [loss(student[:, layer], teacher[:, layer], mask=mask) for layer in range(3)]
    torch.testing.assert_close(loss(student, teacher, mask=mask), torch.stack(each).mean())
    square = torch.randn(2, 5, 3, 7, 7, dtype=torch.float64)
    scores = kdzoo.create("attention_kl")(*square, mask=mask)
    torch.testing.assert_close(loss(*square, mask=mask), scores)
    projects = kdzoo.create("mobilebert", student_dim=7, teacher_dim=16).double()
    assert projects(square[0], teacher, mask=mask).isfinite()


def test_mobilebert_projects_hidden_states_and_compares_equal_heads():
    assert fit("mobilebert", "hidden", SMALL, LARGE) == {"student_dim": 24, "teacher_dim": 36}
    with pytest.raises(KdzooError, match="mobilebert compares heads one by one"):
        fit("mobilebert", "qkv", SMALL, LARGE)


# Recipes


def weights(recipe: str, progress: float, layers: int = 4) -> dict[str, list[float]]:
    """What each of four mapped layers weighs in the terms of a recipe, added up over terms of one feature."""
    found: dict[str, list[float]] = {}
    for term in Recipe.load(recipe).objective().active(progress):
        if term.feature != "logits":
            each = found.setdefault(term.feature, [0.0] * layers)
            for index in term.layers_at(progress, layers):
                each[index] += term.weight_at(progress)
    return found


def test_mobilebert_goes_up_one_layer_at_a_time_and_keeps_a_tenth_of_those_below():
    stage = Recipe.load("mobilebert").stages[0].fraction
    for current in range(4):
        expected = [0.1] * current + [1.0] + [0.0] * (3 - current)
        for each in weights("mobilebert", stage * (current + 0.5) / 4).values():
            assert each == pytest.approx(expected)
    assert [term.loss_class.name for term in Recipe.load("mobilebert").objective().active(0.9)] == ["kd", "ce"]


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [("ir_kd", [1, 1, 1, 1]), ("ir_kd_progressive", [0, 1, 0, 0]), ("ir_kd_stacked", [1, 1, 0, 0])],
)
def test_internal_representations_come_in_three_schedules(recipe, expected):
    assert weights(recipe, 6 / 7 * 1.5 / 4) == {"cls": expected, "qkv": expected}
    at_the_end = [term.loss_class.name for term in Recipe.load(recipe).objective().active(0.99)]
    assert at_the_end[-1] == "soft_ce" and (len(at_the_end) == 1) == (recipe != "ir_kd")


def test_distilbert_keeps_the_published_proportions():
    terms = Recipe.load("distilbert").objective().terms
    assert {term.name: term.weight_at(0.5) for term in terms} == {"kd": 5.0, "ce": 2.0, "cosine": 1.0}


@pytest.mark.parametrize("recipe", ["minilm", "minilmv2"])
def test_relations_stand_alone_before_fine_tuning(recipe):
    objective = Recipe.load(recipe).objective()
    assert [[term.name for term in objective.active(progress)] for progress in (0.0, 0.99)] == [[recipe], ["ce"]]


def test_mobilebert_released_has_the_weights_of_the_authors_command() -> None:
    student, teacher = torch.randn(3, 4, 6).double(), torch.randn(3, 4, 6).double()
    given = {"hidden_weight": 100.0, "mean_weight": 5000.0, "variance_weight": 5.0}
    released = kdzoo.create("mobilebert", variant="released")(student, teacher)
    own = kdzoo.create("mobilebert", decomposed=True, **given)(student, teacher)
    torch.testing.assert_close(released, own)


@pytest.mark.parametrize("name", ["attention_kl", "attention_ce"])
@pytest.mark.parametrize("masked", [False, True])
def test_large_scores_are_worked_on_piece_by_piece(name: str, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(5, 2, 6, 6, requires_grad=True), torch.randn(5, 2, 6, 6)
    mask = torch.arange(6) < torch.tensor([[6], [3], [0], [5], [1]]) if masked else None
    found = []
    for piece in (2**19, 150, 1):
        monkeypatch.setattr("kdzoo.losses.attention.PIECE", piece)
        value = kdzoo.create(name)(student, teacher, mask=mask)
        found.append((value, *torch.autograd.grad(value, student)))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0])
