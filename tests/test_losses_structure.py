"""Losses on the structure between rows, tokens and spans: what the conformance suite does not try."""

from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch

import kdzoo
from kdzoo import KdzooError
from kdzoo.losses.registry import loss_class
from kdzoo.models.shape import ModelShape
from kdzoo.objectives.recipe import Recipe
from kdzoo.objectives.registry import recipe_factory

BETWEEN_ROWS = ("rkd_distance", "rkd_angle", "sp", "pkt", "cc", "cka")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def expected(name: str, student: torch.Tensor, teacher: torch.Tensor, mask: torch.Tensor | None = None, **options):
    reference = importlib.import_module(f"references.{name}").reference
    return reference(student.numpy(), teacher.numpy(), mask=None if mask is None else mask.numpy() != 0, **options)


@pytest.mark.parametrize("name", [*BETWEEN_ROWS, "nst"])
def test_the_widths_may_differ_without_a_projection(name: str) -> None:
    student, teacher = torch.randn(4, 5, 3).double(), torch.randn(4, 5, 8).double()
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 1, 0, 1], [1, 1, 1, 1, 0]])
    loss = kdzoo.create(name)
    assert not list(loss.parameters())
    assert loss(student, teacher, mask=mask).item() == pytest.approx(expected(name, student, teacher, mask), rel=1e-9)


@pytest.mark.parametrize("name", [*BETWEEN_ROWS, "nst"])
def test_models_of_unequal_widths_are_not_refused(name: str) -> None:
    shapes = [ModelShape(num_layers=2, hidden_size=size, num_heads=2, num_labels=2) for size in (16, 24)]
    kind = loss_class(name)
    options = kind.fit(
        {}, feature=kind.features[0], student=shapes[0], teacher=shapes[1], layers=((2, 2),), num_samples=None
    )
    assert options == {}


@pytest.mark.parametrize("name", BETWEEN_ROWS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_in_the_student_have_a_finite_gradient(name: str, dtype: torch.dtype) -> None:
    student, teacher = 100 + torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 9, dtype=torch.float64)
    student[3], student[5] = student[0], student[4]
    student = student.to(dtype).requires_grad_()
    value = kdzoo.create(name)(student, teacher.to(dtype))
    value.backward()
    tolerance = 1e-9 if dtype == torch.float64 else 1e-3
    assert value.item() == pytest.approx(expected(name, student.detach().double(), teacher), rel=tolerance, abs=1e-5)
    assert student.grad is not None and student.grad.abs().max() < 10


def test_rows_that_differ_by_rounding_alone_count_as_one() -> None:
    base, teacher = torch.randn(8, 64), torch.randn(16, 32)
    nearly = torch.cat([base, base * (1 + 2e-7 * torch.rand_like(base))])
    assert not torch.equal(nearly[:8], nearly[8:])
    results = []
    for student in (torch.cat([base, base]), nearly):
        student.requires_grad_()
        value = kdzoo.create("rkd_angle")(student, teacher)
        results.append((value, *torch.autograd.grad(value, student)))
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-6)


def test_the_angles_do_not_depend_on_how_many_vertices_are_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    student, teacher = torch.randn(7, 4).double().requires_grad_(), torch.randn(7, 6).double()
    results = []
    for chunk in (1, 2 * 2 * 7, 3 * 3 * 7, 10**6):
        monkeypatch.setattr("kdzoo.kernels.gram.angle.BLOCK", chunk)
        value = kdzoo.create("rkd_angle")(student, teacher)
        results.append((value, *torch.autograd.grad(value, student)))
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_the_angles_hold_no_tensor_of_all_triplets() -> None:
    rows = 96
    student, teacher = torch.randn(rows, 4, requires_grad=True), torch.randn(rows, 4)
    kept: list[int] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        kdzoo.create("rkd_angle")(student, teacher).backward()
    assert max(kept) <= rows**2


def test_angles_and_distances_do_not_change_with_the_unit_or_the_place() -> None:
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 4).double()
    for name in ("rkd_distance", "rkd_angle", "cka"):
        loss = kdzoo.create(name)
        assert loss(3 * student + 2, teacher).item() == pytest.approx(loss(student, teacher).item(), rel=1e-9)


def test_rows_all_alike_have_no_alignment() -> None:
    loss = kdzoo.create("cka")
    student = torch.full((5, 4), 0.1, requires_grad=True)
    value = loss(student, torch.randn(5, 4))
    value.backward()
    assert value.item() == 1.0 and not student.grad.any()


def test_the_congruence_of_a_high_order_is_that_of_the_gaussian_kernel() -> None:
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 6).double()
    kernels = []
    for side in (student, teacher):
        side = side / side.norm(dim=-1, keepdim=True)
        kernels.append(torch.exp(-0.4 * torch.cdist(side, side) ** 2))
    loss = kdzoo.create("cc", order=20)
    assert loss(student, teacher).item() == pytest.approx((kernels[0] - kernels[1]).square().mean().item(), rel=1e-9)


def test_neighbours_are_summed_over_rows_or_averaged_over_all() -> None:
    student, teacher = torch.randn(5, 4).double(), torch.randn(5, 6).double()
    paper, released = (kdzoo.create("pkt", variant=variant)(student, teacher) for variant in ("paper", "released"))
    assert paper.item() == pytest.approx(5 * released.item(), rel=1e-6)


def spans_of(length: int, size: int) -> torch.Tensor:
    first = torch.arange(0, length, size)
    return torch.stack([first, first + size], dim=-1)


def test_spans_that_are_not_given_are_pieces_of_the_text() -> None:
    student, teacher = torch.randn(3, 9, 4).double(), torch.randn(3, 9, 4).double()
    loss = kdzoo.create("mgskd", span_length=2)
    given = loss(student, teacher, spans=spans_of(9, 2).expand(3, -1, -1))
    assert given.item() == loss(student, teacher).item()
    assert given.item() != loss(student, teacher, spans=spans_of(9, 3).expand(3, -1, -1)).item()


def test_two_spans_in_a_row_are_too_few() -> None:
    student, teacher = torch.randn(3, 9, 4).double(), torch.randn(3, 9, 4).double()
    without = kdzoo.create("mgskd", span_weight=0.0)(student, teacher)
    for count in (0, 2):
        few = kdzoo.create("mgskd")(student, teacher, spans=spans_of(9, 3)[:count].expand(3, -1, -1))
        assert few.item() == without.item()


def test_structure_leaves_its_inputs_as_they_are() -> None:
    student, teacher = torch.randn(3, 4, 9, 4), torch.randn(3, 4, 9, 4)
    copies = student.clone(), teacher.clone()
    kdzoo.create("mgskd")(student, teacher, mask=torch.arange(9) < torch.tensor([[9], [5], [3]]))
    assert torch.equal(student, copies[0]) and torch.equal(teacher, copies[1])


@pytest.mark.parametrize("width, heads", [(768, 64), (1024, 64), (312, 52), (32, 16), (7, 1), (1, 1)])
def test_the_width_is_split_into_as_many_as_64_heads(width: int, heads: int) -> None:
    student, teacher = torch.randn(2, 5, width), torch.randn(2, 5, width)
    chosen, named = (kdzoo.create("mgskd", **given)(student, teacher) for given in ({}, {"relation_heads": heads}))
    assert chosen.item() == named.item()


def test_half_of_the_mapped_layers_are_compared_by_tokens() -> None:
    shape = ModelShape(num_layers=6, hidden_size=24, num_heads=2, num_labels=2)
    kind = loss_class("mgskd")
    for depth, expected_layers in ((6, 3), (5, 2), (1, 1)):
        pairs = tuple((i, i) for i in range(1, depth + 1))
        options = kind.fit({}, feature="hidden", student=shape, teacher=shape, layers=pairs, num_samples=None)
        assert options["token_layers"] == expected_layers


HIDDEN = (2, 5, 12)


@pytest.mark.parametrize(
    "options, extras, message",
    [
        ({"relation_heads": 5}, {}, "do not divide the teacher's width 12; take one of 1, 2, 3, 4, 6, 12"),
        ({"k1": 0}, {}, "k1 is 0"),
        ({"token_layers": -1}, {}, "token_layers is -1"),
        ({"span_weight": float("inf")}, {}, "span_weight is inf"),
        (
            {},
            {"spans": torch.zeros(2, 3)},
            r"spans \(2, 3\) of torch.float32 do not fit; they are integers \(2, N, 2\)",
        ),
        ({}, {"spans": torch.zeros(1, 3, 2, dtype=torch.long)}, r"spans \(1, 3, 2\)"),
    ],
)
def test_structure_says_what_does_not_fit(options: dict, extras: dict, message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        kdzoo.create("mgskd", **options)(torch.randn(HIDDEN), torch.randn(HIDDEN), **extras)


@pytest.mark.parametrize("name", ["nst", "mgskd"])
def test_vectors_without_positions_are_refused(name: str) -> None:
    with pytest.raises(KdzooError, match=r"\(B, S, D\) or \(B, M, S, D\)"):
        kdzoo.create(name)(torch.randn(4, 8), torch.randn(4, 8))


@pytest.mark.parametrize("options, message", [({"gamma": 0.0}, "gamma is 0.0"), ({"order": 0}, "order is 0")])
def test_the_congruence_says_what_is_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        kdzoo.create("cc", **options)


def weights(recipe: Recipe, stage: int) -> dict[str, object]:
    return {term.name or term.loss: term.weight for term in recipe.stages[stage].terms}


def test_the_recipes_are_as_published() -> None:
    rkd, mgskd = recipe_factory("rkd")(), recipe_factory("mgskd")()
    assert weights(rkd, 0) == {"ce": 1.0, "rkd_distance": 25.0, "rkd_angle": 50.0}
    assert [list(weights(mgskd, stage)) for stage in (0, 1)] == [["mgskd_embedding", "mgskd"], ["kd"]]
    assert np.isclose(sum(stage.fraction for stage in mgskd.stages), 1)
