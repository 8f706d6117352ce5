"""Methods as expressions: what they mean, and what is said of those that mean nothing."""

from __future__ import annotations

from typing import Any

import pytest

from kdzoo import KdzooError
from kdzoo.objectives.expression import is_expression, method_name, parse_terms, split_methods
from kdzoo.objectives.recipe import Recipe


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        (
            "cos_nce@hidden[uniform] + kd(temperature=2)*0.5 + ce",
            [
                {"loss": "cos_nce", "feature": "hidden", "layers": "uniform"},
                {"loss": "kd", "temperature": 2, "weight": 0.5},
                {"loss": "ce"},
            ],
        ),
        ("0.5*kd", [{"loss": "kd", "weight": 0.5}]),
        ("kd * -1e-1", [{"loss": "kd", "weight": -0.1}]),
        ("pkd[skip](bias='no')*100", [{"loss": "pkd", "layers": "skip", "bias": "no", "weight": 100}]),
        ("pkd(variant=released)@cls[last[:-1]]", [
            {"loss": "pkd", "variant": "released", "feature": "cls", "layers": "last[:-1]"}
        ]),
        ("hidden_mse@cls(bias=true)[(1, 3), (2, 6)]", [
            {"loss": "hidden_mse", "feature": "cls", "bias": True, "layers": ((1, 3), (2, 6))}
        ]),
        ("hidden_mse[(1, 3)]", [{"loss": "hidden_mse", "layers": [(1, 3)]}]),
        ("hidden_mse[uniform[-1]]", [{"loss": "hidden_mse", "layers": "uniform[-1]"}]),
        ("2*kd@logits", [{"loss": "kd", "feature": "logits", "weight": 2}]),
    ],
)  # fmt: skip
def test_what_an_expression_means(text: str, terms: list[dict[str, Any]]) -> None:
    assert parse_terms(text) == terms


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("kd +", "cannot be read at its end: expected another term"),
        ("kd*", "cannot be read at its end: expected a weight, which is a number"),
        ("kd@", "cannot be read at its end: expected a feature"),
        ("kd ce", "cannot be read at character 4, 'c': expected '+' and another term, or '*' and a weight"),
        ("kd + *2", "cannot be read at character 6, '*': expected another term"),
        ("kd(temperature=2", "expected options, name=value, and then ')'"),
        ("kd * ce", "'kd * ce' cannot be read: a weight is a number"),
        ("kd - ce", "'kd - ce' cannot be read: a method is terms joined by '+'"),
        ("(kd + ce) * 2", "'kd + ce' cannot be read"),
        ("kd(2)", "options are written name=value"),
        ("kd(**x)", "options are written name=value"),
        ("kd*2*3", "weight is given twice"),
        ("kd(weight=2)*3", "weight is given twice"),
        ("pkd@cls@hidden", "feature is given twice"),
        ("pkd[skip][last]", "layers is given twice"),
        ("kd@3", "after '@' stands a feature"),
        ("kd(temperature=open('x'))", "a value is a number, a word"),
        ("__import__('os').system('true')", "cannot be read"),
    ],
)
def test_what_cannot_be_read(text: str, words: str) -> None:
    with pytest.raises(KdzooError) as raised:
        parse_terms(text)
    assert words in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("cosnce + ce", "unknown loss 'cosnce'; did you mean 'cos_nce'?"),
        ("kd(temprature=2) + ce", "did you mean 'temperature'?"),
        ("kd@hidden", "unknown feature of kd 'hidden'"),
        ("kd(temperature=hot)", "kd.temperature is 'hot'"),
        ("hidden_mse[sideways]", "unknown layer map 'sideways'"),
        ("ce + ce", "is in one stage twice"),
        ("cos_nce", "cos_nce is a loss and no recipe; write 'cos_nce + ce'"),
        ("sop", "sop is a loss and no recipe; write 'hidden_mse + mlm + sop'"),
    ],
)
def test_what_is_refused_before_training(text: str, words: str) -> None:
    with pytest.raises(KdzooError) as raised:
        Recipe.load(text)
    assert words in str(raised.value)


def test_an_expression_is_a_recipe_of_one_stage() -> None:
    recipe = Recipe.load(" cos_nce@hidden[uniform]+kd(temperature=2)*0.5+ce ")
    assert recipe.title == "cos_nce@hidden[uniform]+kd(temperature=2)*0.5+ce"
    assert recipe.losses == ("cos_nce", "kd", "ce") and len(recipe.stages) == 1
    assert [term.weight_at(0.5) for term in recipe.objective().terms] == [1, 0.5, 1]
    assert recipe.name == "cos_nce-hidden-uniform-kd-temperature-2-0.5-ce"


def test_methods_are_separated_by_the_commas_outside_of_brackets() -> None:
    text = "none, kd(temperature=2, weight=1) + ce,pkd[(1, 2), (2, 4)],"
    assert split_methods(text) == ["none", "kd(temperature=2, weight=1) + ce", "pkd[(1, 2), (2, 4)]"]


@pytest.mark.parametrize("text", ["kd", "crd_kd", "mine.yaml", "my recipes/mine.yml", "a-b"])
def test_names_and_files_are_no_expressions(text: str) -> None:
    assert not is_expression(text)


def test_the_name_of_an_expression_is_good_for_a_file() -> None:
    assert method_name("a@b[(1, 2)]/* \\ c:d") == "a-b-1-2-c-d"
