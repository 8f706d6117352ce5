"""Recipes: what was published, YAML there and back, overrides, stages, and LRC-BERT's gradient perturbation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Recipe, Stage, TermSpec, WeightSchedule
from kdzoo.training.perturbation import gradient_perturbation

RECIPES = kdzoo.available("recipes")
CE: dict[str, Any] = {"loss": "ce"}


def parse(*stages: Any, **more: Any) -> Recipe:
    return Recipe.parse({"name": "mine", "stages": list(stages), **more})


def weights(recipe: Recipe, *progress: float) -> dict[str, list[float]]:
    return {term.name: [term.weight_at(p) for p in progress] for term in recipe.objective().terms}


def terms(recipe: Recipe, stage: int = 0) -> dict[str, TermSpec]:
    return {term.loss: term for term in recipe.stages[stage].terms}


# --- what was published -----------------------------------------------------------------------------------------------


def test_the_six_methods_and_fine_tuning_are_there() -> None:
    assert {"none", "kd", "pkd", "tinybert", "crd", "lrc"} <= set(RECIPES)


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_it_was_published(name: str) -> None:
    recipe = Recipe.load(name)
    assert recipe.name == name and recipe.title
    assert name == "none" or (recipe.citation and recipe.citation.url.startswith("https://"))


def test_lrc_as_published() -> None:
    recipe = Recipe.load("lrc")
    assert [stage.fraction for stage in recipe.stages] == [0.8, 0.2]
    assert [*terms(recipe, 0)] == ["cos_nce"]
    assert {loss: term.weight for loss, term in terms(recipe, 1).items()} == {"cos_nce": 1, "kd": 1, "ce": 3}
    assert terms(recipe, 1)["kd"].options == {"temperature": 1.1}
    assert terms(recipe, 0)["cos_nce"].layers == "uniform"
    assert recipe.perturbation == "gradient"
    at = (0.0, 0.799, 0.8, 0.99)
    assert weights(recipe, *at) == {"cos_nce": [1, 1, 1, 1], "kd": [0, 0, 1, 1], "ce": [0, 0, 3, 3]}


def test_tinybert_as_published() -> None:
    recipe = Recipe.load("tinybert")
    assert [*terms(recipe, 0)] == ["embedding_mse", "hidden_mse", "attention_mse"] and [*terms(recipe, 1)] == [
        "soft_ce"
    ]
    assert {term.weight for stage in recipe.stages for term in stage.terms} == {1.0}
    assert terms(recipe, 0)["hidden_mse"].shared and terms(recipe, 0)["hidden_mse"].layer_reduction == "sum"
    assert terms(recipe, 1)["soft_ce"].options == {}  # temperature 1
    assert [stage.lr_scheduler for stage in recipe.stages] == ["constant", "linear"]
    assert recipe.stages[0].fraction == pytest.approx(10 / 13, abs=1e-3)
    assert recipe.student == "4x312,heads=12,ffn=1200"
    assert weights(recipe, 0.0, 0.77)["soft_ce"] == [0, 1]


def test_pkd_as_published() -> None:
    (stage,) = Recipe.load("pkd").stages
    ce, kd, pkd = stage.terms
    assert (ce.weight, kd.weight, kd.options) == (0.5, 0.5, {"temperature": 10.0})
    assert (pkd.layers, pkd.weight, pkd.options) == ("skip", 100.0, {"variant": "released"})


def test_kd_and_crd_as_published() -> None:
    (stage,) = Recipe.load("kd").stages
    assert {term.loss: (term.weight, term.options) for term in stage.terms} == {
        "kd": (0.5, {"temperature": 2.0}),
        "ce": (0.5, {}),
    }
    (stage,) = Recipe.load("crd").stages
    assert {term.loss: term.weight for term in stage.terms} == {"ce": 1.0, "crd": 0.8}
    made = kdzoo.create("crd", student_dim=2, teacher_dim=2, num_samples=3)
    assert (made.num_negatives, made.temperature, made.momentum) == (16384, 0.07, 0.5)


# --- YAML -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_yaml_there_and_back(name: str, tmp_path: Path) -> None:
    recipe = Recipe.load(name)
    path = tmp_path / "mine.yaml"
    path.write_text(recipe.to_yaml(), encoding="utf-8")
    assert Recipe.load(path) == recipe
    assert Recipe.load(path).to_yaml() == recipe.to_yaml()


def test_yaml_holds_everything() -> None:
    schedule = WeightSchedule(points=((0.0, 2.0), (0.5, 0.1)), interpolate=True)
    stage = Stage(
        terms=(
            TermSpec(loss="hidden_mse", layers=((1, 2), (2, 4)), weight=schedule, layer_reduction="mean", bias=True),
            TermSpec(loss="hidden_mse", feature="cls", name="heads", shared=True),
        )
    )
    recipe = Recipe(name="mine", stages=(stage,), perturbation="gradient", notes="T² – ŝ: not ASCII")
    import yaml

    assert Recipe.parse(yaml.safe_load(recipe.to_yaml())) == recipe


def test_scientific_numbers(tmp_path: Path) -> None:
    """PyYAML reads 5e-5 as text."""
    path = tmp_path / "mine.yml"
    path.write_text(
        "name: mine\ntraining: {learning_rate: 5e-5}\n"
        "stages:\n- terms:\n  - {loss: kd, temperature: 2e0, weight: 1E-1}\n"
    )
    recipe = Recipe.load(path)
    kd = recipe.stages[0].terms[0]
    assert (recipe.training.learning_rate, kd.options, kd.weight) == (5e-5, {"temperature": 2.0}, 0.1)
    changed = recipe.override(["training.learning_rate=3e-5", "kd.temperature=1e1"])
    assert (changed.training.learning_rate, changed.stages[0].terms[0].options) == (3e-5, {"temperature": 10.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- 1", "a recipe is a mapping with 'name' and 'stages', got list"),
        ("name: [1", "is not YAML"),
        ("name: mine", "stages: Field required"),
        ("name: mine\nstages: []", "stages: "),
        ("name: mine\nstages: [{terms: []}]", r"stages\.0\.terms: "),
    ],
)
def test_files_that_are_no_recipes(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(KdzooError, match=message) as error:
        Recipe.load(path)
    assert "\n" not in str(error.value) and str(path) in str(error.value)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=r"absent\.yaml: No such file"):
        Recipe.load(tmp_path / "absent.yaml")
    with pytest.raises(KdzooError, match="unknown recipe 'tiny_bert'; did you mean 'tinybert'"):
        Recipe.load("tiny_bert")


# --- what is wrong, and what would be right ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("term", "message"),
    [
        ({"loss": "cosnce"}, "unknown loss 'cosnce'; did you mean 'cos_nce'"),
        ({"loss": "kd", "temprature": 2}, "unknown key of the term 'kd' 'temprature'; did you mean 'temperature'"),
        ({"loss": "kd", "wieght": 2}, "unknown key of the term 'kd' 'wieght'; did you mean 'weight'"),
        ({"loss": "hidden_mse", "layers": "unifrom"}, "unknown layer map 'unifrom'; did you mean 'uniform'"),
        ({"loss": "hidden_mse", "layers": [[1, -2]]}, "teacher index -2 is out of range"),
        ({"loss": "hidden_mse", "feature": "hiden"}, "unknown feature of hidden_mse 'hiden'; did you mean 'hidden'"),
        ({"loss": "kd", "layers": "last"}, "kd is taken on the logits, which has no layers to map"),
        ({"loss": "kd", "layer_reduction": "max"}, "layer_reduction: Input should be 'sum' or 'mean'"),
        ({"loss": "kd", "temperature": "hot"}, "kd.temperature is 'hot': Input should be a valid number"),
        ({"loss": "kd", "temperature": [1]}, r"kd.temperature is \[1\]: Input should be a valid number"),
        ({"loss": "hidden_mse", "variant": 3}, "hidden_mse.variant is 3: Input should be a valid string"),
        ({"loss": "ce", "weight": "heavy"}, "weight"),
        ({"loss": "ce", "weight": float("nan")}, "weight"),
        ({"loss": "ce", "weight": {"points": []}}, "points"),
        ({"loss": "ce", "weight": {"points": [[0.5, 1], [0.1, 1]]}}, "fractions rise within 0 to 1"),
        ({"loss": "ce", "weight": {"point": [[0, 1]]}}, "unknown key 'point'; did you mean 'points'"),
        ({"weight": 1.0}, "loss: Field required"),
    ],
)
def test_wrong_terms(term: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=message) as error:
        parse({"terms": [term]})
    assert "\n" not in str(error.value) and "recipe: stages.0.terms.0" in str(error.value)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"perturbation": "noise"}, "perturbation: Input should be 'gradient'"),
        ({"trainin": {}}, "unknown key 'trainin'; did you mean 'training'"),
        ({"training": {"lerning_rate": 1}}, "training: unknown key 'lerning_rate'; did you mean 'learning_rate'"),
        ({"training": {"learning_rate": -1}}, "training.learning_rate: Input should be greater than 0"),
    ],
)
def test_wrong_keys(more: dict[str, Any], message: str) -> None:
    with pytest.raises(KdzooError, match=message):
        parse({"terms": [CE]}, **more)


def test_wrong_stages() -> None:
    with pytest.raises(KdzooError, match="unknown key 'fractoin'; did you mean 'fraction'"):
        parse({"terms": [CE], "fractoin": 1})
    with pytest.raises(KdzooError, match=r"the stages' fractions add up to 0\.9, they must add up to 1"):
        parse({"terms": [CE], "fraction": 0.5}, {"terms": [{"loss": "kd"}], "fraction": 0.4})
    with pytest.raises(KdzooError, match="the term 'ce' stands twice in one stage"):
        parse({"terms": [CE, CE | {"weight": 2.0}]})
    with pytest.raises(KdzooError, match="two terms are called 'kd'; give one of them another name="):
        parse({"terms": [{"loss": "kd"}, {"loss": "kd", "temperature": 3.0}]})
    with pytest.raises(ValidationError, match="frozen"):
        parse({"terms": [CE]}).name = "other"


# --- overrides --------------------------------------------------------------------------------------------------------


def test_override_by_loss_and_by_path() -> None:
    recipe = Recipe.load("lrc")
    changed = recipe.override(
        [
            "cos_nce.layers=last",
            "kd.temperature=4",
            "stages.1.terms.2.weight=5",
            "training.epochs=2",
            "perturbation=null",
        ]
    )
    assert [terms(changed, i)["cos_nce"].layers for i in (0, 1)] == ["last", "last"]
    assert terms(changed, 1)["kd"].options == {"temperature": 4}
    assert terms(changed, 1)["ce"].weight == 5 and changed.training.epochs == 2 and changed.perturbation is None
    assert recipe == Recipe.load("lrc"), "the original stays"
    assert len(changed.objective().terms) == 3, "both stages hold the same contrast still"


def test_override_replaces_a_whole_term() -> None:
    changed = Recipe.load("kd").override(["stages.0.terms.1={loss: logit_mse, weight: 0.25}"])
    assert [term.loss for term in changed.stages[0].terms] == ["kd", "logit_mse"]


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("kd.temprature=2", "unknown key of the term 'kd' 'temprature'; did you mean 'temperature'"),
        ("kdd.temperature=2", "unknown setting 'kdd'; did you mean 'kd'"),
        ("trainin.epochs=2", "unknown setting 'trainin'; did you mean 'training'"),
        ("crd.weight=2", "kd has no term 'crd'; it has kd, ce"),
        ("kd.temperature", "is not of the form key=value"),
        ("=2", "is not of the form key=value"),
        ("kd.temperature=[2", "'\\[2' is not a YAML value"),
        ("stages.3.fraction=1", "'3' is not an index from 0 to 0"),
        ("stages.first.fraction=1", "'first' is not an index from 0 to 0"),
        ("name.first=1", "'name' holds the value 'kd', it has no keys"),
        ("stages.0.fraction=0.5", "fractions add up to 0.5"),
        ("kd.temperature=hot", "kd.temperature is 'hot'"),
    ],
)
def test_wrong_overrides(setting: str, message: str) -> None:
    with pytest.raises(KdzooError, match=message) as error:
        Recipe.load("kd").override([setting])
    assert "\n" not in str(error.value)


# --- stages -----------------------------------------------------------------------------------------------------------


def test_the_same_term_of_two_stages_is_one() -> None:
    contrast = {"loss": "cos_nce", "layers": "uniform"}
    recipe = parse(
        {"fraction": 0.5, "terms": [contrast, CE]},
        {"fraction": 0.25, "terms": [CE | {"weight": 2.0}]},
        {"fraction": 0.25, "terms": [contrast | {"weight": 3.0}]},
    )
    assert weights(recipe, 0.0, 0.5, 0.74, 0.75, 1.0) == {"cos_nce": [1, 0, 0, 3, 3], "ce": [1, 2, 2, 0, 0]}


def test_borders_between_many_stages() -> None:
    """0.1 + 0.2 > 0.3 must not move the third stage's start by a step of ten."""
    stages = [{"fraction": f, "terms": [{"loss": n}]} for f, n in ((0.1, "ce"), (0.2, "kd"), (0.7, "logit_mse"))]
    assert weights(parse(*stages), 0.2, 3 / 10) == {"ce": [0, 0], "kd": [1, 0], "logit_mse": [0, 1]}


@pytest.mark.parametrize("interpolate", [False, True])
def test_a_schedule_ends_with_its_stage(interpolate: bool) -> None:
    ramp = {"loss": "kd", "weight": {"points": [[0.0, 1.0], [1.0, 3.0]], "interpolate": interpolate}}
    stages = [{"terms": [CE], "fraction": 0.25}, {"terms": [ramp], "fraction": 0.5}, {"terms": [CE], "fraction": 0.25}]
    half = 2.0 if interpolate else 1.0
    assert weights(parse(*stages), 0.0, 0.2, 0.25, 0.5, 0.75, 1.0)["kd"] == [0, 0, 1, half, 0, 0]
    last = weights(parse(*stages[:2], {"terms": [ramp | {"name": "again"}], "fraction": 0.25}), 0.75, 0.875, 1.0)
    assert last["again"] == [1, half, 3]


def test_interpolation_over_two_stages_is_refused() -> None:
    ramp = {"loss": "kd", "weight": {"points": [[0.0, 1.0], [1.0, 3.0]], "interpolate": True}}
    with pytest.raises(KdzooError, match="an interpolated weight can stand in one stage only"):
        parse({"terms": [ramp], "fraction": 0.5}, {"terms": [ramp], "fraction": 0.5})


# --- gradient perturbation --------------------------------------------------------------------------------------------


def test_the_perturbation_is_the_normalised_gradient() -> None:
    embedding = torch.randn(3, 5, 8, requires_grad=True)
    weight = torch.randn(8) / 8  # so that tanh never saturates to a slope of zero
    loss = (embedding @ weight).tanh().sum() * 1e-4
    found = gradient_perturbation(loss, embedding)
    with torch.no_grad():
        for b in range(3):
            for s in range(5):
                slope = 1 - torch.tanh(embedding[b, s] @ weight) ** 2
                by_hand = 1e-4 * slope * weight
                torch.testing.assert_close(found[b, s], by_hand / by_hand.norm())
    assert not found.requires_grad and embedding.grad is None


def test_positions_without_a_gradient_stay_where_they_are() -> None:
    embedding = torch.randn(2, 4, 8, requires_grad=True)
    found = gradient_perturbation(embedding[:, :2].sum(), embedding)
    assert not found[:, 2:].any()
    torch.testing.assert_close(found[:, :2], torch.full((2, 2, 8), 8**-0.5))
    other = torch.randn((), requires_grad=True)
    assert not gradient_perturbation(other * 2, embedding).any(), "a loss that never saw the embeddings"


@pytest.mark.parametrize("scale", [float("nan"), float("inf"), -float("inf")])
def test_a_gradient_that_is_no_number_perturbs_nothing(scale: float) -> None:
    embedding = torch.randn(2, 4, 8, requires_grad=True)
    loss = embedding[0].sum() + embedding[1, 2, 3] * scale
    assert torch.equal(gradient_perturbation(loss, embedding), torch.zeros(2, 4, 8))


def test_half_precision_embeddings_get_their_own_type() -> None:
    embedding = torch.randn(2, 4, 8, dtype=torch.bfloat16, requires_grad=True)
    found = gradient_perturbation(embedding.sum(), embedding)
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float().norm(dim=-1), torch.ones(2, 4), rtol=1e-2, atol=0)


def test_the_second_pass_runs_on_perturbed_embeddings() -> None:
    """The trained loss is that of a student whose embedding output was moved by the normalised gradient."""
    from tiny_models import batch, tiny

    from kdzoo.models.activations import capture, embedding_output
    from kdzoo.training.trainer import Distiller

    student, teacher = tiny("bert", 1, num_hidden_layers=2, hidden_size=16), tiny("bert", 7, num_hidden_layers=4)
    torch.manual_seed(0)
    objective = Recipe.load("lrc").objective().bind(student, teacher)
    inputs, labels = batch(), torch.tensor([0, 1, 2, 0])
    (needs, guide) = objective.needs(0.9)
    assert guide is not None
    with torch.no_grad(), capture(teacher, guide) as recorder:
        taught = recorder.activations(teacher(**inputs), mask=inputs["attention_mask"])
    # dropout is off in the students of these tests, so that two passes see the same function
    for module in student.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    distiller = Distiller(student, objective, "gradient").train()
    found = distiller(**inputs, labels=labels, teacher=taught, progress=0.9)

    def loss(embeddings: torch.Tensor) -> torch.Tensor:
        """The objective of a student that starts from given embeddings, (B, S, E)."""
        with embedding_output(student, embeddings - plain) as _, capture(student, needs) as taken:
            outputs = student(**inputs)
            side = taken.activations(outputs, mask=inputs["attention_mask"])
        return objective(side, taught, labels=labels, progress=0.9).total

    with torch.no_grad():
        plain = student.bert.embeddings(input_ids=inputs["input_ids"])
    start = plain.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(start), start)
    norm = gradient.norm(dim=-1, keepdim=True)
    moved = plain + torch.where(norm > 0, gradient / norm, 0.0)
    expected = loss(moved)
    torch.testing.assert_close(found.total, expected, rtol=1e-4, atol=1e-5)
    assert abs(found.total.item() - loss(plain).item()) > 1e-3
    found.total.backward()
    assert all(p.grad is not None for p in objective.parameters())


def test_the_ablations_of_lrc_lack_what_their_names_say() -> None:
    folder = Path(__file__).parent.parent / "docs" / "examples"
    whole = Recipe.load("lrc")
    described = {"title", "citation", "general", "student", "notes"}
    unperturbed = whole.model_copy(update={"name": "lrc_unperturbed", "perturbation": None})
    one_stage = whole.stages[1].model_copy(update={"fraction": 1.0})
    at_once = whole.model_copy(update={"name": "lrc_one_stage", "stages": (one_stage,)})
    neither = at_once.model_copy(update={"name": "lrc_one_stage_unperturbed", "perturbation": None})
    for expected in (unperturbed, at_once, neither):
        found = Recipe.load(folder / f"{expected.name}.yaml")
        assert found.model_dump(exclude=described) == expected.model_dump(exclude=described)
