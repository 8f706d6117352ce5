"""Gradient perturbation: its norms, half precision, accumulation, and the second forward pass it is made for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_trainer import callback, trainer
from tiny_data import rows
from tiny_models import batch, tiny

from kdzoo.errors import KdzooError
from kdzoo.models.activations import capture
from kdzoo.models.embedding import embedding_output
from kdzoo.objectives.recipe import Perturbation, Recipe
from kdzoo.training.distiller import Distiller
from kdzoo.training.perturbation import NORMS, gradient_perturbation

OVER = {"tensor": (0, 1, 2), "sample": (1, 2), "token": (2,)}  # the axes that each norm goes over


def expected_perturbation(gradient: Any, norm: str, epsilon: float = 1.0) -> Any:
    """ε·g/‖g‖ in float64, zero where g is."""
    gradient = np.asarray(gradient, np.float64)
    length = np.sqrt((gradient**2).sum(axis=OVER[norm], keepdims=True))
    return epsilon * np.divide(gradient, length, out=np.zeros_like(gradient), where=length > 0)


# --- the function -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("epsilon", [1.0, 0.3])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("seed", range(3))
def test_the_norms_against_numpy(seed: int, norm: str, epsilon: float) -> None:
    generator = np.random.default_rng(seed)
    start, weight = generator.normal(size=(3, 5, 8)), generator.normal(size=8) / 8
    seen = np.ones((3, 5, 1))
    seen[1, 3:], seen[2] = 0, 0  # two positions, and a whole row, without a gradient
    embedding = torch.tensor(start, dtype=torch.float32, requires_grad=True)
    loss = ((embedding @ torch.tensor(weight).float()).tanh() * torch.tensor(seen[..., 0]).float()).sum() * 1e-4
    found = gradient_perturbation(loss, embedding, norm=norm, epsilon=epsilon)
    by_hand = seen * (1 - np.tanh(start @ weight) ** 2)[..., None] * weight * 1e-4
    np.testing.assert_allclose(found, expected_perturbation(by_hand, norm, epsilon), rtol=1e-4, atol=1e-8)
    lengths = torch.linalg.vector_norm(found.double(), dim=OVER[norm])
    assert lengths.max().item() == pytest.approx(epsilon, rel=1e-6) and not found[2].any()
    assert not found.requires_grad and embedding.grad is None and found.dtype == embedding.dtype


def test_the_whole_batch_is_the_default() -> None:
    embedding = torch.randn(2, 4, 8, requires_grad=True)
    found = gradient_perturbation(embedding[:, :2].sum(), embedding)
    assert not found[:, 2:].any()
    torch.testing.assert_close(found[:, :2], torch.full((2, 2, 8), 32**-0.5))
    other = torch.randn((), requires_grad=True)
    assert not gradient_perturbation(other * 2, embedding).any(), "a loss that never saw the embeddings"


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_perturbs_nothing(scale: float, norm: str) -> None:
    embedding = torch.randn(2, 4, 8, requires_grad=True)
    loss = embedding[0].sum() + embedding[1, 2, 3] * scale
    assert torch.equal(gradient_perturbation(loss, embedding, norm=norm), torch.zeros(2, 4, 8))


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("scale", [1e30, 1e-30])
def test_a_gradient_whose_square_float32_cannot_hold(scale: float, norm: str) -> None:
    embedding, weight = torch.randn(2, 4, 8, requires_grad=True), torch.randn(2, 4, 8)
    found = gradient_perturbation((embedding * weight * scale).sum(), embedding, norm=norm)
    np.testing.assert_allclose(found, expected_perturbation(weight, norm), rtol=1e-5)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_embeddings_get_their_own_type(dtype: torch.dtype, norm: str) -> None:
    embedding, weight = torch.randn(4, 9, 64, dtype=dtype, requires_grad=True), torch.randn(4, 9, 64) * 300
    found = gradient_perturbation((embedding * weight.to(dtype)).sum(), embedding, norm=norm)
    assert found.dtype == dtype
    np.testing.assert_allclose(
        found.float(), expected_perturbation(weight.to(dtype).float(), norm), rtol=1e-2, atol=1e-6
    )


def test_a_wrong_norm_or_length_is_refused() -> None:
    embedding = torch.randn(2, 4, 8, requires_grad=True)
    with pytest.raises(KdzooError, match="unknown norm of the gradient perturbation 'tokens'; did you mean 'token'"):
        gradient_perturbation(embedding.sum(), embedding, norm="tokens")
    for epsilon in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(KdzooError, match=r"epsilon is .*; it must be a positive number"):
            gradient_perturbation(embedding.sum(), embedding, epsilon=epsilon)


FLAT = torch.randn(4, 8, requires_grad=True)
WHOLE = torch.randn(2, 4, 8, requires_grad=True)


@pytest.mark.parametrize(
    ("loss", "embedding", "options", "says"),
    [
        (WHOLE.sum(), WHOLE, {"epsilon": "1"}, "epsilon is '1'; it must be a positive number"),
        (WHOLE.sum(), WHOLE, {"epsilon": True}, "epsilon is True; it must be a positive number"),
        (
            FLAT.sum(),
            FLAT,
            {"norm": "sample"},
            r"the embedding has the shape \(4, 8\); norm='sample' takes \(rows, t",
        ),
        (WHOLE.sum(-1), WHOLE, {}, r"the loss has the shape \(2, 4\); give a scalar, such as its mean"),
        (WHOLE.sum(), WHOLE.detach(), {}, r"the embedding has no gradient; call requires_grad_\(\)"),
        (WHOLE.detach().sum(), WHOLE, {}, "the loss has no gradient; take it of a forward pass outside"),
        (1.0, WHOLE, {}, "the loss is a float; it must be a tensor"),
    ],
)
def test_what_no_perturbation_can_be_made_of(loss: Any, embedding: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(KdzooError, match=f"^gradient_perturbation: {says}"):
        gradient_perturbation(loss, embedding, **options)


# --- the second pass --------------------------------------------------------------------------------------------------


def distiller(perturbation: Perturbation | None, recipe: str = "lrc") -> tuple[Any, dict[str, Any], Any]:
    """A student without dropout, so that two passes see the same function, its inputs, and the gradient by hand."""
    quiet = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    student = tiny("bert", 1, num_hidden_layers=2, hidden_size=16, **quiet)
    teacher = tiny("bert", 7, num_hidden_layers=4)
    torch.manual_seed(0)
    objective = Recipe.load(recipe).objective().bind(student, teacher)
    inputs, labels = batch(), torch.tensor([0, 1, 2, 0])
    (needs, guide) = objective.needs(0.9)
    assert guide is not None
    with torch.no_grad(), capture(teacher, guide) as recorder:
        taught = recorder.activations(teacher(**inputs), mask=inputs["attention_mask"])
        plain = student.bert.embeddings(input_ids=inputs["input_ids"])

    def loss(embeddings: torch.Tensor) -> torch.Tensor:
        """The objective of a student that starts from given embeddings, (B, S, E)."""
        with embedding_output(student, embeddings - plain) as _, capture(student, needs) as taken:
            outputs = student(**inputs)
            side = taken.activations(outputs, mask=inputs["attention_mask"])
        return objective(side, taught, labels=labels, progress=0.9).total

    given = {**inputs, "labels": labels, "teacher": taught, "progress": 0.9}
    return Distiller(student, objective, perturbation).train(), given, (loss, plain)


@pytest.mark.parametrize("micro_batches", [1, 4])
@pytest.mark.parametrize("norm", NORMS)
def test_the_second_pass_runs_on_perturbed_embeddings(norm: str, micro_batches: int) -> None:
    """The trained loss is that of a student whose embedding output was moved by the normalised gradient."""
    made, given, (loss, plain) = distiller(Perturbation(norm=norm, epsilon=0.8))  # type: ignore[arg-type]
    found = made(**given, micro_batches=micro_batches)
    start = plain.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    share = micro_batches**-0.5 if norm == "tensor" else 1.0
    moved = plain + torch.tensor(expected_perturbation(gradient, norm, 0.8 * share)).float()
    torch.testing.assert_close(found.total, loss(moved), rtol=1e-4, atol=1e-5)
    assert abs(found.total.item() - loss(plain).item()) > 1e-3
    found.total.backward()
    assert all(p.grad is not None for p in made.objective.parameters())


def test_half_precision_takes_the_gradient_of_the_scaled_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under float16 the gradient of a small loss is zero; the scaler's factor, which the norm takes out, saves it."""
    import kdzoo.training.distiller

    made, given, (loss, plain) = distiller(Perturbation(norm="tensor"))
    start = plain.clone().requires_grad_()
    exact = expected_perturbation(torch.autograd.grad(loss(start), start)[0], "tensor")
    for term in made.objective.terms:
        monkeypatch.setattr(term, "weight_at", lambda progress, at=term.weight_at: at(progress) * 1e-7)
    perturb, found = kdzoo.training.distiller.gradient_perturbation, []
    monkeypatch.setattr(
        kdzoo.training.distiller, "gradient_perturbation", lambda *a, **o: found.append(perturb(*a, **o)) or found[-1]
    )
    for scaler in (None, torch.amp.GradScaler("cpu", init_scale=2.0**16)):
        made.loss_scaler = scaler
        with torch.autocast("cpu", dtype=torch.float16):
            made(**given)
    unscaled, scaled = (np.asarray(perturbation.double()).ravel() for perturbation in found)
    assert np.linalg.norm(scaled) == pytest.approx(1, abs=1e-3)
    assert scaled @ exact.ravel() > 0.995, "the direction of float32"
    assert unscaled @ exact.ravel() < 0.9


# --- accumulation -----------------------------------------------------------------------------------------------------


def update(
    folder: Path, data: Any, recipe: Recipe, batch_size: int, pieces: int, steps: int = 1
) -> list[dict[str, Any]]:
    """The gradients of each update of ``pieces`` micro-batches of ``batch_size`` rows."""
    found = []

    def keep(args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        found.append({n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None})

    made = trainer(
        folder, recipe, data=data, max_steps=steps, callbacks=[callback(on_pre_optimizer_step=keep)],
        per_device_train_batch_size=batch_size, gradient_accumulation_steps=pieces, max_grad_norm=0.0,
        train_sampling_strategy="sequential",
    )  # fmt: skip
    made.train()
    return found


def perturbed(norm: str, *terms: Any) -> Recipe:
    terms = terms or ({"loss": "hidden_mse", "feature": "cls"}, {"loss": "ce", "weight": 0.5})
    data = {"name": "case", "stages": [{"terms": list(terms)}], "perturbation": {"norm": norm, "epsilon": 2.0}}
    return Recipe.parse(data)


@pytest.mark.parametrize("norm", NORMS)
def test_equal_micro_batches_are_one_batch(norm: str, tmp_path: Path) -> None:
    """Three times the same four rows: moved as far as in one batch of twelve, whatever the norm goes over."""
    data = rows(4, length=9).select([0, 1, 2, 3] * 3)
    whole, pieces = (update(tmp_path, data, perturbed(norm), *shape)[0] for shape in ((12, 1), (4, 3)))
    assert whole.keys() == pieces.keys()
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: n + m)
    (unlike,) = update(tmp_path, data, perturbed(norm).override(["perturbation=null"]), 12, 1)
    assert any((whole[name] - unlike[name]).abs().max() > 1e-2 for name in whole), "the perturbation can be seen"


@pytest.mark.parametrize("norm", ["sample", "token"])
def test_what_is_normed_by_row_does_not_see_accumulation(norm: str, tmp_path: Path) -> None:
    data = rows(12, length=9)
    whole, pieces = (update(tmp_path, data, perturbed(norm), *shape)[0] for shape in ((12, 1), (4, 3)))
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-3, atol=1e-6, msg=lambda m, n=name: n + m)


def test_an_update_of_fewer_micro_batches(tmp_path: Path) -> None:
    """The last update of an epoch is made of what is left, and shares the length among that."""
    data = rows(4, length=9).select([0, 1, 2, 3] * 5)
    whole = update(tmp_path, data, perturbed("tensor"), 12, 1, steps=2)[1]  # 8 rows are left
    pieces = update(tmp_path, data, perturbed("tensor"), 4, 3, steps=2)[1]  # two of four are left
    for name, gradient in whole.items():
        torch.testing.assert_close(pieces[name], gradient, rtol=1e-2, atol=1e-5, msg=lambda m, n=name: n + m)


def test_the_stage_border_is_counted_in_updates(tmp_path: Path) -> None:
    made = trainer(tmp_path, "lrc", max_steps=5, per_device_train_batch_size=2, gradient_accumulation_steps=3)
    made.train()
    logged = [{k.removeprefix("loss/") for k in entry if k.startswith("loss/")} for entry in made.state.log_history]
    assert logged[:5] == [{"cos_nce"}] * 4 + [{"cos_nce", "kd", "ce"}]
