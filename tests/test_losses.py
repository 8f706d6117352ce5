"""What single losses do beyond the conformance suite: known values, CRD's banks, what is refused and how."""

from __future__ import annotations

import math
import sys
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import kdzoo
from kdzoo import QKV, KdzooError
from kdzoo.losses import base
from kdzoo.losses.registry import loss_class
from kdzoo.models.masks import checked_mask
from kdzoo.models.shape import ModelShape


def crd(**options: Any) -> kdzoo.DistillationLoss:
    torch.manual_seed(0)
    defaults = {"num_samples": 20, "feature_dim": 4, "num_negatives": 6, "student_dim": 3, "teacher_dim": 5}
    return kdzoo.create("crd", **{**defaults, **options}).double()


def batch(rows: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(rows, d, generator=generator, dtype=torch.float64) for d in (3, 5))  # type: ignore


# Values worked out by hand


def test_kd_sums_over_classes_and_averages_over_rows() -> None:
    student, teacher = torch.zeros(4, 2), torch.tensor([[math.log(3), 0.0]]).repeat(4, 1)
    divergence = 0.75 * math.log(0.75 / 0.5) + 0.25 * math.log(0.25 / 0.5)
    assert kdzoo.create("kd")(student, teacher).item() == pytest.approx(divergence, rel=1e-6)
    assert kdzoo.create("kd", temperature=2.0)(student, 2 * teacher).item() == pytest.approx(4 * divergence, rel=1e-6)


def test_cos_nce_of_orthogonal_rows() -> None:
    """Own teacher at cosine 1 and the only other one at 0: 2 - 1.5; exchanged: 2 + 0.5."""
    vectors = torch.eye(2)
    assert kdzoo.create("cos_nce")(vectors, vectors).item() == pytest.approx(0.5)
    assert kdzoo.create("cos_nce")(vectors, vectors.flip(0)).item() == pytest.approx(2.5)
    assert kdzoo.create("cos_nce")(vectors[:1], vectors[:1]).item() == pytest.approx(0.5)


def test_info_nce_of_identical_rows_is_the_logarithm_of_their_number() -> None:
    vectors = torch.ones(5, 3)
    assert kdzoo.create("info_nce")(vectors, vectors).item() == pytest.approx(math.log(5), rel=1e-5)
    assert kdzoo.create("info_nce")(vectors[:1], vectors[:1]).item() == 0
    assert kdzoo.create("info_nce", symmetric=True)(vectors, vectors).item() == pytest.approx(2 * math.log(5))
    queued = kdzoo.create("info_nce")(vectors, vectors, queue=torch.ones(3, 3))
    assert queued.item() == pytest.approx(math.log(8), rel=1e-5)


@pytest.mark.parametrize(("variant", "value"), [("paper", 2.0), ("released", 0.5)])
def test_pkd_of_orthogonal_states(variant: str, value: float) -> None:
    student, teacher = torch.eye(4)[:2].expand(3, 2, 4), 7 * torch.eye(4)[2:].expand(3, 2, 4)
    assert kdzoo.create("pkd", variant=variant)(student, teacher).item() == pytest.approx(value)


def test_attention_mse_as_released_counts_what_it_zeroes() -> None:
    """One head, two positions of which one is padding, scores 3 apart where neither is at or under -100."""
    student, teacher = torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 3.0)
    teacher[..., 0, 0] = -100.0
    mask = torch.tensor([[1, 0]])
    released = kdzoo.create("attention_mse", variant="released")
    assert released(student, teacher).item() == pytest.approx(27 / 4)
    assert released(student, teacher, mask=mask).item() == pytest.approx(9 / 4)
    assert kdzoo.create("attention_mse")(student, teacher, mask=mask).item() == pytest.approx(10000.0)


def test_attention_takes_a_matrix_of_visible_keys() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    mask = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]])
    visible = mask[:, :, None] & mask[:, None, :]
    for name in ("attention_kl", "attention_mse"):
        loss = kdzoo.create(name)
        assert loss(student, teacher, mask=visible) == loss(student, teacher, mask=mask)


def test_ce_on_one_logit_is_the_squared_error_to_the_label() -> None:
    logits = torch.tensor([[1.0], [4.0]])
    assert kdzoo.create("ce")(logits, labels=torch.tensor([2.0, 2.0])).item() == pytest.approx(2.5)
    assert kdzoo.create("ce")(logits, labels=torch.tensor([2, 2])).item() == pytest.approx(2.5)


# Cost


def test_cos_nce_makes_no_matrix_of_rows_by_rows() -> None:
    rows, width = 300, 8
    sizes: list[int] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            tensors = result if isinstance(result, tuple) else (result,)
            sizes.extend(tensor.numel() for tensor in tensors if isinstance(tensor, Tensor))
            return result

    student, teacher = torch.randn(rows, width, requires_grad=True), torch.randn(rows, width)
    loss = kdzoo.create("cos_nce")
    with Watch():
        loss(student, teacher).backward()
    assert max(sizes) == rows * width


# CRD's banks


def test_crd_updates_its_banks_after_scoring() -> None:
    loss, (student, teacher), ids = crd(momentum=0.25), batch(4), torch.tensor([3, 7, 1, 12])
    old = {name: buffer.clone() for name, buffer in loss.named_buffers()}
    loss(student, teacher, sample_ids=ids)
    for side, vectors in (("student", student), ("teacher", teacher)):
        new = torch.nn.functional.normalize(getattr(loss, f"embed_{side}")(vectors), dim=-1)
        bank = old[f"{side}_bank"].clone()
        bank[ids] = torch.nn.functional.normalize(0.25 * bank[ids] + 0.75 * new, dim=-1)
        torch.testing.assert_close(getattr(loss, f"{side}_bank"), bank)


def test_crd_leaves_banks_and_constants_alone_in_evaluation() -> None:
    loss, (student, teacher) = crd().eval(), batch(4)
    before = {name: tensor.clone() for name, tensor in loss.state_dict().items()}
    loss(student, teacher, sample_ids=torch.arange(4))
    for name, tensor in loss.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_crd_fixes_z_at_the_first_batch() -> None:
    loss = crd()
    loss(*batch(4), sample_ids=torch.arange(4))
    first = loss.z_student.item(), loss.z_teacher.item()
    loss(*batch(4, seed=1), sample_ids=torch.arange(4))
    assert (loss.z_student.item(), loss.z_teacher.item()) == first
    assert min(first) > 0


def test_crd_keeps_the_last_of_two_rows_with_one_id() -> None:
    student, teacher = batch(3)
    ids, negatives = torch.tensor([5, 5, 2]), torch.zeros(3, 6, dtype=torch.long)
    twice, once = crd(), crd()
    twice(student, teacher, sample_ids=ids, contrast_ids=negatives)
    once(student[1:], teacher[1:], sample_ids=ids[1:], contrast_ids=negatives[1:])
    torch.testing.assert_close(twice.student_bank, once.student_bank)
    torch.testing.assert_close(twice.teacher_bank, once.teacher_bank)


def test_crd_takes_the_authors_contrast_ids_with_the_row_itself_first() -> None:
    (student, teacher), ids = batch(4), torch.tensor([3, 7, 1, 12])
    negatives = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))
    alone = crd()(student, teacher, sample_ids=ids, contrast_ids=negatives)
    with_own = torch.cat([ids[:, None], negatives], dim=1)
    assert crd()(student, teacher, sample_ids=ids, contrast_ids=with_own) == alone


def test_crd_scores_alike_by_products_and_by_gathering() -> None:
    """Four rows of six draws meet the bank of 20 whole; two rows at a time gather from it."""
    (student, teacher), ids = batch(4), torch.arange(4)
    negatives = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))
    loss = crd()
    loss(student, teacher, sample_ids=ids)
    loss.eval()

    def run(rows: slice) -> tuple[Tensor, Tensor]:
        vectors = student.clone().requires_grad_()
        value = loss(vectors[rows], teacher[rows], sample_ids=ids[rows], contrast_ids=negatives[rows])
        return value, torch.autograd.grad(value, vectors)[0]

    whole, halves = run(slice(4)), [run(slice(2)), run(slice(2, 4))]
    for a, b, c in zip(whole, *halves, strict=True):
        torch.testing.assert_close(a, (b + c) / 2)


def test_crd_draws_its_own_negatives() -> None:
    student, teacher = batch(4)
    drawn = []
    for seed in (0, 0, 1):
        loss = crd()
        torch.manual_seed(seed)
        drawn.append(loss(student, teacher, sample_ids=torch.arange(4)).item())
    assert drawn[0] == drawn[1] != drawn[2]


def test_crd_backward_sees_the_bank_that_was_scored() -> None:
    """Two batches before one backward give the gradients of the two one by one."""
    negatives = torch.randint(20, (4, 6), generator=torch.Generator().manual_seed(0))
    calls = [(batch(4, seed), torch.arange(4) + seed) for seed in (0, 1)]

    def run(together: bool) -> Tensor:
        loss = crd()
        values = []
        for (student, teacher), ids in calls:
            value = loss(student, teacher, sample_ids=ids, contrast_ids=negatives)
            if together:
                values.append(value)
            else:
                value.backward()
        if together:
            sum(values).backward()
        return loss.embed_student.weight.grad

    torch.testing.assert_close(run(together=True), run(together=False))


def test_crd_queue_goes_round() -> None:
    loss, (student, teacher) = crd(bank="queue", num_samples=6), batch(4)
    start = loss.student_bank.clone()
    loss(student, teacher)
    new = torch.nn.functional.normalize(loss.embed_student(student), dim=-1)
    torch.testing.assert_close(loss.student_bank, torch.cat([new, start[4:]]))
    loss(student, teacher)
    torch.testing.assert_close(loss.student_bank, torch.cat([new[2:], new[2:], new[:2]]))


def test_crd_banks_are_saved_and_bounded() -> None:
    loss = crd()
    assert {"student_bank", "teacher_bank", "z_student", "z_teacher"} <= loss.state_dict().keys()
    bound = math.sqrt(3 / 4)
    assert loss.student_bank.abs().max() <= bound < 1.2 * loss.student_bank.abs().max()
    assert loss_class("crd").bank_bytes(1000, 128) == 2 * 1000 * 128 * 4


def test_crd_compiles_with_drawn_negatives() -> None:
    student, teacher = batch(4)
    torch._dynamo.reset()
    loss = torch.compile(crd(), fullgraph=True, backend="eager")
    assert loss(student, teacher, sample_ids=torch.arange(4)).isfinite()


# What is refused


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("cos_nc", {}, "did you mean 'cos_nce'"),
        ("COS-NCE", {}, "did you mean 'cos_nce'?"),
        ("cka_los", {}, "did you mean 'cka'?"),
        ("mse", {}, "did you mean 'attention_mse' or 'embedding_mse' or 'hidden_mse' or 'logit_mse'"),
        ("rkd", {}, "'rkd' is a recipe, kdzoo.Recipe.load('rkd'); the losses it adds up are"),
        ("rkd_", {}, "did you mean 'rkd_angle' or 'rkd_distance'?"),
        ("kd", {"temprature": 2.0}, "did you mean 'temperature'"),
        ("kd", {"temperature": 0.0}, "temperature is 0.0; it must be a positive number"),
        ("kd", {"temperature": math.nan}, "must be a positive number"),
        ("kd", {"temperature": True}, "temperature is True; it must be a positive number"),
        ("kd", {"temperature": "2"}, "temperature is '2'; it must be a positive number"),
        ("info_nce", {"temperature": torch.ones(2)}, "temperature is a tensor (2,); it must be one"),
        ("soft_ce", {"temperature": torch.nn.Parameter(torch.ones(()))}, "it is not learned; give a number"),
        ("minilmv2", {"relation_heads": 2.5}, "relation_heads is 2.5; it must be a whole number, at least 1"),
        ("crd", {"num_samples": 2.5, "student_dim": 3, "teacher_dim": 3}, "num_samples is 2.5; it must be a whole"),
        ("pkd", {"variant": "relased"}, "did you mean 'released'"),
        ("kd", {"variant": "released"}, "unknown variant of kd 'released'"),
        ("cosine", {"student_dim": 0, "teacher_dim": 4}, "must be a whole number, at least 1"),
        ("crd", {"num_samples": 5}, "student_dim= and teacher_dim="),
        ("crd", {"student_dim": 3, "teacher_dim": 3}, "needs num_samples="),
        ("crd", {"num_samples": 5, "student_dim": 3, "teacher_dim": 3, "momentum": 1.5}, "must be from 0 to 1"),
        ("crd", {"num_samples": 5, "student_dim": 3, "teacher_dim": 3, "bank": "que"}, "did you mean 'queue'"),
        ("crd", {"num_samples": 0, "student_dim": 3, "teacher_dim": 3}, "num_samples is 0"),
    ],
)
def test_options_are_checked(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(KdzooError) as error:
        kdzoo.create(name, **options)
    assert words in str(error.value)


def test_a_recipe_is_known_where_the_losses_alone_are_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "kdzoo.objectives.recipe", None)
    with pytest.raises(KdzooError, match=r"^'tinybert' is a recipe, kdzoo.Recipe.load\('tinybert'\)$"):
        kdzoo.create("tinybert")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({}, "crd needs sample_ids= (B,)"),
        ({"sample_ids": torch.arange(3)}, "sample_ids (3,) must be (4,)"),
        ({"sample_ids": torch.tensor([0, 1, 2, 20])}, "sample_ids has 20; with num_samples=20 it is 0 to 19"),
        ({"sample_ids": torch.arange(4) - 1}, "sample_ids has -1"),
        ({"sample_ids": torch.rand(4)}, "sample_ids are integers"),
        ({"sample_ids": torch.arange(4), "contrast_ids": torch.zeros(4, 5).long()}, "must be (4, 6)"),
        ({"sample_ids": torch.arange(4), "contrast_ids": torch.full((4, 6), 99)}, "contrast_ids has 99"),
        ({"sample_ids": torch.arange(4), "contrast_ids": torch.ones(4, 7).long()}, "has 1 first in row 0, which is"),
        ({"sample_ids": torch.arange(4), "mask": torch.ones(4, 3)}, "without a mask"),
    ],
)
def test_crd_checks_its_ids(given: dict[str, Tensor], words: str) -> None:
    with pytest.raises(KdzooError) as error:
        crd()(*batch(4), **given)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0, 3]), "label 3 is out of range; with 3 classes it is 0 to 2"),
        (torch.tensor([-1, 0]), "label -1 is out of range"),
        (torch.tensor([0.5, 1.0]), "labels of 3 classes must be integers"),
        (torch.tensor([0, 1, 2]), "labels (3,) do not fit logits (2, 3)"),
    ],
)
def test_ce_checks_its_labels(labels: Tensor, words: str) -> None:
    with pytest.raises(KdzooError) as error:
        kdzoo.create("ce")(torch.zeros(2, 3), labels=labels)
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["ce", "dkd", "mlm"])
def test_labels_of_another_shape_are_refused(name: str) -> None:
    logits, labels = torch.randn(5, 6, 4), torch.randint(4, (5, 6))
    loss = kdzoo.create(name)
    value = loss(logits, logits, labels=labels)
    for fits in (labels.unsqueeze(-1), labels.flatten()):
        assert torch.equal(loss(logits, logits, labels=fits), value)
    for other in (labels.T, labels[:, :5], labels.reshape(3, 10)):
        with pytest.raises(KdzooError, match=rf"{name}: labels .* do not fit logits \(5, 6, 4\)"):
            loss(logits, logits, labels=other)


@pytest.mark.parametrize("name", ["attention_kl", "attention_mse"])
def test_unequal_heads_are_named(name: str) -> None:
    student, teacher = (QKV(*(torch.zeros(2, heads, 5, 8) for _ in range(3))) for heads in (4, 12))
    with pytest.raises(KdzooError, match="the student has 4 attention heads and the teacher 12"):
        kdzoo.create(name)(student, teacher)
    shapes = [ModelShape(num_layers=2, hidden_size=48, num_heads=heads, num_labels=2) for heads in (4, 12)]
    with pytest.raises(KdzooError, match="the student has 4 and the teacher 12"):
        loss_class(name).fit({}, feature="qkv", student=shapes[0], teacher=shapes[1], num_samples=None)


@pytest.mark.parametrize("name", ["attention_mse", "attention_kl", "attention_ce"])
def test_scores_will_do_of_a_model_that_hides_its_queries(name: str) -> None:
    shape = ModelShape(num_layers=2, hidden_size=48, num_heads=4, num_labels=2)
    hidden = ModelShape(num_layers=2, hidden_size=48, num_heads=4, num_labels=2, shows_qkv=False)
    assert loss_class(name).fit({}, feature="qkv", student=shape, teacher=hidden, num_samples=None) == {}


ATTENTION = QKV(*torch.randn(3, 2, 3, 5, 4))
NESTED = torch.nested.nested_tensor([torch.ones(2, 3), torch.ones(1, 3)], layout=torch.jagged)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda: kdzoo.create("pkd")(torch.ones(2, 3, 4), torch.ones(2, 3, 4), mask=torch.ones(2, 3)),
            "without a mask",
        ),
        (lambda: kdzoo.create("kd")(torch.ones(2, 3).long(), torch.ones(2, 3)), "floating-point tensors"),
        (
            lambda: kdzoo.create("kd")(torch.ones(2, 3).to(torch.float8_e4m3fn), torch.ones(2, 3)),
            "got torch.float8_e4m3fn of shape (2, 3); make it bfloat16",
        ),
        (lambda: kdzoo.create("kd")(torch.ones(2, 3).to_sparse(), torch.ones(2, 3)), "got a tensor of layout torch.sp"),
        (
            lambda: kdzoo.create("hidden_mse")(torch.ones(2, 3), NESTED),
            "takes dense tensors, with a mask where rows are",
        ),
        (lambda: kdzoo.create("kd")([1.0], torch.ones(2, 3)), "kd takes tensors, got list"),
        (lambda: kdzoo.create("kd")(torch.tensor(1.0), torch.ones(2, 3)), "of rows, got torch.float32 of shape ()"),
        (lambda: kdzoo.create("hidden_mse")(ATTENTION, ATTENTION), "takes hidden or cls, and not a QKV"),
        (lambda: kdzoo.create("attention_kl")(ATTENTION, [1.0]), "takes tensors or a QKV, got list"),
        (lambda: kdzoo.create("bert_emd")(torch.ones(2, 3, 5, 4), ATTENTION), "QKVs of (B, M, A, S, d) tensors"),
        (
            lambda: kdzoo.create("attention_kl")(ATTENTION, ATTENTION, mask=torch.ones(2, 7)),
            "a mask (2, 7) does not fit scores (2, 3, 5, 5)",
        ),
        (lambda: kdzoo.create("info_nce")(torch.ones(2, 3), torch.ones(2, 3), queue=torch.ones(4, 5)), "(N, 3)"),
        (lambda: kdzoo.create("cos_nce")(torch.ones(2, 3), torch.ones(2, 3), negatives=torch.ones(2, 3)), "(2, K, 3)"),
        (lambda: kdzoo.create("attention_kl")(torch.ones(2, 3), torch.ones(2, 3)), "attention scores (B, A, S, S)"),
    ],
)
def test_inputs_are_checked(call: Any, words: str) -> None:
    with pytest.raises(KdzooError) as error:
        call()
    assert words in str(error.value)


@pytest.mark.parametrize("name", ["mask", "labels", "sample_ids"])
def test_what_is_no_tensor_is_named(name: str) -> None:
    with pytest.raises(KdzooError, match=f"hidden_mse: {name} must be a tensor, got list"):
        kdzoo.create("hidden_mse")(torch.ones(2, 3, 4), torch.ones(2, 3, 4), **{name: [[1, 1, 0], [1, 0, 0]]})


def test_a_mask_that_is_added_to_scores_is_refused() -> None:
    states, mask = torch.randn(2, 2, 3, 4), torch.tensor([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]])
    loss = kdzoo.create("hidden_mse")
    for of in (torch.bool, torch.long, torch.float64):
        assert torch.equal(loss(*states, mask=mask.to(of)), loss(*states, mask=mask))
    for added, said in (
        ((1 - mask) * -1e4, "-10000"),
        (torch.where(mask > 0, 0.0, -math.inf), "-inf"),
        (mask / 2, "0.5"),
    ):
        with pytest.raises(KdzooError, match=f"1 where a token is real and 0 elsewhere; this one has {said}"):
            loss(*states, mask=added)


def test_a_mask_on_an_accelerator_is_looked_at_in_the_first_call(monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[bool] = []

    def checked(label: str, mask: Tensor, *, everywhere: bool = False) -> Tensor:
        looked.append(everywhere)
        return checked_mask(label, mask, everywhere=everywhere)

    monkeypatch.setattr(base, "checked_mask", checked)
    loss, states = kdzoo.create("hidden_mse"), torch.randn(2, 3, 4)
    with pytest.raises(KdzooError, match="a mask is 1 where a token is real"):
        loss(states, states, mask=torch.full((2, 3), -1e4))
    loss(states, states)
    for _ in range(2):
        loss(states, states, mask=torch.ones(2, 3))
    assert looked == [True, True, False]


@pytest.mark.cuda
def test_a_mask_on_a_gpu_that_is_added_to_scores_is_refused() -> None:
    states = torch.randn(2, 3, 4, device="cuda")
    with pytest.raises(KdzooError, match="this one has -10000"):
        kdzoo.create("hidden_mse")(states, states, mask=torch.tensor([[0.0, 0.0, -1e4]] * 2, device="cuda"))


def test_a_row_without_a_label_does_not_count() -> None:
    logits = torch.randn(4, 3)
    found = kdzoo.create("ce")(logits, labels=torch.tensor([2, -100, 0, -100]))
    assert torch.equal(found, kdzoo.create("ce")(logits[::2], labels=torch.tensor([2, 0])))


def test_an_extra_argument_that_a_loss_does_not_take_is_named() -> None:
    with pytest.raises(TypeError, match=r"kd does not take 'queue'; it takes mask, labels, sample_ids$"):
        kdzoo.create("kd")(torch.ones(2, 3), torch.ones(2, 3), queue=torch.ones(4, 3))
