"""Where the recipes' numbers come from: each has a source, none is invented, and a changed one loses it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from command_line import Commands

import kdzoo
from kdzoo import KdzooError
from kdzoo.objectives.recipe import Recipe, Source
from kdzoo.objectives.sources import hyper_parameters, sources_of, table

RECIPES = kdzoo.available("recipes")
PLAIN: dict[str, Any] = {
    "name": "mine",
    "stages": [
        {"fraction": 0.5, "terms": [{"loss": "kd", "temperature": 3.0, "weight": 2.0}]},
        {"fraction": 0.5, "terms": [{"loss": "kd", "temperature": 3.0}, {"loss": "hidden_mse", "name": "states"}]},
    ],
    "training": {"epochs": 3},
}


def parse(*sources: dict[str, Any]) -> Recipe:
    return Recipe.parse(PLAIN | {"sources": list(sources)})


def source(*of: str, origin: str = "paper", where: str = "table 2") -> dict[str, Any]:
    return {"origin": origin, "where": where, "of": list(of)}


def unsourced(recipe: Recipe) -> list[str]:
    return [key for key in hyper_parameters(recipe) if key not in sources_of(recipe)]


def leaves(data: Any, path: str = "") -> dict[str, Any]:
    """Every value of plain data by its path."""
    if isinstance(data, dict):
        return {key: value for name, part in data.items() for key, value in leaves(part, f"{path}.{name}").items()}
    if isinstance(data, list) and data and isinstance(data[0], dict):
        return {key: value for at, part in enumerate(data) for key, value in leaves(part, f"{path}.{at}").items()}
    return {path: data}


# --- what is shipped --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", RECIPES)
def test_every_number_of_a_recipe_has_a_source(name: str) -> None:
    recipe = Recipe.load(name)
    assert not unsourced(recipe)
    for key in hyper_parameters(recipe):
        rest = tuple(
            Source(origin=held.origin, where=held.where, of=(other,))
            for other, held in sources_of(recipe).items()
            if other != key
        )
        assert unsourced(recipe.model_copy(update={"sources": rest})) == [key]


@pytest.mark.parametrize("name", RECIPES)
def test_no_number_of_a_recipe_is_overlooked(name: str) -> None:
    """Whatever the YAML sets, but for words that describe, is among the hyper-parameters."""
    recipe = Recipe.load(name)
    described = {"name", "title", "citation", "notes", "sources", "perturbation", "tunable"}
    data = recipe.model_dump(mode="json", exclude_defaults=True, exclude=described)
    written = {key: value for key, value in leaves(data).items() if key.rsplit(".", 1)[-1] not in ("loss", "name")}
    places = [f".stages.{at}" for at in range(len(recipe.stages))] + [".general"]
    found = hyper_parameters(recipe)
    for key, value in written.items():
        place = next((place for place in places if key.startswith(f"{place}.terms.")), None)
        if place is None:
            whole = key[1:]
        else:
            at, option = key.removeprefix(f"{place}.terms.").split(".", 1)
            stage = recipe.general if place == ".general" else recipe.stages[int(place.rsplit(".", 1)[-1])]
            assert stage is not None
            term = stage.terms[int(at)]
            whole = f"{place[1:]}.{term.name or term.loss}.{option.split('.')[0]}"
        assert whole in found, key
        if place is None:
            assert found[whole] == value


def test_terms_count_their_weight_temperature_and_layers_though_nobody_set_them() -> None:
    found = hyper_parameters(
        Recipe.parse(PLAIN | {"general": {"terms": [{"loss": "minilm"}]}, "balance": "uncertainty"})
    )
    assert found == {
        "stages.0.fraction": 0.5,
        "stages.0.kd.weight": 2.0,
        "stages.0.kd.temperature": 3.0,
        "stages.1.fraction": 0.5,
        "stages.1.kd.weight": 1.0,
        "stages.1.kd.temperature": 3.0,
        "stages.1.states.weight": 1.0,
        "stages.1.states.layers": "uniform",
        "general.minilm.weight": 1.0,
        "general.minilm.layers": "uniform[-1]",
        "balance": "uncertainty",
        "training.epochs": 3.0,
    }


def test_numbers_that_a_loss_has_by_itself_count_too() -> None:
    found = hyper_parameters(Recipe.load("crd"))
    assert found["stages.0.crd.num_negatives"] == 16384
    assert (found["stages.0.crd.feature_dim"], found["stages.0.crd.momentum"]) == (128, 0.5)
    assert "stages.0.ce.label_smoothing" not in found, "which is off"
    assert not any(key.endswith(("relation_heads", "num_layers")) for key in hyper_parameters(Recipe.load("minilmv2")))


# --- what is written --------------------------------------------------------------------------------------------------


def test_a_name_without_its_stage_stands_for_all_that_have_it() -> None:
    recipe = parse(
        source("kd.temperature", "stages.1.kd.weight"), source("training.epochs", origin="ours", where="time")
    )
    found = {key: str(held) for key, held in sources_of(recipe).items()}
    assert found == {
        "stages.0.kd.temperature": "paper (table 2)",
        "stages.1.kd.weight": "paper (table 2)",
        "stages.1.kd.temperature": "paper (table 2)",
        "training.epochs": "ours (time)",
    }
    assert Recipe.load("distilbert").needs_teacher and "general.kd.weight" in sources_of(Recipe.load("distilbert"))
    assert not Recipe.load("kd*0.5 + ce").sources


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        ([source("kd.temprature")], "unknown hyper-parameter of mine 'kd.temprature'; did you mean 'kd.temperature'"),
        ([source("stages.0.states.weight")], "unknown hyper-parameter of mine 'stages.0.states.weight'"),
        ([source("training.batch_size")], "unknown hyper-parameter of mine 'training.batch_size'"),
        ([source("weight")], "unknown hyper-parameter of mine 'weight'"),
        (
            [source("kd.weight"), source("stages.1.kd.weight", origin="other", where="GLMKD")],
            r"stages\.1\.kd\.weight has two sources, paper \(table 2\) and other \(GLMKD\)",
        ),
        ([source("kd.weight", origin="rumour")], r"sources\.0\.origin: Input should be 'paper', 'authors', 'other'"),
        ([source("kd.weight", where="")], r"sources\.0\.where: "),
        ([source()], r"sources\.0\.of: "),
        ([source("kd.weight") | {"form": "x"}], "unknown key 'form'"),
    ],
)
def test_wrong_sources(sources: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(KdzooError, match=message) as error:
        parse(*sources)
    assert "\n" not in str(error.value)


def test_what_is_changed_loses_its_source() -> None:
    recipe = parse(source("kd.temperature", "kd.weight"), source("training.epochs", "states.weight"))
    changed = recipe.override(["stages.1.terms.0.weight=5", "training.epochs=7"])
    assert sorted(set(sources_of(recipe)) - set(sources_of(changed))) == ["stages.1.kd.weight", "training.epochs"]
    assert sources_of(recipe.override(["kd.temperature=3", "notes=mine"])) == sources_of(recipe), "the same value"
    assert "kd.temperature" in recipe.override(["notes=mine"]).sources[0].of, "names stay short"
    without = recipe.override(["stages.1.terms.0={loss: ce}"])
    assert {*sources_of(without)} == {
        "stages.0.kd.weight",
        "stages.0.kd.temperature",
        "stages.1.states.weight",
        "training.epochs",
    }
    assert not recipe.override(["sources=[]"]).sources
    assert recipe.override(["sources.0.where=appendix"]).sources[0].where == "appendix"
    rows = {key: origin for key, _, origin, _ in table(changed)}
    assert (rows["stages.1.kd.weight"], rows["stages.0.kd.weight"]) == ("set here", "the paper")


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_show_says_where_each_number_is_from(capsys: pytest.CaptureFixture[str]) -> None:
    commands = Commands(capsys)
    shown = commands.works("show", "pkd", "--set", "training.epochs=9")
    lines = {line.split("│")[1].strip(): line for line in shown.splitlines() if line.startswith("│")}
    assert {*hyper_parameters(Recipe.load("pkd"))} <= {*lines}
    assert "the authors' code" in lines["stages.0.kd.reduction"] and "src/KD_loss.py" in lines["stages.0.kd.reduction"]
    assert "the authors' code" in lines["stages.0.kd.temperature"] and " 10 " in lines["stages.0.kd.temperature"]
    assert "set here" in lines["training.epochs"] and " 9 " in lines["training.epochs"]
    assert "origin: authors" in commands.works("show", "pkd", "--yaml")
    assert "origin:" not in shown and "Where its numbers" not in commands.works("show", "kd*0.5 + ce")


def test_the_catalogue_says_where_each_number_is_from() -> None:
    pytest.importorskip("mkdocs")
    path = Path(__file__).parent.parent / "docs" / "hooks.py"
    spec = importlib.util.spec_from_file_location("hooks", path)
    assert spec is not None and spec.loader is not None
    hooks = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(hooks)
    page = hooks._recipes()
    for name in RECIPES:
        part = page.split(f"\n## {name}\n", 1)[1].split("\n## ", 1)[0]
        assert all(f"| `{key}` |" in part for key in hyper_parameters(Recipe.load(name))), name


# --- the trained objective is the authors' ----------------------------------------------------------------------------


def predictions(classes: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    student, teacher = torch.randn(2, 7, classes, dtype=torch.float64)
    return student.requires_grad_(), 2 * teacher, torch.randint(classes, (7,))


def on_logits(recipe: Recipe, student: torch.Tensor, teacher: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The value of a one-stage recipe's terms on the logits, with their weights."""
    total = torch.zeros((), dtype=torch.float64)
    for term in recipe.stages[0].terms:
        if term.loss in ("kd", "ce", "soft_ce"):
            assert isinstance(term.weight, float)
            context = {"labels": labels} if term.loss == "ce" else {}
            side = None if term.loss == "ce" else teacher
            total = total + term.weight * kdzoo.create(term.loss, **term.options)(student, side, **context)
    return total


@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides:UserWarning")
@pytest.mark.parametrize("classes", [2, 3, 5])
def test_pkd_trains_what_its_authors_trained(classes: int) -> None:
    """A mean over rows and classes of T² KL, at α = 0.5 beside the labels, as in their code."""
    student, teacher, labels = predictions(classes)
    (found,) = torch.autograd.grad(on_logits(Recipe.load("pkd"), student, teacher, labels), student)
    soft = torch.nn.KLDivLoss(reduction="mean")(F.log_softmax(student / 10, 1), F.softmax(teacher / 10, 1)) * 100
    (expected,) = torch.autograd.grad(0.5 * soft + 0.5 * F.cross_entropy(student, labels), student)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("classes", [2, 3, 5])
def test_bert_emd_trains_what_its_authors_trained(classes: int) -> None:
    """A mean over rows and classes of T² times the soft cross-entropy, at α = 1, beside β = 0.005."""
    student, teacher, labels = predictions(classes)
    recipe = Recipe.load("bert_emd")
    (found,) = torch.autograd.grad(on_logits(recipe, student, teacher, labels), student)
    soft = (-F.softmax(teacher / 3, -1) * F.log_softmax(student / 3, -1)).mean() * 9
    (expected,) = torch.autograd.grad(soft, student)
    torch.testing.assert_close(found, expected)
    assert {term.weight for term in recipe.stages[0].terms[1:]} == {0.005}


def test_codir_says_its_weight_in_the_authors_terms() -> None:
    """They divide all by B after averaging the contrast: w of theirs is w / B."""
    recipe = Recipe.load("codir")
    weight, rows = recipe.stages[0].terms[2].weight, recipe.training.batch_size
    assert isinstance(weight, float) and rows is not None
    assert f"{weight} is {weight * rows:g} of theirs" in recipe.notes
