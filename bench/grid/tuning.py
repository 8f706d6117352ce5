"""--tune: the same number of trials for each method, scored on training rows held out for it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdzoo.bench.runs.budget import Budget
from kdzoo.bench.trials import best_trial, in_words, trial_name
from kdzoo.errors import KdzooError
from kdzoo.objectives.recipe import Recipe

if TYPE_CHECKING:
    from kdzoo.bench.grid.cells import Cells
    from kdzoo.tasks import Task

RATE = "learning_rate"
WIDER = 5.0  # a rate is sought between a fifth of the budget's and five times as much
MANY = 50  # trials
SEED = 0  # of the rows that are held out, of the settings that are tried and of the trials

Params = dict[str, float]


def space_of(
    recipe: Recipe, budget: Budget, fixed: Collection[str] = (), idle: Collection[str] = ()
) -> dict[str, tuple[float, float]]:
    """What is sought for a method and between which values: its rate, and what its recipe marks (`Recipe.tunable`).

    Args:
        recipe: the method's.
        budget: of its students.
        fixed: what was given to it, and is not sought.
        idle: what has no effect on a task, and is not sought there.

    Raises:
        KdzooError: nothing is left to seek.
    """
    whole = {RATE: (budget.learning_rate / WIDER, budget.learning_rate * WIDER), **recipe.ranges}
    space = {name: ends for name, ends in whole.items() if name not in fixed and name not in idle}
    if not space:
        given = [name for name in whole if name in fixed]
        without = [name for name in whole if name not in fixed]
        effect = f"; {' and '.join(without)} would change nothing" if without else ""
        raise KdzooError(
            f"{recipe.name}: --set gives {' and '.join(given)}, which is all that --tune would seek{effect}; "
            "leave one out"
        )
    return space


def proposals(
    recipe: Recipe, budget: Budget, trials: int, fixed: Collection[str] = (), idle: Collection[str] = ()
) -> list[Params]:
    """The settings that are tried, as Optuna has them; the first is the recipe's own.

    They depend on the recipe, the budget, the number of trials, and what is fixed or idle, so any process can tell
    them. Every method tries the same rates, as shares of its budget's: one in each of as many equal parts of the
    range, on a logarithmic scale; the other settings are spread so too.

    Raises:
        KdzooError: Optuna is not installed; nothing is left to seek.
    """
    try:
        import optuna
    except ImportError:
        raise KdzooError("--tune needs Optuna; install it with: pip install 'kdzoo[bench]'") from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    sought = space_of(recipe, budget, fixed, idle)
    others = [name for name in recipe.ranges if name not in fixed]
    distributions: Any = {
        name: optuna.distributions.FloatDistribution(low, high, log=low > 0) for name, (low, high) in sought.items()
    }
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=SEED))
    drawn: list[Params] = [{}]
    for row in spread(trials - 1, len(others)):
        shares = dict(zip([RATE, *others], row, strict=True))
        study.enqueue_trial({name: _between(*ends, shares[name]) for name, ends in sought.items()})
        drawn.append(study.ask(distributions).params)
    return drawn


@cache
def spread(count: int, others: int) -> tuple[tuple[float, ...], ...]:
    """Rows of numbers from 0 to 1, each column with one in each of ``count`` equal parts: a Latin hypercube.

    The first column is the rates', the same whatever others there are.

    Args:
        count: of the rows.
        others: columns beside the first.
    """
    from scipy.stats import qmc  # which takes a while to load

    rates = qmc.LatinHypercube(1, rng=np.random.default_rng(SEED)).random(count)[:, 0]
    # Of few rows, two columns may rise and fall together by chance; many are spread well as they come.
    apart: Literal["random-cd"] | None = "random-cd" if count <= MANY else None
    rows = qmc.LatinHypercube(1 + others, rng=np.random.default_rng(SEED), optimization=apart).random(count)
    found = np.empty_like(rows)
    found[np.argsort(rates)] = rows[np.argsort(rows[:, 0])]
    found[:, 0] = rates
    return tuple(map(tuple, found.tolist()))


def _between(low: float, high: float, share: float) -> float:
    """A number of four digits at a share of the way, on a logarithmic scale where both ends are above 0."""
    found = low * (high / low) ** share if low > 0 else low + (high - low) * share
    return min(max(float(f"{found:.4g}"), low), high)


def set_to(recipe: Recipe, budget: Budget, params: Mapping[str, float]) -> tuple[Recipe, Budget]:
    """A recipe and a budget with a trial's settings."""
    own = [f"{name}={value!r}" for name, value in params.items() if name != RATE]
    rate = {RATE: params[RATE]} if RATE in params else {}
    return recipe.override(own) if own else recipe, budget.model_copy(update=rate)


def chosen_of(
    work: Cells, methods: Iterable[str], tasks: Sequence[Task], say: Callable[[str], None]
) -> dict[tuple[str, str], Params]:
    """By task and method the settings of its best trial; the first of those that are level.

    Args:
        work: finds the trials' records.
        methods: all of them.
        tasks: all of them.
        say: told what was chosen.
    """
    chosen: dict[tuple[str, str], Params] = {}
    for task in tasks:
        for method in methods:
            tried = work.proposals(task.name, method)
            scores = {}
            for trial in range(len(tried)):
                record = work.find((task.name, trial_name(method, trial), SEED))
                if record is not None:
                    scores[trial] = float(record["score"])
            if scores:
                best = best_trial(scores)
                chosen[task.name, method] = tried[best]
                told = in_words(tried[best])
                gain = f", {scores[best] - scores[0]:+.1f} to untuned" if best and 0 in scores else ""
                lost = len(tried) - len(scores)
                failed = f"; {lost} of {len(tried)} trials failed" if lost else ""
                say(
                    f"{task.name:<6} {method} is trained with {told}: {scores[best]:.1f} on held-out rows{gain}{failed}"
                )
    return chosen
