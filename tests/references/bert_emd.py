"""Li et al. 2020: pairwise layer costs by loops, and the transport problem as a linear programme."""

import math

import numpy as np
from scipy.optimize import linprog

from references import mean

LAYOUTS = [("BMD", False), ("BMSD", False), ("BMSD", True), ("QKV", False), ("QKV", True)]
SETTINGS = [{}, {"temperature": 3.0}, {"update_weights": False}]


def fit_options(student, teacher):
    ours, theirs = (side if not isinstance(side, tuple) else side[0] for side in (student, teacher))
    return {"student_layers": ours.shape[1], "teacher_layers": theirs.shape[1]}


def hidden_cost(ours, theirs, mask):
    """Of one layer pair (B, ..., D)."""
    return mean(
        [
            (ours[index] - theirs[index]) ** 2
            for index in np.ndindex(*ours.shape)
            if mask is None or mask[index[0], index[1]]
        ]
    )


def attention_cost(ours, theirs, mask, released):
    """Of one layer pair, given as queries and keys (B, A, S, d)."""
    rows, heads, length, _ = ours[0].shape
    values = []
    for b, a, q, k in np.ndindex(rows, heads, length, length):
        if mask is not None and not released and not (mask[b, q] and mask[b, k]):
            continue
        pair = []
        for query, key in (ours, theirs):
            score = math.fsum(query[b, a, q] * key[b, a, k]) / math.sqrt(query.shape[-1])
            # The authors' models add -10000 to a padded key's score.
            hidden = released and (score <= -100 or (mask is not None and not mask[b, k]))
            pair.append(0.0 if hidden else score)
        values.append((pair[0] - pair[1]) ** 2)
    return mean(values)


def reference(student, teacher, *, mask, state, variant="paper", **_):
    released = variant == "released"
    weights, demands = state["student_weights"], state["teacher_weights"]
    costs = np.zeros((len(weights), len(demands)))
    for m, n in np.ndindex(*costs.shape):
        if isinstance(student, tuple):
            sides = [(side[0][:, layer], side[1][:, layer]) for side, layer in ((student, m), (teacher, n))]
            costs[m, n] = attention_cost(*sides, mask, released)
        else:
            costs[m, n] = hidden_cost(student[:, m], teacher[:, n], None if released else mask)
    if not costs.any():
        return 0.0
    rows = [np.eye(len(weights))[m][:, None] * np.ones(len(demands)) for m in range(len(weights))]
    columns = [np.ones(len(weights))[:, None] * np.eye(len(demands))[n] for n in range(len(demands))]
    constraints = np.array([side.ravel() for side in (*rows, *columns)])
    sums = np.concatenate([weights / weights.sum(), demands / demands.sum()])
    # One equation follows from the others, and rounding would set it against them.
    solved = linprog(costs.ravel() / costs.max(), A_eq=constraints[:-1], b_eq=sums[:-1], method="highs")
    return float(solved.x @ costs.ravel())
