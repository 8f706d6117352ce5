"""Sun et al. 2020: one row's summary against its own and those stored of other rows; released: noise contrast."""

import math

import torch

from references import mean, normalised
from references.crd import one_side

LAYOUTS = [("BMD", False), ("BMSD", False), ("BMSD", True)]
SETTINGS = [{}, {"anchor": "student"}]


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


def fit_options(student, teacher):
    return {"num_layers": student.shape[1]}


def draw_extras(rng, student, teacher, options):
    shape = (len(student), options["num_negatives"])
    return {"contrast_ids": torch.from_numpy(rng.integers(options["num_samples"], size=shape))}


def embedded(states, b, mask, state, side):
    summary = []
    for layer in states[b]:
        if layer.ndim == 2:
            valid = [s for s in range(len(layer)) if mask is None or mask[b, s]]
            layer = sum(layer[s] for s in valid) / len(valid) if valid else 0 * layer[0]
        summary += list(layer)
    return normalised(state[f"embed_{side}.weight"] @ summary + state[f"embed_{side}.bias"])


def reference(
    student,
    teacher,
    *,
    mask,
    sample_ids,
    state,
    num_samples,
    temperature,
    contrast_ids,
    anchor="teacher",
    variant="paper",
    **_,
):
    if variant == "released":
        mask = None
    rows = range(len(student))
    ours = [embedded(student, b, mask, state, "student") for b in rows]
    theirs = [embedded(teacher, b, mask, state, "teacher") for b in rows]
    if variant == "released":
        value = 0.0
        for anchors, stored in ((ours, "teacher_bank"), (theirs, "student_bank")):
            bank = state[stored]
            candidates = [[bank[sample_ids[b]], *(bank[k] for k in contrast_ids[b])] for b in rows]
            value += one_side(anchors, candidates, num_samples, temperature) / 2
        return value
    values = []
    for b in rows:
        if mask is not None and not mask[b].any():
            continue
        own, stored = (theirs[b], "student_bank") if anchor == "teacher" else (ours[b], "teacher_bank")
        scores = [math.fsum(ours[b] * theirs[b]), *(math.fsum(own * state[stored][k]) for k in contrast_ids[b])]
        highest = max(scores)
        exponentials = [math.exp((score - highest) / temperature) for score in scores]
        values.append(-math.log(exponentials[0] / math.fsum(exponentials)))
    return mean(values)
