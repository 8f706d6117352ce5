"""--tune: the same number of trials for each method, scored on training rows held out for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from kdzoo.bench.runs.budget import Budget
from kdzoo.bench.trials import best_trial, in_words, trial_name
from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Recipe

if TYPE_CHECKING:
    from kdzoo.bench.grid.cells import Cells
    from kdzoo.tasks import Task

RATE = "learning_rate"
WIDER = 5.0  # a rate is sought between a fifth of the budget's and five times as much
SEED = 0  # of the rows that are held out, of the settings that are tried and of the trials

Params = dict[str, float]


def space_of(recipe: Recipe, budget: Budget, fixed: Collection[str] = ()) -> dict[str, tuple[float, float]]:
    """What is sought for a method and between which values: its rate, and what its recipe marks (`Recipe.tunable`).

    Args:
        recipe: the method's.
        budget: of its students.
        fixed: what was given to it, and is not sought.

    Raises:
        KdzooError: nothing is left to seek.
    """
    whole = {RATE: (budget.learning_rate / WIDER, budget.learning_rate * WIDER), **recipe.ranges}
    space = {name: ends for name, ends in whole.items() if name not in fixed}
    if not space:
        raise KdzooError(
            f"{recipe.name}: --set gives {' and '.join(whole)}, which is all that --tune would seek; leave one out"
        )
    return space


def proposals(recipe: Recipe, budget: Budget, trials: int, fixed: Collection[str] = ()) -> list[Params]:
    """The settings that are tried, drawn by Optuna on a logarithmic scale; the first is the recipe's own.

    They depend on the recipe, the budget, the number of trials and what is fixed, so any process can tell them.

    Raises:
        KdzooError: Optuna is not installed; nothing is left to seek.
    """
    try:
        import optuna
    except ImportError:
        raise KdzooError("--tune needs Optuna; install it with: pip install 'kdzoo[bench]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    distributions: Any = {
        name: optuna.distributions.FloatDistribution(low, high, log=low > 0)
        for name, (low, high) in space_of(recipe, budget, fixed).items()
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    drawn: list[Params] = [{}]
    for _ in range(trials - 1):
        drawn.append({name: float(f"{value:.4g}") for name, value in study.ask(distributions).params.items()})
    return drawn[:trials]


def set_to(recipe: Recipe, budget: Budget, params: Mapping[str, float]) -> tuple[Recipe, Budget]:
    """A recipe and a budget with a trial's settings."""
    own = [f"{name}={value!r}" for name, value in params.items() if name != RATE]
    rate = {RATE: params[RATE]} if RATE in params else {}
    return recipe.override(own) if own else recipe, budget.model_copy(update=rate)


def chosen_of(
    work: Cells, recipes: Mapping[str, Recipe], tasks: Sequence[Task], say: Callable[[str], None]
) -> dict[tuple[str, str], Params]:
    """By task and method the settings of its best trial; the first of those that are level.

    Args:
        work: finds the trials' records.
        recipes: by method.
        tasks: all of them.
        say: told what was chosen.
    """
    chosen: dict[tuple[str, str], Params] = {}
    for task in tasks:
        for method, recipe in recipes.items():
            tried = work.proposals(recipe)
            scores = {}
            for trial in range(len(tried)):
                record = work.find((task.name, trial_name(method, trial), SEED))
                if record is not None:
                    scores[trial] = float(record["score"])
            if scores:
                best = best_trial(scores)
                chosen[task.name, method] = tried[best]
                told = in_words(tried[best])
                gain = f", {scores[best] - scores[0]:+.1f} to its own" if best and 0 in scores else ""
                lost = len(tried) - len(scores)
                failed = f"; {lost} of {len(tried)} trials failed" if lost else ""
                say(
                    f"{task.name:<6} {method} is trained with {told}: {scores[best]:.1f} on held-out rows{gain}{failed}"
                )
    return chosen
