"""Liu et al. 2022, section 3, with the authors' choices of what counts, one pair or triplet at a time."""

import math

import numpy as np
import torch

from references import cos, mean, smooth_l1, softmax

LAYOUTS = [("BSD", False), ("BSD", True), ("BMSD", False), ("BMSD", True)]
SETTINGS = [{}, {"token_layers": 1, "k1": 2, "k2": 3, "bias": True}, {"token_layers": 0}]


def draw_options(rng, student_width, teacher_width, rows):
    # Small weights: the fourth power of the values must fit half precision, in which autocast runs a backward.
    heads = [count for count in range(1, teacher_width + 1) if teacher_width % count == 0]
    return {
        "relation_heads": int(rng.choice(heads)),
        "span_length": int(rng.integers(1, 3)),
        **dict(zip(("sample_weight", "token_weight", "span_weight"), rng.uniform(0.05, 0.5, 3).tolist(), strict=True)),
    }


def draw_extras(rng, student, teacher, options):
    if rng.random() < 0.5:
        return {}
    rows, length = teacher.shape[0], teacher.shape[-2]
    spans = rng.integers(length + 1, size=(rows, int(rng.integers(2, 5)), 2))
    return {"spans": torch.from_numpy(np.sort(spans, axis=-1))}


def move_extras(extras, by):
    return {name: spans + by for name, spans in extras.items()}


def best(values, allowed, count):
    """The highest of ``allowed``, the first of equals first."""
    return sorted(allowed, key=lambda i: (-values[i], i))[:count]


def structure(students, teachers, heads, k1, k2):
    """Pairs and triplets of rows of units: each a list of vectors, all valid."""
    pairs, triplets = [], []
    for ours, theirs in zip(students, teachers, strict=True):
        if not len(ours):
            continue
        received = np.zeros((len(ours), len(ours)))
        for s, t in zip(np.split(ours, heads, axis=1), np.split(theirs, heads, axis=1), strict=True):
            root = math.sqrt(s.shape[1])
            for i in range(len(s)):
                scores = np.array([t[i] @ t[j] / root for j in range(len(s))])
                pairs += [(s[i] @ s[j] / root - scores[j]) ** 2 for j in range(len(s))]
                received[i] += softmax(scores)
        units = range(len(ours))
        for i in best(received.sum(0), units, k1):
            chosen = best(received[i], [j for j in units if j != i], k2)
            triplets += [
                smooth_l1(cos(ours[j] - ours[i], ours[k] - ours[i]), cos(theirs[j] - theirs[i], theirs[k] - theirs[i]))
                for j in chosen
                for k in chosen
                if j != k
            ]
    return mean(pairs) + mean(triplets)


def angles(students, teachers, heads):
    values = []
    for s, t in zip(np.split(students, heads, axis=1), np.split(teachers, heads, axis=1), strict=True):
        rows = range(len(s))
        values += [
            smooth_l1(cos(s[j] - s[i], s[k] - s[i]), cos(t[j] - t[i], t[k] - t[i]))
            for i in rows
            for j in rows
            for k in rows
        ]
    return mean(values)


def reference(
    student,
    teacher,
    *,
    mask,
    relation_heads,
    span_length,
    sample_weight,
    token_weight,
    span_weight,
    k1=20,
    k2=20,
    token_layers=2,
    spans=None,
    **_,
):
    if student.ndim == 3:
        student, teacher = student[:, None], teacher[:, None]
    rows, layers, length, _width = teacher.shape
    mask = np.ones((rows, length), dtype=bool) if mask is None else mask
    total = 0.0
    for layer in range(layers):
        if layer >= token_layers:
            real = [row for row in range(rows) if mask[row].any()]
            s, t = (np.array([side[row, layer][mask[row]].mean(0) for row in real]) for side in (student, teacher))
            total += sample_weight * angles(s, t, relation_heads) if real else 0.0
            continue
        tokens = [[side[row, layer][mask[row]] for row in range(rows)] for side in (student, teacher)]
        pooled = [[], []]
        for row in range(rows):
            begin = int(np.argmax(mask[row]))
            starts = range(begin, length, span_length)
            cut = [(start, start + span_length) for start in starts] if spans is None else spans[row]
            inside = [[p for p in range(first, min(last, length)) if mask[row, p]] for first, last in cut]
            inside = [positions for positions in inside if positions]
            for side, collected in zip((student, teacher), pooled, strict=True):
                if len(inside) >= 3:
                    collected.append(np.array([side[row, layer][positions].mean(0) for positions in inside]))
        total += token_weight * structure(*tokens, relation_heads, k1, k2)
        total += span_weight * structure(*pooled, relation_heads, k1, k2)
    return total
