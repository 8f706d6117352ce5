"""Recipes: what was published, YAML there and back, overrides, stages, and LRC-BERT's ablations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

import kdzoo
from kdzoo.errors import KdzooError
from kdzoo.objectives.overrides import load_recipes
from kdzoo.objectives.recipe import Perturbation, Recipe, Stage, TermSpec, WeightSchedule

EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"
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
    assert recipe.perturbation == Perturbation(norm="tensor", epsilon=1.0)
    assert (recipe.training.learning_rate, recipe.training.warmup_ratio) == (5e-5, 0.1)
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
    predicting, whole = recipe.stages[1], recipe.training
    assert whole.learning_rate is not None and whole.learning_rate * predicting.lr_factor == pytest.approx(3e-5)
    assert (predicting.warmup_ratio, whole.warmup_ratio) == (0.1, 0.0)
    assert recipe.general is not None
    on_text = recipe.general.training
    assert (on_text.learning_rate, on_text.warmup_ratio, on_text.batch_size) == (5e-5, 0.1, 256)


def test_pkd_as_published() -> None:
    (stage,) = Recipe.load("pkd").stages
    ce, kd, pkd = stage.terms
    assert (ce.weight, kd.weight, kd.options) == (0.5, 0.5, {"temperature": 10.0, "reduction": "mean"})
    assert (pkd.layers, pkd.weight, pkd.options) == ("skip", 100.0, {"variant": "released"})
    assert Recipe.load("pkd").training.warmup_ratio == 0.1


def test_kd_and_crd_as_published() -> None:
    (stage,) = Recipe.load("kd").stages
    assert {term.loss: (term.weight, term.options) for term in stage.terms} == {
        "kd": (0.5, {"temperature": 2.0}),
        "ce": (0.5, {}),
    }
    (stage,) = Recipe.load("crd_published").stages
    assert {term.loss: term.weight for term in stage.terms} == {"ce": 1.0, "crd": 0.8}
    measured = [terms(Recipe.load(name))["crd"].weight for name in ("crd", "crd_kd")]
    assert measured == [0.05, 0.05], "as measured on text"
    made = kdzoo.create("crd", student_dim=2, teacher_dim=2, num_samples=3)
    assert (made.num_negatives, made.temperature, made.momentum) == (16384, 0.07, 0.5)


def test_those_that_differed_from_their_sources() -> None:
    alp = {loss: term.weight for loss, term in terms(Recipe.load("alp")).items()}
    assert alp == {"ce": 0.1, "kd": 0.7, "alp": 0.2} and terms(Recipe.load("alp"))["kd"].options["temperature"] == 20
    assert {loss: term.weight for loss, term in terms(Recipe.load("rkd")).items()} == {
        "ce": 1.0,
        "rkd_distance": 25.0,
        "rkd_angle": 50.0,
    }
    for name in ("rail", "rail_c"):
        recipe = Recipe.load(name)
        assert terms(recipe)["kd"].options == {"temperature": 10.0} and terms(recipe)["rail"].layers == "all[:-1]"
        assert recipe.student == "distilbert/distilbert-base-uncased"
    options = terms(Recipe.load("ckd"))["ckd"].options
    assert (options["word_pair"], options["word_angle"]) == (1, 10)


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
    recipe = Recipe(
        name="mine", stages=(stage,), perturbation=Perturbation(norm="sample", epsilon=0.5), notes="T² – ŝ: not ASCII"
    )
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
        (
            {"perturbation": "gradient"},
            r"perturbation: it is 'gradient'; write \{norm: tensor, epsilon: 1.0\}, the norm tensor, sample or token "
            r"\(which 'gradient' stood for\), or null for none",
        ),
        ({"perturbation": {"norm": "row"}}, "perturbation.norm: Input should be 'tensor', 'sample' or 'token'"),
        ({"perturbation": {"norm": "token", "epsilon": 0}}, "perturbation.epsilon: Input should be greater than 0"),
        ({"perturbation": {"nrom": "token"}}, "perturbation: unknown key 'nrom'; did you mean 'norm'"),
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
    with pytest.raises(KdzooError, match="the term 'ce' is in one stage twice"):
        parse({"terms": [CE, CE | {"weight": 2.0}]})
    with pytest.raises(KdzooError, match="two terms are called 'kd'; give one of them another name="):
        parse({"terms": [{"loss": "kd"}, {"loss": "kd", "temperature": 3.0}]})
    general = {"general": {"terms": [{"loss": "cosine"}, {"loss": "cosine"}]}}
    with pytest.raises(KdzooError, match="general: the term 'cosine' is in one stage twice"):
        Recipe.parse({"name": "x", "stages": [{"terms": [CE]}]} | general)
    long = Recipe.parse({"name": "x" * 64, "stages": [{"terms": [CE]}], "general": {"terms": [{"loss": "cosine"}]}})
    assert long.on_text().name == "x" * 56 + "_general"
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
            "perturbation.norm=token",
        ]
    )
    assert [terms(changed, i)["cos_nce"].layers for i in (0, 1)] == ["last", "last"]
    assert terms(changed, 1)["kd"].options == {"temperature": 4}
    assert terms(changed, 1)["ce"].weight == 5 and changed.training.epochs == 2
    assert (
        changed.perturbation == Perturbation(norm="token")
        and recipe.override(["perturbation=null"]).perturbation is None
    )
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
        ("name.first=1", "'name' is the value 'kd', which has no keys"),
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


# --- LRC-BERT's ablations ---------------------------------------------------------------------------------------------


def test_the_ablations_of_lrc_lack_what_their_names_say() -> None:
    lrc = Recipe.load("lrc")
    assert lrc.perturbation is not None
    whole = what_trains(lrc)
    contrast, kd, ce = lrc.stages[1].terms
    assert [term.loss for term in (contrast, kd, ce)] == ["cos_nce", "kd", "ce"]
    at_once = Stage(terms=(contrast, kd, ce))
    expected: dict[str, dict[str, Any]] = {
        "lrc_unperturbed": {"perturbation": None},
        "lrc_one_stage": {"stages": (at_once,)},
        "lrc_no_contrast": {"stages": (Stage(terms=(kd, ce)),)},
        "lrc_no_kd": {"stages": (lrc.stages[0], Stage(fraction=0.2, terms=(contrast, ce)))},
        "lrc_no_ce": {"stages": (lrc.stages[0], Stage(fraction=0.2, terms=(contrast, kd)))},
    }
    for name, changes in expected.items():
        found = Recipe.load(name)
        assert found.name == name and found.title != lrc.title
        assert what_trains(found) == what_trains(lrc, **changes) != whole
        assert found == Recipe.parse(found.model_dump(mode="json")), "it stands the checks of a recipe"
    assert Recipe.load("lrc_no_contrast").general is None, "which is the contrast alone"


def test_the_examples_of_lrc_lack_what_their_names_say() -> None:
    lrc, cls = Recipe.load("lrc"), Recipe.load("lrc_cls")
    shared = tuple(
        stage.model_copy(
            update={"terms": tuple(t.model_copy(update={"shared": t.loss == "cos_nce"}) for t in stage.terms)}
        )
        for stage in lrc.stages
    )
    expected = {
        "lrc_one_stage_unperturbed": what_trains(Recipe.load("lrc_one_stage"), perturbation=None),
        "lrc_sample": what_trains(lrc, perturbation=Perturbation(norm="sample")),
        "lrc_token": what_trains(lrc, perturbation=Perturbation(norm="token")),
        "lrc_shared": what_trains(lrc, stages=shared),
        "lrc_cls_unperturbed": what_trains(cls, perturbation=None),
    }
    for name, recipe in expected.items():
        found = Recipe.load(EXAMPLES / f"{name}.yaml")
        assert found.name == name and what_trains(found) == recipe


def test_the_example_of_tinybert_lacks_attention_alone() -> None:
    whole, found = Recipe.load("tinybert"), Recipe.load(EXAMPLES / "tinybert_hidden.yaml")
    assert found.name == "tinybert_hidden" and found.training == whole.training

    def without(stage: Any) -> Any:
        return stage.model_copy(update={"terms": tuple(t for t in stage.terms if t.loss != "attention_mse")})

    assert found.general is not None and whole.general is not None
    assert found.general == without(whole.general) != whole.general
    assert what_trains(found) == what_trains(whole, stages=tuple(map(without, whole.stages))) != what_trains(whole)


def test_lrc_on_cls_differs_in_its_contrast() -> None:
    lrc, cls = Recipe.load("lrc"), Recipe.load("lrc_cls")
    assert all(terms(cls, i)["cos_nce"].feature == "cls" and terms(cls, i)["cos_nce"].options["bias"] for i in (0, 1))
    assert terms(lrc, 0)["cos_nce"].feature is None and lrc.objective().terms[0].feature == "hidden"
    assert [stage.terms[1:] for stage in cls.stages] == [stage.terms[1:] for stage in lrc.stages]
    assert cls.perturbation == lrc.perturbation and cls.training.warmup_ratio == lrc.training.warmup_ratio == 0.1
    assert len(cls.objective().terms) == 3, "both stages hold the same contrast"


@pytest.mark.parametrize(("setting", "projections"), [([], 3), (["cos_nce.shared=true"], 1)])
@pytest.mark.parametrize("name", ["lrc", "lrc_cls"])
def test_lrc_has_a_projection_a_layer_or_one_for_all(name: str, setting: list[str], projections: int) -> None:
    from tiny_models import tiny

    student, teacher = tiny("bert", 1, num_hidden_layers=3, hidden_size=16), tiny("bert", 2, num_hidden_layers=3)
    objective = Recipe.load(name).override(setting).objective().bind(student, teacher)
    weights = [p for n, p in objective.named_parameters() if n.endswith("weight")]
    assert [weight.shape for weight in weights] == [(32, 16)] * projections
    assert len([n for n, _ in objective.named_parameters() if n.endswith("bias")]) == projections * (name == "lrc_cls")


def what_trains(recipe: Recipe, **update: Any) -> dict[str, Any]:
    """What trains: stages, perturbation and hyper-parameters, where wanted with changes."""
    return recipe.model_copy(update=update).model_dump(include={"stages", "perturbation", "balance", "training"})


def test_a_perturbation_is_set_where_there_is_one() -> None:
    """Without METHOD: its settings are for the methods that have one; elsewhere they would perturb a baseline."""
    found = load_recipes(["none", "kd", "lrc"], ["perturbation.norm=token"])
    assert found["lrc"].perturbation == Perturbation(norm="token") and not found["none"].perturbation
    assert load_recipes(["none", "lrc"], ["perturbation=null"])["lrc"].perturbation is None
    whole = load_recipes(["kd", "lrc"], ["kd:perturbation={norm: token}"])
    assert whole["kd"].perturbation == Perturbation(norm="token")
    with pytest.raises(
        KdzooError, match=r"none of the methods has perturbation; write METHOD:perturbation=\{norm: token\} for"
    ):
        load_recipes(["none", "kd"], ["perturbation.norm=token"])


@pytest.mark.parametrize(
    "settings",
    [
        ["lrc_unperturbed:perturbation.epsilon=2"],
        ["lrc:perturbation=null", "lrc:perturbation.epsilon=2"],
        ["kd:targets.beam=2"],
    ],
)
def test_a_part_of_what_is_not_there_is_no_setting(settings: list[str]) -> None:
    """It would bring back what the method's name says is left out."""
    name, part = settings[0].split(":")[0], settings[-1].split(":")[1].split(".")[0]
    with pytest.raises(KdzooError, match=rf"{name} has no {part}; write {part}=\{{\w+: 2\}} to give it one"):
        load_recipes(["kd", "lrc", "lrc_unperturbed"], settings)
    own = [setting.split(":")[1] for setting in settings]
    with pytest.raises(KdzooError, match=f"{name} has no {part}"):
        Recipe.load(name).override(own)


def test_the_norm_is_the_tensor_s_where_none_is_named() -> None:
    for told in ({}, {"epsilon": 1.0}):
        assert Perturbation.model_validate(told) == Perturbation(norm="tensor")
    found = Recipe.load("lrc_unperturbed").override(["perturbation={epsilon: 0.5}"])
    assert found.perturbation == Perturbation(norm="tensor", epsilon=0.5)
    assert "norm: tensor" in found.to_yaml(), "a recipe that is written down names its norm"
