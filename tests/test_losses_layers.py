"""What the conformance suite does not ask of the losses that pair layers themselves or relate them to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import linprog
from torch import Tensor

import kdzoo
from kdzoo import QKV, KdzooError
from kdzoo.baselines.bert_emd import cheapest_flow, transport
from kdzoo.errors import KdzooWarning
from kdzoo.losses.registry import loss_class
from kdzoo.models.layers import layer_map
from kdzoo.models.shape import ModelShape

BERT = ModelShape(num_layers=12, hidden_size=768, num_heads=12, num_labels=3)
SMALL = ModelShape(num_layers=4, hidden_size=312, num_heads=12, num_labels=3)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def layers(count: int, width: int = 8, rows: int = 3, positions: int = 5) -> Tensor:
    return torch.randn(rows, count, positions, width, dtype=torch.float64)


def fit(name: str, *, student: ModelShape = SMALL, feature: str = "hidden", mapped: Any = "all", **options: Any) -> Any:
    pairs = layer_map(mapped, student.num_layers, BERT.num_layers, feature)
    return loss_class(name).fit(options, feature=feature, student=student, teacher=BERT, layers=pairs, num_samples=None)


# ALP


def test_alp_takes_its_weights_with_or_without_their_gradient() -> None:
    student, teacher = layers(2).requires_grad_(), layers(3)
    through, held = kdzoo.create("alp"), kdzoo.create("alp", detach_weights=True)
    assert through(student, teacher) == held(student, teacher)
    weights = torch.einsum("bmsd,bnsd->bsmn", student, teacher).softmax(-1).detach()
    mixed = torch.einsum("bsmn,bnsd->bmsd", weights, teacher)
    (expected,) = torch.autograd.grad((student - mixed).square().mean((0, 2, 3)).sum(), student)
    (gradient,) = torch.autograd.grad(held(student, teacher), student)
    torch.testing.assert_close(gradient, expected)
    (other,) = torch.autograd.grad(through(student, teacher), student)
    assert not torch.allclose(other, expected)


# RAIL


def test_rail_draws_from_the_global_generator_and_keeps_the_order_of_the_layers() -> None:
    loss = kdzoo.create("rail", student_dim=8, teacher_dim=8).double()
    student, teacher = layers(2), layers(5)
    torch.manual_seed(3)
    values = [loss(student, teacher) for _ in range(40)]
    torch.manual_seed(3)
    assert [loss(student, teacher) for _ in range(40)] == values
    ordered = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    possible = {loss(student, teacher, drawn=pair).item() for pair in ordered}
    assert len(possible) == 10 and {value.item() for value in values} <= possible
    assert len({value.item() for value in values}) > 5


def test_rail_draws_once_an_epoch_where_it_is_told_the_epoch() -> None:
    torch.manual_seed(0)
    loss, other = (kdzoo.create("rail", student_dim=8, teacher_dim=8).double() for _ in range(2))
    student, teacher = layers(2), layers(5)
    values = [[loss(student, teacher, epoch=epoch).item() for _ in range(3)] for epoch in range(12)]
    assert all(len({*same}) == 1 for same in values), "within an epoch"
    assert len({same[0] for same in values}) > 3, "from one to the next"
    ordered = [(i, j) for i in range(5) for j in range(i + 1, 5)]
    possible = {loss(student, teacher, drawn=pair).item() for pair in ordered}
    assert {same[0] for same in values} <= possible
    other.load_state_dict(loss.state_dict())
    torch.manual_seed(1)
    assert [other(student, teacher, epoch=epoch).item() for epoch in range(12)] == [same[0] for same in values]


def test_rail_with_as_many_layers_on_both_sides_has_nothing_to_draw() -> None:
    loss = kdzoo.create("rail", student_dim=8, teacher_dim=8).double()
    student, teacher = layers(3), layers(3)
    assert loss(student, teacher) == loss(student, teacher) == loss(student, teacher, drawn=(0, 1, 2))


def test_rail_refuses_what_it_cannot_draw() -> None:
    loss = kdzoo.create("rail", student_dim=8, teacher_dim=8).double()
    with pytest.raises(KdzooError, match=r"student \(3, 4, 5, 8\) and teacher \(3, 2, 5, 8\) do not fit"):
        loss(layers(4), layers(2))
    with pytest.raises(KdzooError, match=r"drawn is \(0, 5\); it holds one index from 0 to 4 for each of 2"):
        loss(layers(2), layers(5), drawn=(0, 5))
    with pytest.raises(KdzooError, match="concatenated=True needs student_layers="):
        kdzoo.create("rail", student_dim=8, teacher_dim=8, concatenated=True)
    with pytest.raises(KdzooError, match="of which there are 12 to the teacher's 4; give layers="):
        loss_class("rail").fit(
            {},
            feature="hidden",
            student=BERT,
            teacher=SMALL,
            layers=tuple((i, j) for i in range(12) for j in range(4)),
            num_samples=None,
        )


def test_rail_fits_the_width_of_its_concatenated_layers() -> None:
    options = fit("rail", concatenated=True)
    assert options == {"concatenated": True, "student_dim": 312, "teacher_dim": 768, "student_layers": 4}
    assert kdzoo.create("rail", **options).embed_teacher.in_features == 4 * 768


# BERT-EMD


@pytest.mark.parametrize("seed", range(30))
def test_the_flow_is_the_cheapest(seed: int) -> None:
    rng = np.random.default_rng(seed)
    m, n = rng.integers(1, 9, size=2)
    # Ties, as integers make them, and layers that are all but without weight.
    costs = rng.integers(0, 3, (m, n)).astype(float) if seed % 3 == 0 else rng.random((m, n))
    supply, demand = (np.where(rng.random(size) < 0.2, 1e-12, rng.random(size) + 0.1) for size in (m, n))
    flow = cheapest_flow(costs, supply, demand)
    supply, demand = supply / supply.sum(), demand / demand.sum()
    assert (flow >= 0).all()
    np.testing.assert_allclose(flow.sum(1), supply, rtol=1e-3, atol=1e-15)
    np.testing.assert_allclose(flow.sum(0), demand, rtol=1e-3, atol=1e-15)
    sides = [np.kron(np.eye(m), np.ones(n)), np.kron(np.ones(m), np.eye(n))]
    solved = linprog(costs.ravel(), A_eq=np.vstack(sides)[:-1], b_eq=np.concatenate([supply, demand])[:-1])
    assert (flow * costs).sum() == pytest.approx(solved.fun, abs=1e-9)


def test_the_flow_of_a_diverged_student_ends_the_run_and_not_in_a_loop() -> None:
    loss = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3).double()
    assert loss(layers(2) * torch.nan, layers(3)).isnan()


def test_the_flow_is_a_well_made_operator() -> None:
    arguments = (torch.rand(3, 4), torch.rand(3) + 0.1, torch.rand(4) + 0.1)
    torch.library.opcheck(transport, arguments)


def test_bert_emd_gives_cheap_layers_weight_in_training_alone() -> None:
    student, teacher = layers(2), layers(3)
    loss = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3, temperature=2.0).double()
    costs = (student[:, :, None] - teacher[:, None]).square().mean((0, 3, 4))
    flow = torch.from_numpy(cheapest_flow(costs.numpy(), np.ones(2), np.ones(3)))
    loss.eval()(student, teacher)
    assert torch.equal(loss.student_weights, torch.full((2,), 1 / 2).double())
    loss.train()(student, teacher)
    for weights, spent in (
        (loss.student_weights, (flow * costs).sum(1)),
        (loss.teacher_weights, (flow * costs).sum(0)),
    ):
        unit_costs = spent * len(spent)
        expected = (unit_costs.sum() / unit_costs / 2.0).softmax(0)
        torch.testing.assert_close(weights, expected, rtol=1e-6, atol=0)
    fixed = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3, update_weights=False).double()
    fixed(student, teacher)
    assert torch.equal(fixed.teacher_weights, torch.full((3,), 1 / 3).double())


@pytest.mark.parametrize("variant", ["paper", "released"])
def test_bert_emd_stays_finite_where_layers_agree(variant: str) -> None:
    student = layers(3).requires_grad_()
    loss = kdzoo.create("bert_emd", student_layers=3, teacher_layers=3, variant=variant).double()
    for teacher in (student.detach(), torch.cat([student[:, :1].detach(), layers(2)], 1), layers(3)):
        for _ in range(3):
            value = loss(student, teacher)
            (gradient,) = torch.autograd.grad(value, student)
            assert value.isfinite() and gradient.isfinite().all()
            assert (loss.student_weights > 0).all() and (loss.teacher_weights > 0).all()


def test_bert_emd_counts_only_the_pairs_of_a_window() -> None:
    student, teacher = (
        QKV(*(torch.randn(2, count, 2, 4, 3, dtype=torch.float64) for _ in range(3))) for count in (1, 1)
    )
    window = torch.ones(2, 4, 4).tril(1).triu(-1).bool()
    scores = [side.query @ side.key.mT / 3**0.5 for side in (student, teacher)]
    expected = (scores[0] - scores[1])[:, 0].transpose(0, 1)[:, window].square().mean()
    loss = kdzoo.create("bert_emd", student_layers=1, teacher_layers=1)
    torch.testing.assert_close(loss(student, teacher, mask=window), expected)


def test_bert_emd_without_numbers_of_layers_weighs_any_of_them_equally_at_every_step() -> None:
    free = kdzoo.create("bert_emd")
    assert not free.state_dict()
    for own, other in ((2, 3), (4, 4)):
        student, teacher = torch.randn(3, own, 5, 8), torch.randn(3, other, 5, 8)
        first = kdzoo.create("bert_emd", student_layers=own, teacher_layers=other)(student, teacher)
        assert [free(student, teacher).item() for _ in range(3)] == pytest.approx([first.item()] * 3)
    heads = [QKV(*(torch.randn(3, layers, 2, 5, 4) for _ in range(3))) for layers in (2, 3)]
    first = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3)(*heads)
    assert free(*heads).item() == pytest.approx(first.item())


def test_bert_emd_takes_both_numbers_of_layers_or_neither() -> None:
    with pytest.raises(KdzooError, match="bert_emd: give both student_layers and teacher_layers, or neither"):
        kdzoo.create("bert_emd", student_layers=2)
    with pytest.raises(KdzooError, match="student_layers is 0; it must be a whole number"):
        kdzoo.create("bert_emd", student_layers=0, teacher_layers=3)


def test_bert_emd_refuses_other_layers_and_heads() -> None:
    loss = kdzoo.create("bert_emd", student_layers=2, teacher_layers=3)
    with pytest.raises(KdzooError, match=r"\(3, 4, 5, 8\) do not fit student_layers=2, teacher_layers=3"):
        loss(layers(2), layers(4))
    with pytest.raises(KdzooError, match="compares heads one by one; the student has 6 and the teacher 12"):
        fit("bert_emd", feature="qkv", student=ModelShape(4, 312, 6, 3))
    with pytest.raises(
        KdzooError, match="and the student shows its attention scores only; take it on the hidden states"
    ):
        fit("bert_emd", feature="qkv", student=ModelShape(4, 312, 12, 3, shows_qkv=False))
    assert fit("bert_emd") == {"student_layers": 4, "teacher_layers": 12, "student_dim": 312, "teacher_dim": 768}


# SRRL


def test_srrl_needs_the_head_and_leaves_it_untrained() -> None:
    student, teacher = torch.randn(4, 8, requires_grad=True), torch.randn(4, 8)
    with pytest.raises(KdzooError, match="srrl needs teacher_head="):
        kdzoo.create("srrl")(student, teacher)
    head = torch.nn.Linear(8, 3)
    value = kdzoo.create("srrl", alpha=0.0)(student, teacher, teacher_head=head)
    value.backward()
    assert head.weight.grad is None and student.grad is not None and student.grad.any()
    torch.testing.assert_close(value, (head(student) - head(teacher)).square().sum(1).mean())


def test_srrl_runs_the_head_in_its_own_precision() -> None:
    student, teacher = torch.randn(2, 4, 8)
    head = torch.nn.Linear(8, 3).requires_grad_(False)
    value = kdzoo.create("srrl")(student, teacher, teacher_head=head)
    half = kdzoo.create("srrl")(student.bfloat16(), teacher.bfloat16(), teacher_head=head.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, value, rtol=0.05, atol=0.05)


# CKD


def test_ckd_compares_models_of_any_width() -> None:
    student = layers(3, width=4).requires_grad_()
    loss = kdzoo.create("ckd")
    loss(student, layers(3, width=9)).backward()
    assert student.grad is not None and student.grad.abs().sum() > 0
    # Relations do not change when all states turn, move and grow together, but for the cosines.
    turn = torch.linalg.qr(torch.randn(4, 4, dtype=torch.float64)).Q
    angles = kdzoo.create("ckd", word_pair=0.0, layer_pair=0.0)
    assert angles(3 * student @ turn + 1, student.detach()) < 1e-20


def test_ckd_is_finite_where_states_coincide() -> None:
    student = layers(3).requires_grad_()
    repeated = student[:, :, [0, 0, 1, 1, 1]][:, [0, 0, 1]]
    value = kdzoo.create("ckd")(repeated, layers(3))
    value.backward()
    assert value.isfinite() and student.grad is not None and student.grad.isfinite().all()


def test_ckd_makes_no_angle_in_a_window_of_one() -> None:
    loss = kdzoo.create("ckd", word_pair=0.0, layer_pair=0.0, layer_angle=0.0, window=1)
    assert loss(layers(2), layers(2)) == 0


def test_ckd_refuses_and_warns() -> None:
    with pytest.raises(KdzooError, match="window is 4; it must be odd"):
        kdzoo.create("ckd", window=4)
    with pytest.raises(KdzooError, match=r"must be hidden states of several layers, \(B, M, S, D\)"):
        kdzoo.create("ckd")(layers(1)[:, 0], layers(1)[:, 0])
    with pytest.warns(KdzooWarning, match="2 mapped layers have next to no relations among them"):
        fit("ckd", mapped="uniform[:2]")
    fit("ckd", mapped="uniform[:2]", layer_pair=0.0, layer_angle=0.0)
    fit("ckd", mapped="uniform0")


# CoDIR


def codir(**options: Any) -> Any:
    return kdzoo.create("codir", num_samples=50, student_dim=8, teacher_dim=8, num_layers=2, **options).double()


def test_codir_draws_no_row_that_it_knows_to_be_of_the_same_class() -> None:
    loss, labels = codir(num_negatives=2000), torch.arange(50) % 3
    loss._learn_labels(labels[:40], torch.arange(40))
    for label in range(3):
        drawn = loss._draw(torch.tensor([label]))[0].unique()
        allowed = [row for row in range(50) if row >= 40 or labels[row] != label]
        assert drawn.tolist() == allowed
    loss._learn_labels(torch.zeros(50, dtype=torch.long), torch.arange(50))
    assert len(loss._draw(torch.tensor([0]))[0].unique()) == 50


def test_codir_learns_labels_and_banks_in_training_alone() -> None:
    loss, ids = codir(), torch.tensor([7, 3, 11])
    given = {"labels": torch.tensor([1, 0, 2]), "sample_ids": ids}
    before = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss.eval()(layers(2), layers(2), **given)
    assert all(torch.equal(buffer, before[name]) for name, buffer in loss.named_buffers())
    loss.train()(layers(2), layers(2), **given)
    assert loss.label_bank[ids].tolist() == [1, 0, 2] and (loss.label_bank >= 0).sum() == 3
    changed = (loss.student_bank != before["student_bank"]).any(1).nonzero().flatten()
    assert changed.tolist() == [3, 7, 11]


@pytest.mark.parametrize("ids", [torch.arange(2), torch.tensor([0, 1, 50]), torch.tensor([0, 1, -1]), torch.rand(3)])
def test_codir_keeps_nothing_of_rows_that_it_refuses(ids: Tensor) -> None:
    loss = codir()
    with pytest.raises(KdzooError, match="sample_ids"):
        loss(layers(2), layers(2), labels=torch.tensor([1, 0, 1]), sample_ids=ids)
    assert (loss.label_bank == -1).all()


def test_codir_draws_in_one_compiled_graph() -> None:
    loss = codir()
    compiled = torch.compile(loss, fullgraph=True, backend="eager")
    value = compiled(layers(2), layers(2), labels=torch.tensor([1, 0, 1]), sample_ids=torch.arange(3))
    assert value.isfinite() and loss.label_bank[:3].tolist() == [1, 0, 1]


def test_codir_refuses_what_has_no_classes() -> None:
    with pytest.raises(KdzooError, match="a one-logit task has none; use crd or info_nce"):
        fit("codir", student=ModelShape(4, 312, 12, 1))
    with pytest.raises(KdzooError, match=r"must be .* classes, as integers; a regression task has no other classes"):
        codir()(layers(2), layers(2), labels=torch.rand(3), sample_ids=torch.arange(3))
    with pytest.raises(KdzooError, match="unknown anchor of codir 'techer'; did you mean 'teacher'"):
        codir(anchor="techer")
    with pytest.raises(KdzooError, match="do not fit num_layers=2, student_dim=8, teacher_dim=8"):
        codir()(layers(3), layers(3), labels=torch.arange(3), sample_ids=torch.arange(3))
