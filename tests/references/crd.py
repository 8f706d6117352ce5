"""Tian et al. 2020, equation 18 with the authors' constants, one pair at a time."""

import math

import torch

from references import normalised

SETTINGS = [{"bank": "dataset"}, {"bank": "queue"}, {"bank": "batch"}]


def draw_options(rng, student_width, teacher_width, rows):
    return {
        "num_samples": int(rng.integers(8, 60)),
        "num_negatives": int(rng.integers(1, 12)),
        "feature_dim": int(rng.integers(2, 6)),
        "temperature": float(rng.uniform(0.07, 1)),
        "momentum": float(rng.uniform(0, 1)),
        "student_dim": student_width,
        "teacher_dim": teacher_width,
    }


def draw_extras(rng, student, teacher, options):
    if options["bank"] == "batch":
        return {}
    shape = (len(student), options["num_negatives"])
    return {"contrast_ids": torch.from_numpy(rng.integers(options["num_samples"], size=shape))}


def embedded(vectors, state, side):
    weight, bias = state[f"embed_{side}.weight"], state[f"embed_{side}.bias"]
    return [normalised(weight @ vector + bias) for vector in vectors]


def one_side(anchors, candidates, total, temperature):
    """The anchors against their candidates, of which the first is the positive; ``total`` is n."""
    rows = len(anchors)
    exponentials = [
        [math.exp(math.fsum(anchors[i] * candidate) / temperature) for candidate in candidates[i]] for i in range(rows)
    ]
    count = sum(map(len, exponentials))
    normaliser = math.fsum(e for row in exponentials for e in row) / count * total
    value = 0.0
    for row in exponentials:
        noise = (len(row) - 1) / total
        first = row[0] / normaliser
        value += math.log(first / (first + noise + 1e-7))
        for e in row[1:]:
            value += math.log(noise / (e / normaliser + noise + 1e-7))
    return -value / rows


def reference(student, teacher, *, sample_ids, state, num_samples, temperature, bank, contrast_ids=None, **_):
    ours, theirs = embedded(student, state, "student"), embedded(teacher, state, "teacher")
    rows = len(ours)
    value = 0.0
    for anchors, own, stored in ((ours, theirs, "teacher_bank"), (theirs, ours, "student_bank")):
        if bank == "batch":
            candidates = [[own[i], *(own[j] for j in range(rows) if j != i)] for i in range(rows)]
            value += one_side(anchors, candidates, rows, temperature)
            continue
        positives = own if bank == "queue" else [state[stored][sample_ids[i]] for i in range(rows)]
        candidates = [[positives[i], *(state[stored][k] for k in contrast_ids[i])] for i in range(rows)]
        value += one_side(anchors, candidates, num_samples, temperature)
    return value
