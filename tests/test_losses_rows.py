"""Margin-MSE, Jasper's two losses of similarities and Sinkhorn distance: what the conformance suite does not try."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

import kdzoo
from kdzoo import KdzooError
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape
from kdzoo.testing import fresh_seed

ROWS = ("similarity_mse", "relative_similarity")
SCORES = ("margin_mse", "sinkhorn")


@pytest.fixture
def rng() -> np.random.Generator:
    """Fresh numbers in every run; a failure shows what makes them again."""
    seed = fresh_seed()
    print(f"to repeat these inputs: KDZOO_SEED={seed}")
    return np.random.default_rng(seed)


def pair(rng: np.random.Generator, *shape: int, width: int | None = None) -> tuple[Tensor, Tensor]:
    student, teacher = rng.normal(size=shape), rng.normal(size=(*shape[:-1], width or shape[-1]))
    return torch.from_numpy(student).requires_grad_(), torch.from_numpy(teacher)


def units(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def value_and_slope(name: str, student: Tensor, teacher: Tensor, **options: Any) -> tuple[float, Tensor]:
    value = kdzoo.create(name, **options)(student, teacher)
    (slope,) = torch.autograd.grad(value, student)
    return value.item(), slope


# Each against NumPy: another way to the same number


def margin_mse(s: np.ndarray, t: np.ndarray) -> float:
    return float(np.square((s[:, :1] - s[:, 1:]) - (t[:, :1] - t[:, 1:])).mean())


def similarity_mse(s: np.ndarray, t: np.ndarray) -> float:
    return float(np.square(units(s) @ units(s).T - units(t) @ units(t).T).mean())


def relative_similarity(s: np.ndarray, t: np.ndarray, margin: float = 0.015) -> float:
    upper = np.triu_indices(len(s), 1)
    ours, theirs = ((units(side) @ units(side).T)[upper] for side in (s, t))
    hinges = np.maximum(0, ours[None, :] - ours[:, None] + margin)
    return float(hinges[theirs[:, None] > theirs[None, :]].sum() / math.comb(len(ours), 2))


def sinkhorn(s: np.ndarray, t: np.ndarray, temperature: float = 2.0, regularization: float = 0.1) -> float:
    """With the scalings u and v of the kernel, in place of the plan itself."""
    ours, theirs = (np.exp(side / temperature) for side in (s, t))
    ours, theirs = ours / ours.sum(1, keepdims=True), theirs / theirs.sum(1, keepdims=True)
    costs = np.abs(ours[:, None] - theirs[None]).sum(-1)
    kernel, v = np.exp(-costs / regularization), np.ones(len(s))
    for _ in range(20):
        u = 1 / (kernel @ v)
        v = 1 / (kernel.T @ u)
    return float((u[:, None] * kernel * v * costs).sum() / len(s))


@pytest.mark.parametrize(
    "formula, options",
    [
        (margin_mse, {}),
        (similarity_mse, {}),
        (relative_similarity, {}),
        (relative_similarity, {"margin": 0.4}),
        (sinkhorn, {}),
        (sinkhorn, {"temperature": 0.7, "regularization": 0.3}),
    ],
)
def test_value_and_gradient_are_those_of_numpy(formula: Any, options: dict, rng: np.random.Generator) -> None:
    student, teacher = pair(rng, int(rng.integers(5, 9)), 4)
    found, slope = value_and_slope(formula.__name__, student, teacher, **options)
    numbers, others = student.detach().numpy(), teacher.numpy()
    assert found == pytest.approx(formula(numbers, others, **options), rel=1e-10)
    # In one direction, by a step that hardly ever meets a kink.
    step = 1e-7 * rng.normal(size=numbers.shape)
    ahead, behind = (formula(numbers + sign * step, others, **options) for sign in (1, -1))
    assert float((slope.numpy() * step).sum()) == pytest.approx((ahead - behind) / 2, rel=1e-5, abs=1e-15)


@pytest.mark.parametrize("name", [*SCORES, *ROWS])
def test_every_entry_of_the_gradient(name: str, rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 4, 3)
    assert gradcheck(lambda given: kdzoo.create(name)(given, teacher), (student,), eps=1e-7)


# Limits


@pytest.mark.parametrize("name", ROWS)
def test_the_length_of_a_row_and_the_width_of_the_teacher_do_not_matter(name: str, rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 6, 4, width=7)
    lengths = torch.from_numpy(rng.uniform(0.1, 9, size=(6, 1)))
    loss = kdzoo.create(name)
    torch.testing.assert_close(loss(student * lengths, teacher), loss(student, teacher / lengths))
    shapes = [ModelShape(num_layers=2, hidden_size=size, num_heads=2, num_labels=2) for size in (16, 24)]
    fitted = loss_class(name).fit(
        {}, feature="cls", student=shapes[0], teacher=shapes[1], layers=((2, 2),), num_samples=None
    )
    assert fitted == {}


def test_what_all_scores_of_a_row_have_in_common_has_no_margin(rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 5, 4)
    value, slope = value_and_slope("margin_mse", student, teacher)
    assert slope.sum(-1).abs().max() < 1e-14
    level = torch.from_numpy(rng.normal(size=(5, 1)))
    assert kdzoo.create("margin_mse")(student + level, teacher).item() == pytest.approx(value, rel=1e-12)


def test_margins_of_pairs_are_those_of_the_sentences() -> None:
    """(s⁺ - s⁻) - (t⁺ - t⁻) is 1 - 3 and 0 - 1."""
    student, teacher = torch.tensor([[2.0, 1.0], [4.0, 4.0]]), torch.tensor([[9.0, 6.0], [0.0, -1.0]])
    assert kdzoo.create("margin_mse")(student, teacher).item() == 2.5


def test_a_student_in_the_teachers_order_with_room_has_no_relative_loss() -> None:
    """Three pairs at cosines 1, 0.6 and 0.6, then a fourth row apart from them all."""
    teacher = torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]])
    loss = kdzoo.create("relative_similarity")
    assert loss(torch.tensor([[1.0, 0.0], [1.0, 0.2], [-0.5, 1.0]]), teacher).item() == 0
    # The three cosines are 0, 0 and 0: each of the three comparisons is short of its margin by all of it.
    apart = torch.eye(3).requires_grad_()
    value = loss(apart, teacher)
    assert value.item() == pytest.approx(0.015)
    # With no margin, cosines that are equal are in no wrong order, however they are rounded.
    assert kdzoo.create("relative_similarity", margin=0.0)(apart, teacher).item() == 0


def test_pairs_that_the_teacher_ties_count_in_the_released_code_alone(rng: np.random.Generator) -> None:
    student, _ = pair(rng, 3, 4)
    one, two, three = (units(student.detach().numpy()) @ units(student.detach().numpy()).T)[[0, 0, 1], [1, 2, 2]]
    teacher = torch.eye(3).double()
    paper, slope = value_and_slope("relative_similarity", student, teacher)
    assert paper == 0 and not slope.any()
    released, _ = value_and_slope("relative_similarity", student, teacher, variant="released")
    hinges = [max(0.0, early - late + 0.015) for early, late in itertools.combinations((one, two, three), 2)]
    assert released == pytest.approx(sum(hinges) / 3, rel=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.015, 0.25])
@pytest.mark.parametrize("variant", ["paper", "released"])
def test_counts_are_right_where_much_is_equal(variant: str, margin: float, rng: np.random.Generator) -> None:
    """Rows along the axes: their cosines are -1, 0 and 1, so that nearly all comparisons are ties or kinks."""
    axes = np.concatenate([np.eye(2), -np.eye(2)])
    student, teacher = (torch.from_numpy(axes[rng.integers(4, size=9)]) for _ in range(2))
    ours, theirs = ((side @ side.T)[tuple(torch.triu_indices(9, 9, 1))] for side in (student, teacher))
    ahead = theirs[:, None] > theirs[None]
    if variant == "released":
        ahead = ahead | ((theirs[:, None] == theirs[None]) & torch.ones_like(ahead).tril(-1))
    expected = ((ours[None] - ours[:, None] + margin).clamp_min(0) * ahead).sum() / math.comb(len(ours), 2)
    found, slope = value_and_slope(
        "relative_similarity", student.requires_grad_(), teacher, variant=variant, margin=margin
    )
    assert found == pytest.approx(expected.item(), rel=1e-12, abs=1e-15)
    assert slope.isfinite().all()


def test_the_relative_loss_makes_nothing_of_the_size_of_its_terms() -> None:
    rows, kept = 64, []

    def pack(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    student, teacher = torch.randn(rows, 4, requires_grad=True), torch.randn(rows, 4)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        value = kdzoo.create("relative_similarity")(student, teacher)
    value.backward()
    assert max(kept) <= rows**2
    expected = relative_similarity(student.detach().double().numpy(), teacher.double().numpy())
    assert value.item() == pytest.approx(expected, rel=1e-5)


def test_two_rows_have_no_order() -> None:
    value, slope = value_and_slope("relative_similarity", torch.randn(2, 4, requires_grad=True), torch.randn(2, 4))
    assert value == 0 and not slope.any()


def test_the_plan_of_one_row_is_that_row(rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 1, 4)
    value, _ = value_and_slope("sinkhorn", student, teacher, temperature=1.0)
    assert value == pytest.approx(2 * kdzoo.create("tvd")(student, teacher).item(), rel=1e-12)


def test_the_transport_tends_to_the_cheapest_plan(rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 4, 3)
    probabilities = [side.softmax(-1) for side in (student.detach(), teacher)]
    costs = torch.cdist(*probabilities, p=1).numpy()
    cheapest = min(sum(costs[range(4), order]) for order in itertools.permutations(range(4))) / 4
    values = []
    for regularization in (1e6, 0.005):
        loss = kdzoo.create("sinkhorn", temperature=1.0, regularization=regularization, iterations=1000)
        values.append(loss(student.detach(), teacher).item())
    assert values[0] == pytest.approx(costs.mean(), rel=1e-4)
    assert values[1] == pytest.approx(cheapest, abs=0.02)


def test_the_released_transport_grows_with_the_batch(rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 6, 3)
    loss, released = kdzoo.create("sinkhorn"), kdzoo.create("sinkhorn", variant="released")
    assert released(student, teacher).item() == pytest.approx(0.001 * 6 * loss(student, teacher).item(), rel=1e-12)
    twice = [torch.cat([side, side]) for side in (student, teacher)]
    assert released(*twice).item() == pytest.approx(2 * released(student, teacher).item(), rel=1e-9)


# Stability


@pytest.mark.parametrize("regularization", [1e-30, 1e-3, 1e30])
def test_a_regularization_at_which_the_kernel_would_vanish(regularization: float, rng: np.random.Generator) -> None:
    student, teacher = (side.detach().float() for side in pair(rng, 5, 3))
    mask = torch.tensor([[1, 0], [1, 1], [1, 1], [1, 0], [0, 1]])
    for given in ({}, {"mask": mask}):
        ours, theirs = (side.unsqueeze(1).repeat(1, 2, 1) if given else side for side in (5 * student, 5 * teacher))
        ours.requires_grad_()
        value = kdzoo.create("sinkhorn", regularization=regularization)(ours, theirs, **given)
        value.backward()
        assert 0 <= value.item() <= 2
        assert ours.grad is not None and not ours.grad.isnan().any()


def test_equal_distances_share_a_gradient(rng: np.random.Generator) -> None:
    """At a regularization where each would have it whole, twice as much after every iteration."""
    for _ in range(20):
        student, teacher = (5 * side.detach().float().repeat_interleave(2, 0) for side in pair(rng, 4, 3))
        student.requires_grad_()
        kdzoo.create("sinkhorn", regularization=1e-30)(student, teacher).backward()
        assert student.grad is not None and student.grad.isfinite().all()


@pytest.mark.parametrize("name", SCORES)
def test_a_class_at_minus_infinity_on_both_sides_adds_nothing(name: str, rng: np.random.Generator) -> None:
    student, teacher = pair(rng, 6, 4)
    expected, slope = value_and_slope(name, student, teacher)
    none = torch.full((6, 1), -torch.inf, dtype=torch.float64)
    wider = torch.cat([student.detach(), none], 1).requires_grad_()
    found, wide = value_and_slope(name, wider, torch.cat([teacher, none], 1))
    assert found == pytest.approx(expected, rel=1e-12)
    torch.testing.assert_close(wide, torch.cat([slope, 0 * none.masked_fill(none < 0, 0.0)], 1))


def test_absent_candidates_are_left_out_of_their_own_rows(rng: np.random.Generator) -> None:
    """Of three rows the second has one candidate less; the third has no relevant one, and adds 0."""
    student, teacher = (side.detach() for side in pair(rng, 3, 4))
    student[1, 3] = teacher[1, 3] = student[2, 0] = teacher[2, 0] = -torch.inf
    value, slope = value_and_slope("margin_mse", student.requires_grad_(), teacher)
    numbers, others = student.detach().numpy(), teacher.numpy()
    rows = margin_mse(numbers[:1], others[:1]), margin_mse(numbers[1:2, :3], others[1:2, :3])
    assert value == pytest.approx(sum(rows) / 3, rel=1e-12)
    assert slope.isfinite().all() and not slope[2].any() and slope[1, 3] == 0


def test_a_candidate_absent_on_one_side_is_infinitely_wrong() -> None:
    student = torch.tensor([[1.0, 0.0, -torch.inf]])
    assert kdzoo.create("margin_mse")(student, torch.zeros(1, 3)).item() == math.inf


@pytest.mark.parametrize("name", [*SCORES, *ROWS])
@pytest.mark.parametrize("side", [0, 1])
def test_nan_stays_nan(name: str, side: int) -> None:
    given = torch.randn(5, 4), torch.randn(5, 4)
    given[side][2, 1] = torch.nan
    assert kdzoo.create(name)(*given).isnan()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_and_zero_rows_have_a_finite_gradient(name: str, dtype: torch.dtype, rng: np.random.Generator) -> None:
    student, teacher = (side.detach().to(dtype) for side in pair(rng, 6, 5))
    student[3], student[5], teacher[1], teacher[2] = student[0], 0.0, teacher[0], 0.0
    _, slope = value_and_slope(name, student.requires_grad_(), teacher)
    assert slope.abs().max() < 10 and not slope[5].isnan().any()


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("large", [torch.inf, 3e38])
def test_a_vector_of_infinite_length_counts_as_zero(name: str, large: float) -> None:
    student, teacher = torch.randn(6, 8), torch.randn(6, 8)
    found = []
    for value in (large, 0.0):
        student = student.detach().clone()
        student[2] = value
        found.append(value_and_slope(name, student.requires_grad_(), teacher))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-6)
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(found[0][1][keep], found[1][1][keep])
    assert not found[0][1][2].any()


# Refusals


@pytest.mark.parametrize(
    "name, options, message",
    [
        ("relative_similarity", {"margin": -0.1}, "margin is -0.1; it must be a finite number, 0 or above"),
        ("relative_similarity", {"margin": math.nan}, "margin is nan"),
        ("relative_similarity", {"margin": math.inf}, "margin is inf"),
        ("relative_similarity", {"margin": "wide"}, "relative_similarity cannot be made with margin='wide'"),
        ("sinkhorn", {"temperature": 0.0}, "temperature is 0.0; it must be a positive number"),
        ("sinkhorn", {"regularization": -1.0}, "regularization is -1.0; it must be a positive number"),
        ("sinkhorn", {"iterations": 0}, "iterations is 0; it must be a whole number, at least 1"),
        ("sinkhorn", {"iterations": 2.5}, "iterations is 2.5"),
        ("margin_mse", {"variant": "released"}, "variant of margin_mse"),
    ],
)
def test_options_out_of_range_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(KdzooError, match=message) as caught:
        kdzoo.create(name, **options)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", SCORES)
def test_one_logit_is_refused_before_and_during_training(name: str) -> None:
    shape = ModelShape(num_layers=2, hidden_size=8, num_heads=2, num_labels=1)
    with pytest.raises(KdzooError, match=f"{name} .* use ") as caught:
        loss_class(name).fit({}, feature="logits", student=shape, teacher=shape, layers=(), num_samples=None)
    with pytest.raises(KdzooError) as again:
        kdzoo.create(name)(torch.randn(4, 1), torch.randn(4, 1))
    assert str(again.value) == str(caught.value) and "\n" not in str(caught.value)
