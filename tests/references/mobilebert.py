"""Sun et al. 2020, section 3.4, and the authors' decomposition: one position, or one head and query, at a time."""

import math

import numpy as np

from references import attention_scores, log_softmax, mean, positions

LAYOUTS = [("BD", False), ("BSD", False), ("BSD", True), ("QKV", False), ("QKV", True), ("BASS", False), ("BASS", True)]
SETTINGS = [
    {},
    {"decomposed": True, "mean_weight": 0.5, "variance_weight": 3.0},
    {"decomposed": False, "hidden_weight": 2.0, "attention_weight": 0.3},
]
COMMAND = {"hidden_weight": 100.0, "mean_weight": 5000.0, "variance_weight": 5.0}


def draw_options(rng, *sizes):
    """Weights under which half-precision gradients do not overflow; the command's own are tested by themselves."""
    return {"hidden_weight": float(rng.uniform(0.5, 5)), "mean_weight": float(rng.uniform(0.5, 5))}


def moments(vector):
    centre = math.fsum(vector) / len(vector)
    return centre, math.fsum((x - centre) ** 2 for x in vector) / len(vector)


def hidden(student, teacher, mask, decomposed, weight):
    values = []
    for index in positions(student, mask):
        ours, theirs = student[index], teacher[index]
        value = 0.0
        if decomposed:
            (mean_s, var_s), (mean_t, var_t) = moments(ours), moments(theirs)
            value += weight["mean_weight"] * (mean_s - mean_t) ** 2 + weight["variance_weight"] * abs(var_s - var_t)
            ours, theirs = (ours - mean_s) / math.sqrt(var_s + 1e-12), (theirs - mean_t) / math.sqrt(var_t + 1e-12)
        value += weight["hidden_weight"] * math.fsum((ours - theirs) ** 2) / len(ours)
        values.append(value)
    return mean(values)


def attention(student, teacher, mask, released):
    ours, theirs = attention_scores(student), attention_scores(teacher)
    rows, heads, length, _ = ours.shape
    values = []
    for b in range(rows):
        keys = [k for k in range(length) if mask is None or mask[b, k]]
        for a in range(heads):
            for q in range(length) if released else keys:
                log_p, log_q = log_softmax(theirs[b, a, q], keys), log_softmax(ours[b, a, q], keys)
                values.append(sum(math.exp(log_p[k]) * ((0.0 if released else log_p[k]) - log_q[k]) for k in keys))
    return mean(values)


def reference(student, teacher, *, mask, variant="paper", decomposed=None, attention_weight=1.0, **options):
    released = variant == "released"
    if not isinstance(student, np.ndarray) or student.ndim == 4:
        return attention_weight * attention(student, teacher, mask, released)
    weight = {name: options.get(name, command if released else 1.0) for name, command in COMMAND.items()}
    apart = released if decomposed is None else decomposed
    return hidden(student, teacher, None if released else mask, apart, weight)
