"""Park et al. 2021: relations of words and of layers, one pair and one triple of states at a time."""

import numpy as np

from references import cos, log_softmax, normalised

LAYOUTS = [("BMSD", False), ("BMSD", True)]
AT_EQUAL = 0.0


def draw_options(rng, student_width, teacher_width, rows):
    weights = ("word_pair", "word_angle", "layer_pair", "layer_angle")
    return {"window": int(rng.choice([3, 5]))} | {weight: float(rng.uniform(0, 2)) for weight in weights}


def divergence(ours, theirs, i, others):
    """Between the softmaxes of the cosines of state i with the others."""
    if not others:
        return 0.0
    s, t = (log_softmax([cos(side[i], side[j]) for j in others]) for side in (ours, theirs))
    return sum(np.exp(t) * (t - s))


def angle(states, i, j, k):
    return sum(normalised(states[j] - states[i]) * normalised(states[k] - states[i]))


def difference(ours, theirs, i, j, k):
    return (angle(ours, i, j, k) - angle(theirs, i, j, k)) ** 2


def ratio(values, count):
    return sum(values) / count if count else 0.0


def reference(
    student,
    teacher,
    *,
    mask,
    word_pair,
    word_angle,
    layer_pair,
    layer_angle,
    window,
    variant="paper",
    **_,
):
    rows, layers, length, _ = student.shape
    valid = [[s for s in range(length) if mask is None or mask[b, s]] for b in range(rows)]
    words, angles, across, transforms = [], [], [], []
    counts = [0, 0, 0, 0]
    for b in range(rows):
        for m in range(layers):
            ours, theirs = student[b, m], teacher[b, m]
            for i in valid[b]:
                words.append(divergence(ours, theirs, i, [j for j in valid[b] if j != i]))
                counts[0] += len(valid[b])
                around = range(i - window // 2, i + window // 2 + 1)
                if variant == "released":
                    around = [min(max(j, 0), length - 1) for j in around]
                else:
                    around = [j for j in around if j in valid[b]]
                angles += [difference(ours, theirs, i, j, k) for j in around for k in around]
                counts[1] += len(around) ** 2
        for s in valid[b]:
            ours, theirs = student[b, :, s], teacher[b, :, s]
            for i in range(layers):
                across.append(divergence(ours, theirs, i, [j for j in range(layers) if j != i]))
                transforms += [difference(ours, theirs, i, j, k) for j in range(layers) for k in range(layers)]
            counts[2] += layers**2
            counts[3] += layers**3
    means = [ratio(values, count) for values, count in zip((words, angles, across, transforms), counts, strict=True)]
    return word_pair * means[0] + word_angle * means[1] + layer_pair * means[2] + layer_angle * means[3]
