"""--tune: equal numbers of trials, drawn alike everywhere, scored on training rows alone, and resumed."""

from __future__ import annotations

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import Commands
from rich.console import Console

from kdzoo.bench.grid.cells import Cells
from kdzoo.bench.grid.comparison import Comparison
from kdzoo.bench.grid.settings import Settings, resolve
from kdzoo.bench.grid.tuning import RATE, proposals, set_to, space_of, spread
from kdzoo.bench.runs.budget import Budget
from kdzoo.bench.trials import parted, trial_name
from kdzoo.errors import KdzooError
from kdzoo.losses.registry import loss_class, options_of
from kdzoo.objectives.overrides import fixed_for
from kdzoo.objectives.recipe import Recipe
from kdzoo.objectives.registry import recipe_names

TINY: dict[str, Any] = {
    "tasks": ("sst2",), "methods": ("none", "kd"), "seeds": (0, 3), "data": "synthetic", "teacher": "1x16,heads=2",
    "student": "1x8,heads=2", "train_rows": 40, "validation_rows": 12, "tune": 2, "evaluations": 0,
    "budget": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "max_length": 16},
    "teacher_budget": {"epochs": 1, "batch_size": 8, "learning_rate": 1e-3, "max_length": 16},
}  # fmt: skip


def made(folder: Path, lines: list[str], **told: Any) -> Comparison:
    """A comparison that is checked and not run, and what it says."""
    console = Console(file=io.StringIO(), width=200)
    try:
        return Comparison(resolve(**told), folder, console)
    finally:
        assert isinstance(console.file, io.StringIO)
        lines += [line.rstrip() for line in console.file.getvalue().splitlines()]


def run(folder: Path) -> Comparison:
    comparison = Comparison(resolve(**TINY), folder, Console(quiet=True))
    comparison.run()
    return comparison


def trials(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "trials").glob("*.json"))}


def test_what_is_tried_depends_on_the_recipe_alone() -> None:
    kd, budget = Recipe.load("kd"), Budget()
    drawn = proposals(kd, budget, 6)
    spread.cache_clear()
    assert drawn[0] == {} and drawn == proposals(kd, budget, 6)
    space = space_of(kd, budget)
    assert set(space) == {RATE, "kd.weight", "kd.temperature"}
    for params in drawn[1:]:
        assert all(low <= params[name] <= high for name, (low, high) in space.items())
    assert len({tuple(params.items()) for params in drawn}) == 6
    recipe, tried = set_to(kd, budget, drawn[1])
    assert tried.learning_rate == drawn[1][RATE]
    assert recipe.stages[0].terms[0].weight == drawn[1]["kd.weight"]


@pytest.mark.parametrize("count", [2, 3, 8, 20])
def test_all_methods_try_the_same_rates_evenly(count: int) -> None:
    budget = Budget(learning_rate=1e-3)
    tried = {name: proposals(Recipe.load(name), budget, count) for name in ("none", "kd", "pkd", "lrc", "tinybert")}
    rates = [params[RATE] for params in tried["none"][1:]]
    assert all([params[RATE] for params in of[1:]] == rates for of in tried.values())
    for name, of in tried.items():
        for option, (low, high) in space_of(Recipe.load(name), budget).items():
            parts = [math.log(params[option] / low) / math.log(high / low) * (count - 1) for params in of[1:]]
            # A digit is rounded away, which may take one over the border of two parts.
            assert all(low <= params[option] <= high for params in of[1:])
            assert all(-0.01 <= part - at <= 1.01 for at, part in enumerate(sorted(parts))), (name, option)


def test_few_settings_do_not_rise_and_fall_together() -> None:
    rows = np.array(spread(7, 3))
    assert np.abs(np.corrcoef(rows.T) - np.eye(4)).max() < 0.5


def test_a_trial_has_one_rate_whatever_else_is_fixed_or_idle() -> None:
    kd, budget = Recipe.load("kd"), Budget()
    whole, part = proposals(kd, budget, 5), proposals(kd, budget, 5, idle={"kd.temperature"})
    assert part == [{key: value for key, value in params.items() if key != "kd.temperature"} for params in whole]
    fixed = proposals(kd, budget, 5, {"kd.temperature"})
    assert [params.get(RATE) for params in fixed] == [params.get(RATE) for params in whole]
    with pytest.raises(KdzooError, match=r"kd: --set gives learning_rate and kd.weight, .*; kd.temperature would"):
        proposals(kd, budget, 5, {RATE, "kd.weight"}, {"kd.temperature"})


def test_the_weight_of_a_term_alone_in_its_stage_is_not_sought() -> None:
    assert "soft_ce.weight" not in Recipe.load("tinybert").ranges and "cos_nce.weight" in Recipe.load("lrc").ranges
    assert {"hidden_mse.weight", "soft_ce.temperature"} <= {*Recipe.load("tinybert").ranges}


def test_what_a_recipe_marks_is_what_is_sought() -> None:
    recipe = Recipe.load("kd").model_copy(update={"tunable": {"kd.temperature": (2.0, 4.0)}})
    assert set(space_of(recipe, Budget())) == {RATE, "kd.temperature"}
    assert space_of(Recipe.load("none"), Budget()).keys() == {RATE}
    assert parted(trial_name("kd", 7)) == ("kd", 7) and parted("kd") == ("kd", None)


def test_what_was_set_is_not_sought(tmp_path: Path) -> None:
    set_ = ("kd:kd.temperature=4", "kd:training.learning_rate=3e-4")
    settings = resolve(**TINY | {"overrides": set_})
    kd = Comparison(settings, tmp_path / "a", Console(quiet=True))
    assert [set(tried) for tried in kd.work.proposals("sst2", "kd")] == [set(), {"kd.weight"}]
    assert RATE in kd.work.proposals("sst2", "none")[1]
    marked = resolve(**TINY | {"overrides": (*set_, "kd:tunable={kd.temperature: [2, 6]}")})
    kd = Comparison(marked, tmp_path / "b", Console(quiet=True))
    assert [set(tried) for tried in kd.work.proposals("sst2", "kd")] == [set(), {"kd.temperature"}]
    told = resolve(**TINY | {"overrides": ("none:training.learning_rate=3e-4",)})
    with pytest.raises(KdzooError, match="none: --set gives learning_rate, which is all that --tune would seek"):
        Comparison(told, tmp_path / "c", Console(quiet=True))


@pytest.mark.parametrize(
    ("settings", "fixed"),
    [
        (["kd.temperature=4"], {"kd.temperature"}),
        (["lrc:stages.1.terms.1.temperature=4"], {"kd.temperature"}),
        (["stages.01.terms.00.weight={points: [[0, 1], [1, 0]]}"], {"cos_nce.weight"}),
        (["lrc:stages.1.terms.1={loss: kd, temperature: 4, weight: 0.5}"], {"kd.temperature", "kd.weight"}),
        (["stages.1.terms=[{loss: kd, weight: 0.9}, {loss: ce}]"], {"kd.weight"}),
        (["stages=[{terms: [{loss: kd, temperature: 4}, {loss: ce}]}]"], {"kd.temperature"}),
        (["kd:kd.temperature=4", "stages.0.lr_factor=0.5"], set()),
        (["lrc:training={learning_rate: 1e-3}"], {RATE}),
        (["lrc:training={weight_decay: 0.1}"], set()),
        (["stages.1.terms.1.weight=4", "tunable={kd.weight: [1, 8]}"], set()),
    ],
)
def test_what_was_set_is_told_in_whichever_way_it_is_named(settings: list[str], fixed: set[str]) -> None:
    recipe = Recipe.load("lrc").override([setting for setting in settings if not setting.startswith("kd:")])
    found = fixed_for(settings, recipe)
    assert {key for key in found if key in {RATE, *recipe.ranges, *fixed}} == fixed


def test_what_does_nothing_on_a_task_is_not_sought_there(tmp_path: Path) -> None:
    lines: list[str] = []
    both = TINY | {"tasks": ("sst2", "stsb"), "methods": ("kd",), "overrides": ("kd.reduction=mean",)}
    comparison = made(tmp_path / "a", lines, **both)
    assert [set(comparison.work.proposals(task, "kd")[1]) for task in both["tasks"]] == [
        {RATE, "kd.weight", "kd.temperature"},
        {RATE, "kd.weight"},
    ]
    assert [line for line in lines if "warning" in line] == [
        "stsb   kd warning: kd.reduction=mean has no effect here: numbers are compared as they are"
    ]
    alone = both | {"tasks": ("stsb",), "tune": 0}
    for setting in ("kd.reduction=mean", "kd.temperature=8", "stages.0.terms.0.temperature=8"):
        with pytest.raises(KdzooError, match=f"setting '{setting}' has no effect on stsb: numbers are compared"):
            made(tmp_path / "b", lines, **alone | {"overrides": (setting,)})
    nothing = {"overrides": ("kd:kd.weight=0.4", "kd:training.learning_rate=1e-3"), "tune": 2}
    with pytest.raises(KdzooError, match=r"^stsb: kd: --set gives learning_rate and kd.weight, .* leave one out"):
        made(tmp_path / "c", lines, **alone | nothing)


def test_settings_of_a_projection_that_is_not_there(tmp_path: Path) -> None:
    lines: list[str] = []
    equal = TINY | {"methods": ("lrc", "none"), "tune": 0, "teacher": "2x16,heads=2", "student": "2x16,heads=2"}
    for setting, why in (("bias", "nothing is projected"), ("shared", "the loss learns nothing here")):
        with pytest.raises(KdzooError, match=f"setting 'cos_nce.{setting}=true' has no effect on sst2: {why}"):
            made(tmp_path, lines, **equal | {"overrides": (f"cos_nce.{setting}=true",)})
    narrow = equal | {"student": "2x8,heads=2", "overrides": ("cos_nce.bias=true", "cos_nce.shared=true")}
    made(tmp_path, lines, **narrow)
    with pytest.raises(KdzooError, match=r"cos_nce.shared=true' has no effect on sst2: one layer is compared"):
        made(tmp_path / "one", lines, **narrow | {"student": "1x8,heads=2"})
    assert not [line for line in lines if "warning" in line]


def test_what_a_recipe_of_ones_own_holds_without_effect_is_told(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    file.write_text("name: own\nstages:\n- terms: [{loss: kd, temperature: 4}, {loss: hidden_mse, shared: true}]\n")
    lines: list[str] = []
    told = {"tasks": ("stsb",), "methods": (str(file), "x = kd(temperature=3) + ce", "kd"), "tune": 0}
    equal = {"teacher": "2x16,heads=2", "student": "2x16,heads=2"}
    made(tmp_path / "a", lines, **TINY | told | equal)
    assert [line for line in lines if "warning" in line] == [
        "stsb   own warning: hidden_mse.shared has no effect here: "
        "the loss learns nothing here that layers could share",
        "stsb   own warning: kd.temperature has no effect here: numbers are compared as they are",
        "stsb   x   warning: kd.temperature has no effect here: numbers are compared as they are",
    ]


@pytest.mark.parametrize(
    ("marked", "says"),
    [
        (
            "{kd.temperature: [-2, 1]}",
            "kd on sst2: --tune would seek kd.temperature from -2 to 1, and -2 does not work: kd: temperature is -2",
        ),
        ("{kd.weight: [0, 1], ce.weight: [0, 1]}", None),
        ("{kd.reduction: [0, 1]}", "tunable: kd.reduction takes no fractions"),
    ],
)
def test_the_ends_of_what_is_sought_are_tried_before_any_training(
    marked: str, says: str | None, tmp_path: Path
) -> None:
    told = TINY | {"methods": ("kd",), "overrides": (f"kd:tunable={marked}",)}
    if says is None:
        made(tmp_path, [], **told)
        return
    with pytest.raises(KdzooError, match=says):
        made(tmp_path, [], **told)


def test_one_trial_is_none(tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=r"^--tune 1 tries each recipe's own settings alone .*; give 2 or more trials"):
        resolve(**TINY | {"tune": 1})
    with pytest.raises(KdzooError, match="tune = True"):
        resolve(**TINY | {"tune": True})
    with pytest.raises(KdzooError, match=r"3 rows are too few .*; --tune and --keep best do, so give more"):
        made(tmp_path, [], **TINY | {"train_rows": 3})


def test_trials_come_before_the_cells_and_what_they_found_is_trained(tmp_path: Path) -> None:
    run(tmp_path)
    found = trials(tmp_path)
    assert set(found) == {f"sst2-{method}#{trial}-0" for method in ("none", "kd") for trial in (0, 1)}
    assert all(record["rows"] == {"train": 36, "validation": 4} for record in found.values())
    assert all(len(record["predictions"]["validation"]) == 4 for record in found.values()), "a tenth of 40"
    for method in ("none", "kd"):
        scores = [found[f"sst2-{method}#{trial}-0"]["score"] for trial in (0, 1)]
        best = 1 if scores[1] > scores[0] else 0
        chosen = found[f"sst2-{method}#{best}-0"]["configuration"]
        assert found[f"sst2-{method}#0-0"]["tried"] == {} and RATE in found[f"sst2-{method}#1-0"]["tried"]
        for seed in (0, 3):
            cell = json.loads((tmp_path / "cells" / f"sst2-{method}-{seed}.json").read_text())
            assert cell["configuration"].get("budget") == chosen.get("budget")
            assert cell["configuration"]["recipe"] == chosen["recipe"]
            assert len(cell["predictions"]["validation"]) == 12 and cell["rows"] == {"train": 40, "validation": 12}


def test_no_trial_reads_a_validation_row(tmp_path: Path) -> None:
    run(tmp_path / "clean")
    comparison = Comparison(resolve(**TINY), tmp_path / "poisoned", Console(quiet=True))
    validation = comparison.work.rows.loaded["sst2"]["validation"]
    comparison.work.rows.loaded["sst2"]["validation"] = validation.map(
        lambda row: {"sentence": "", "label": 1 - row["label"]}
    )
    comparison.run()
    clean, dirty = trials(tmp_path / "clean"), trials(tmp_path / "poisoned")
    assert clean.keys() == dirty.keys()
    for name in clean:
        assert clean[name]["predictions"] == dirty[name]["predictions"] and clean[name]["score"] == dirty[name]["score"]


def test_a_killed_tuning_goes_on(tmp_path: Path) -> None:
    run(tmp_path / "whole")
    comparison = run(tmp_path / "part")
    for path in [*(tmp_path / "part" / "cells").iterdir(), tmp_path / "part" / "trials" / "sst2-kd#1-0.json"]:
        path.unlink()
    older = tmp_path / "part" / "trials" / "sst2-kd#0-0.json"
    # Of an earlier version, which counted the rows of the whole task.
    older.write_text(json.dumps(json.loads(older.read_text()) | {"rows": {"train": 40, "validation": 12}}))
    kept = older.stat().st_mtime_ns
    assert run(tmp_path / "part").work.chosen == comparison.work.chosen
    assert older.stat().st_mtime_ns == kept
    for path in (tmp_path / "whole" / "cells").iterdir():
        again = json.loads((tmp_path / "part" / "cells" / path.name).read_text())
        assert again["predictions"] == json.loads(path.read_text())["predictions"]


class Chosen:
    """Trains with made-up scores of the trials, some of which fail."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **scores: float | None) -> None:
        self.scores: dict[str, float | None] = {name.replace("_", "#"): score for name, score in scores.items()}
        self.trained: list[Any] = []
        train = Cells.train

        def made_up(work: Cells, job: Any, progress: Any = None) -> dict[str, Any]:
            self.trained.append(job)
            if self.scores.get(job[1], 0.0) is None:
                raise RuntimeError("made to fail")
            record = train(work, job, progress)
            return record | {"score": self.scores[job[1]]} if job[1] in self.scores else record

        monkeypatch.setattr(Cells, "train", made_up)


def budgets(folder: Path, method: str = "kd") -> set[float]:
    """The rates that a method's cells were trained with."""
    found = [json.loads(path.read_text())["configuration"] for path in (folder / "cells").glob(f"*-{method}-*.json")]
    return {one.get("budget", TINY["budget"])["learning_rate"] for one in found}


def test_a_trial_that_fails_is_read_back_and_is_no_method(
    commands: Commands, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    chosen = Chosen(monkeypatch, kd_0=0.1, kd_1=None)
    comparison = run(tmp_path / "run")
    assert {*comparison.failed} == {("sst2", "kd#1", 0)} and not comparison.failed_cells
    own = TINY["budget"]["learning_rate"]
    assert budgets(tmp_path / "run") == {own}, "of the trials that ended, the best"
    ran = commands("table", tmp_path / "run")
    assert ran.code == 0 and "kd#1" not in ran.out and "left out" not in ran.err
    commands.works("pack", tmp_path / "run", tmp_path / "run.jsonl.gz")
    chosen.trained.clear()
    again = run(tmp_path / "run")
    assert not chosen.trained and {*again.failed} == {("sst2", "kd#1", 0)}, "it failed before, and is not tried again"
    assert not [*(tmp_path / "run").rglob("*damaged*")]
    # Where it works at last and is the best, the cells have its settings.
    chosen.scores["kd#1"] = 0.9
    comparison = Comparison(resolve(**TINY), tmp_path / "run", Console(quiet=True))
    comparison.run(retry_failed=True)
    [rate] = budgets(tmp_path / "run")
    assert not comparison.failed and rate != own and rate == comparison.work.chosen["sst2", "kd"][RATE]
    assert {job[1] for job in chosen.trained} == {"kd#1", "kd"}
    assert len([*(tmp_path / "run" / "cells").glob("*.before-1")]) == 2
    chosen.trained.clear()
    run(tmp_path / "run")
    assert not chosen.trained


def test_trials_do_not_depend_on_the_seeds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    chosen = Chosen(monkeypatch)
    for seeds, new in (((7,), 7), ((3, 7), 3), ((0, 3, 7), 0)):
        chosen.trained.clear()
        Comparison(resolve(**TINY | {"seeds": seeds}), tmp_path, Console(quiet=True)).run()
        cells = {job for job in chosen.trained if job[1] in ("none", "kd")}
        assert cells == {("sst2", method, new) for method in ("none", "kd")}
        assert seeds == (7,) or len(chosen.trained) == 2, "no trial is run again"


def test_a_method_is_added_with_settings_of_its_own(tmp_path: Path) -> None:
    """What the other cells were trained with has not changed; where it has, the cell says what."""
    plain = TINY | {"tune": 0, "methods": ("none",), "seeds": (0,)}
    Comparison(resolve(**plain), tmp_path, Console(quiet=True)).run()
    more = plain | {"methods": ("none", "kd"), "overrides": ("kd:kd.temperature=3",)}
    comparison = Comparison(resolve(**more), tmp_path, Console(quiet=True))
    assert comparison.work.find(("sst2", "none", 0)) is not None
    comparison.run()
    other = resolve(**more | {"overrides": ("kd:kd.temperature=4",)})
    with pytest.raises(KdzooError, match=r"sst2-kd-0.json is of another configuration: .*temperature is 3.* and 4"):
        Comparison(other, tmp_path, Console(quiet=True)).run()


@pytest.mark.slow
def test_workers_tune_alike(commands: Commands, tmp_path: Path) -> None:
    given = (
        "compare", "--tasks", "sst2", "--methods", "kd", "--tune", 2, "--seeds", 1, "--teacher", "1x16,heads=2",
        "--student", "1x8,heads=2", "--train-rows", 40, "--validation-rows", 12, "--epochs", 1, "--batch-size", 8,
        "--max-length", 16, "--evaluations", 0,
    )  # fmt: skip
    for workers in (1, 2):
        assert commands(*given, "--workers", workers, "--out", tmp_path / str(workers)).code == 0
    alone, together = trials(tmp_path / "1"), trials(tmp_path / "2")
    assert alone.keys() == together.keys() and len(alone) == 2
    for name in alone:
        assert alone[name]["tried"] == together[name]["tried"]
        assert alone[name]["score"] == pytest.approx(together[name]["score"], abs=0.26)  # of four rows, one may differ


@pytest.mark.parametrize(
    ("tunable", "says"),
    [
        ({"kd.temperature": [4, 2]}, "kd.temperature is from 4 to 2; the first number must be the smaller"),
        ({"foo.bar": [2, 4]}, "unknown term of tunable 'foo'"),
        ({"kd.temprature": [2, 4]}, "unknown tunable option of 'kd' 'temprature'.*did you mean 'temperature'"),
        ({"kd.reduction": [0, 1]}, "tunable: kd.reduction takes no fractions.*leave it out"),
    ],
)
def test_what_cannot_be_tuned_is_refused_when_it_is_read(tunable: Any, says: str) -> None:
    data = Recipe.load("kd").model_dump(mode="json", exclude_defaults=True) | {"tunable": tunable}
    with pytest.raises(KdzooError, match=says):
        Recipe.parse(data)


def test_the_limit_of_the_cache_is_for_the_trials_rows_too(tmp_path: Path) -> None:
    taken = {}
    for name, told in (("plain", {"tune": 0}), ("tuned", {}), ("held out", {"keep": "best", "evaluations": 1})):
        comparison = Comparison(resolve(**TINY | told), tmp_path / name, Console(quiet=True))
        taken[name] = comparison.work.cache(comparison.tasks[0])[2]
    assert taken["tuned"] == 2 * taken["plain"] == 2 * taken["held out"] > 0


@pytest.mark.parametrize("name", recipe_names())
def test_a_recipe_s_own_numbers_lie_within_what_is_sought(name: str) -> None:
    recipe = Recipe.load(name)
    for key, (low, high) in recipe.ranges.items():
        loss, _, option = key.partition(".")
        terms = [term for stage in recipe.stages for term in stage.terms if term.loss == loss]
        assert terms, key
        for term in terms:
            own = term.weight if option == "weight" else term.options.get(option, options_of(loss_class(loss))[option])
            assert not isinstance(own, (int, float)) or low <= own <= high, key


def test_the_ends_of_what_was_searched_in_a_source_are_marked() -> None:
    marked = Recipe.load("pkd").tunable
    assert {key: ends for key, ends in marked.items() if key != "kd.weight"} == {
        "kd.temperature": (5.0, 20.0),
        "pkd.weight": (10.0, 1000.0),
    }
    assert Recipe.load("kd").ranges == {"kd.weight": marked["kd.weight"], "kd.temperature": (1.0, 20.0)}
    for name in ("kd", "pkd"):
        (labels,) = (term.weight for term in Recipe.load(name).stages[0].terms if term.loss == "ce")
        assert isinstance(labels, float)
        ratios = [end / labels for end in Recipe.load(name).ranges["kd.weight"]]
        assert ratios == pytest.approx([0.2 / 0.8, 0.7 / 0.3], rel=1e-3), "of the sources' α KD + (1 - α) CE"


def test_temperatures_of_softened_predictions_are_sought() -> None:
    assert Recipe.load("crd_kd").ranges["kd.temperature"] == (1.0, 10.0)
    assert Recipe.load("dkd").ranges["dkd.temperature"] == (1.0, 10.0)
    assert Recipe.load("ckd").ranges["soft_ce.temperature"][0] == 1.0
    assert Recipe.load("alp").ranges["kd.temperature"] == (1.0, 20.0), "its own is 20"
    assert not [name for name in Recipe.load("crd").ranges if "crd.temperature" in name]


@pytest.mark.parametrize(
    ("told", "says"),
    [
        (
            {"overrides": ("kd:tunable={kd.temperature: [2, 4]}",)},
            "has no effect: kdzoo compare --tune seeks within it",
        ),
        (
            {"recipe_training": True, "overrides": ("training.epochs=2",)},
            r"--epochs and --set training\.epochs say the same thing",
        ),
        (
            {"overrides": ("training.warmup_ratio=0.2",)},
            "is each recipe's own; --warmup-ratio 0.2 gives all methods this one",
        ),
        (
            {"recipe_training": True, "overrides": ("training={epochs: 2}",), "budget": TINY["budget"]},
            r"--epochs and --set training\.epochs say the same thing",
        ),
        ({"recipe_training": True, "overrides": ("training=5",)}, "training"),
        ({"tune": 2, "augment": 2}, "trials would lack the copies of --augment"),
    ],
)
def test_settings_that_would_have_no_effect(told: dict[str, Any], says: str, tmp_path: Path) -> None:
    with pytest.raises(KdzooError, match=says):
        Comparison(resolve(**TINY | {"tune": 0} | told), tmp_path, Console(quiet=True))


@pytest.mark.parametrize(
    ("told", "seeds"), [(2, (0, 1)), ("3", (0, 1, 2)), ("0,3,7", (0, 3, 7)), ("7,", (7,)), ((5,), (5,))]
)
def test_seeds_are_a_number_of_them_or_which(told: Any, seeds: tuple[int, ...]) -> None:
    settings = Settings(tasks=("sst2",), methods=("none",), data="synthetic", teacher="1x8", seeds=told)
    assert settings.seeds == seeds


@pytest.mark.parametrize("told", ["0", "a", "1,b", "3,3", "-1", "", 0, 10**6])
def test_seeds_that_are_none(told: Any) -> None:
    with pytest.raises(KdzooError, match="seeds"):
        resolve(**{**TINY, "seeds": told})


def test_the_command_tunes(commands: Commands, tmp_path: Path) -> None:
    out = commands.works(
        "compare", "--tasks", "sst2", "--methods", "kd", "--tune", 2, "--seeds", "1,", "--teacher", "1x16,heads=2",
        "--student", "1x8,heads=2", "--train-rows", 40, "--validation-rows", 12, "--epochs", 1, "--batch-size", 8,
        "--max-length", 16, "--evaluations", 0, "--out", tmp_path,
    )  # fmt: skip
    assert "kd is trained with" in out
    assert "one budget for all, but what 2 trials a method chose" in " ".join(out.split())
    assert {path.name for path in (tmp_path / "cells").iterdir()} == {"sst2-kd-1.json"}
