"""Haidar et al. 2022: pooled, projected and normalised layers, one pair of layers at a time."""

import numpy as np

from references import mean, normalised

LAYOUTS = [("BMD", False), ("BMSD", False), ("BMSD", True)]
DEEPER_TEACHER = True
SETTINGS = [{}, {"concatenated": True}]


def draw_options(rng, student_width, teacher_width, rows):
    return {"feature_dim": int(rng.integers(2, 6)), "student_dim": student_width, "teacher_dim": teacher_width}


def fit_options(student, teacher):
    return {"student_layers": student.shape[1]}


def draw_extras(rng, student, teacher, options):
    own, other = student.shape[1], teacher.shape[1]
    return {"drawn": tuple(sorted(int(n) for n in rng.permutation(other)[:own]))}


def pooled(states, b, m, mask):
    if states.ndim == 3:
        return states[b, m]
    valid = [s for s in range(states.shape[2]) if mask is None or mask[b, s]]
    return sum(states[b, m, s] for s in valid) / len(valid)


def reference(student, teacher, *, mask, state, drawn, concatenated=False, variant="paper", **_):
    if variant == "released":
        mask = None
    values = []
    for b in range(len(student)):
        if mask is not None and not mask[b].any():
            continue
        ours = [pooled(student, b, m, mask) for m in range(student.shape[1])]
        theirs = [pooled(teacher, b, n, mask) for n in drawn]
        if concatenated:
            ours, theirs = [np.concatenate(ours)], [np.concatenate(theirs)]
        total = 0.0
        for s, t in zip(ours, theirs, strict=True):
            s = normalised(state["embed_student.weight"] @ s + state["embed_student.bias"])
            t = normalised(state["embed_teacher.weight"] @ t + state["embed_teacher.bias"])
            total += sum((s - t) ** 2)
        values.append(total)
    return sum(values) if variant == "released" else mean(values)
