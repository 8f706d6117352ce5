"""Settings that would change nothing are refused, or told of, before anything runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from command_line import SIZES, Commands, records
from hostile import configurations, names

from kdzoo.bench.grid.settings import resolve
from kdzoo.bench.training_words import budgets_of, training_in_words
from kdzoo.errors import KdzooError
from kdzoo.objectives.overrides import check_told_once, load_recipes
from kdzoo.objectives.recipe import Recipe


@pytest.mark.parametrize(("arguments", "says"), configurations.IDLE, ids=names.shown)
def test_a_setting_without_effect(arguments: tuple[str, ...], says: str, commands: Commands, tmp_path: Path) -> None:
    out = () if arguments[0] in ("check", "bench") else ("--out", tmp_path / "out")
    commands.fails(*arguments, *out, says=(says,))
    assert not (tmp_path / "out").exists()


def test_a_method_s_own_training_is_training_in_words(commands: Commands, tmp_path: Path) -> None:
    """Of three methods alike one has another rate, and one more epochs of smaller batches."""
    grid = ("compare", "--tasks", "sst2", "--methods", "a = ce,b = ce,c = ce", *SIZES, "--batch-size", "32")
    own = (
        "--set",
        "b:training.learning_rate=1e-9",
        "--set",
        "c:training.epochs=2",
        "--set",
        "c:training.batch_size=16",
    )
    out = commands.works(*grid, *own, "--out", tmp_path)
    kept = records(tmp_path)
    a, b, c = (kept[f"sst2-{name}-0"] for name in "abc")
    assert (a["steps"], b["steps"], c["steps"]) == (2, 2, 8)
    rates = [max(entry.get("learning_rate", 0) for entry in record["history"]) for record in (a, b, c)]
    assert rates[1] <= 1e-9 < rates[0] and rates[2] > 1e-3
    assert "budget" not in a["configuration"]
    assert b["configuration"]["budget"]["learning_rate"] == 1e-9 and b["configuration"]["budget"]["batch_size"] == 32
    assert c["configuration"]["budget"] | {"epochs": 2, "batch_size": 16} == c["configuration"]["budget"]
    says = "one budget for all but for learning rate of b; batch size, epochs of c"
    assert says in " ".join(out.split()) and says in " ".join(commands.works("table", tmp_path).split())
    before = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()}
    commands.works(*grid, *own, "--out", tmp_path)
    assert {path.name: path.stat().st_mtime_ns for path in (tmp_path / "cells").iterdir()} == before
    commands.fails(*grid, *own[:-2], "--out", tmp_path, says=("another configuration", "batch_size is 16 there"))


def test_warm_up_is_the_recipe_s_where_the_rest_is_one_for_all() -> None:
    none, tinybert, codir = map(Recipe.load, ("none", "tinybert", "codir"))
    plain = resolve(methods=("tinybert",), budget={"batch_size": 8})
    assert [plain.budget_of(recipe).warmup_ratio for recipe in (none, tinybert, codir)] == [0.1, 0.0, 0.06]
    assert {plain.budget_of(recipe).learning_rate for recipe in (none, tinybert, codir)} == {plain.budget.learning_rate}
    own = [(recipe.name, plain.budget_of(recipe).model_dump()) for recipe in (none, tinybert, codir)]
    assert training_in_words(plain.shared(), own) == "one budget for all but for warm-up of tinybert, codir"
    given = resolve(methods=("tinybert",), budget={"warmup_ratio": 0.1})
    assert {given.budget_of(recipe).warmup_ratio for recipe in (none, tinybert, codir)} == {0.1}
    own = [(recipe.name, given.budget_of(recipe).model_dump()) for recipe in (none, tinybert, codir)]
    assert training_in_words(given.shared(), own) == "one budget for all" and given.shared() != plain.shared()
    settings = ["tinybert:training.warmup_ratio=0.3"]
    one = resolve(methods=("tinybert",), budget={"warmup_ratio": 0.1}, overrides=tuple(settings))
    assert one.budget_of(tinybert.override(["training.warmup_ratio=0.3"])).warmup_ratio == 0.3


def test_each_recipe_s_own_training() -> None:
    recipe = Recipe.load("kd").override(["training.learning_rate=1e-4", "training.epochs=7", "training.max_length=16"])
    plain = resolve(methods=("kd",), budget={"batch_size": 8})
    assert plain.budget_of(recipe) == plain.budget
    own = resolve(methods=("kd",), budget={"batch_size": 8, "epochs": 1}, recipe_training=True)
    found = own.budget_of(recipe)
    assert found.learning_rate == 1e-4, "the recipe's"
    assert found.epochs == 1 and found.batch_size == 8, "what was given comes first"
    assert found.max_length == own.budget.max_length, "the rows have one length for all"
    tuned = training_in_words({**own.shared(), "tune": 3, "keep": "best"}, [("kd", found.model_dump()), ("none", {})])
    assert tuned.startswith(
        "each recipe's own training: learning rate of kd; all else and all of none as one budget, and what 3 trials a "
        "method chose, the best weights"
    )
    # A number of one method's setting comes before one of an option; for all methods the two say the same thing.
    overrides = ("kd:training.epochs=3",)
    both = resolve(methods=("kd",), overrides=overrides, budget={"epochs": 1}, recipe_training=True)
    changed = load_recipes(["kd"], overrides, training="own")["kd"]
    assert both.budget_of(changed).epochs == 3
    assert both.first == ("epochs",)
    with pytest.raises(KdzooError, match=r"--epochs and --set training\.epochs say the same thing"):
        check_told_once(both.first, ("training.epochs=3",))
    assert "recipe_training" in own.shared() and "recipe_training" not in plain.shared()


RATE, OWN = {"learning_rate": 1e-3, "epochs": 1.0}, {"learning_rate": 3e-3, "epochs": 1.0}


@pytest.mark.parametrize(
    ("settings", "budgets", "says"),
    [
        ({"tune": 2}, {"kd": RATE, "none": RATE}, "one budget for all, but what 2 trials a method chose"),
        (
            {"tune": 2},
            {"kd": OWN, "none": RATE},
            "one budget for all but for learning rate of kd, and what 2 trials a method chose",
        ),
        (
            {"recipe_training": True, "first": ["epochs", "learning_rate"]},
            {"kd": RATE, "none": RATE},
            "each recipe's own training, which is one budget for all here",
        ),
        (
            {"recipe_training": True},
            {"lrc": OWN, "kd": RATE, "none": RATE},
            "each recipe's own training: learning rate of lrc; all else and all of kd, none as one budget",
        ),
        (
            {"recipe_training": True, "tune": 2},
            {"a": OWN},
            "each recipe's own training: learning rate of a; all else as one budget, and what 2 trials a method chose",
        ),
    ],
)
def test_the_words_of_a_training(settings: dict[str, Any], budgets: dict[str, Any], says: str) -> None:
    """The same before the training, of what is asked for, and of the records, with what the trials chose."""
    shared = {"budget": RATE, **settings}
    assert training_in_words(shared, budgets.items()) == says
    records = [{"method": "teacher", "configuration": {"shared": {}}}]
    trials: list[dict[str, Any]] = []
    for method, budget in budgets.items():
        own = {} if budget == RATE else {"budget": budget}
        if "tune" not in settings:
            records.append({"method": method, "configuration": own})
            continue
        # A rate that is given is not sought.
        tried = {"kd.weight": 2.0} if own else {"learning_rate": 7e-4}
        chosen = own or {"budget": RATE | tried}
        records.append({"method": method, "configuration": chosen})
        trials.append({"method": f"{method}#0", "tried": {}, "configuration": own})
        trials.append({"method": f"{method}#1", "tried": tried, "configuration": chosen})
    assert training_in_words(shared, budgets_of(records, trials)) == says
