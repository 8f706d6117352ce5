"""Van den Oord et al. 2018, equation 4, with cosines: the softmax over one slot's keys at the row's own."""

import torch

from references import cos, log_softmax, mean, normalised, positions

SETTINGS = [{}, {"symmetric": True}]


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.05, 2))}


def draw_extras(rng, student, teacher, options):
    # A length that no batch has, for a queue does not go with the rows.
    return {"queue": torch.from_numpy(rng.normal(size=(9, teacher.shape[-1])))} if rng.random() < 0.5 else {}


def one_side(anchors, keys, i, mask, temperature, queue):
    rows = [j for j in range(len(keys)) if mask is None or mask[j, i[-1]]]
    candidates = [keys[(j, *i[1:])] for j in rows] + list(queue)
    similarity = [cos(anchors[i], normalised(key)) / temperature for key in candidates]
    return -log_softmax(similarity)[rows.index(i[0])]


def reference(student, teacher, *, mask, temperature, symmetric=False, queue=(), **_):
    values = []
    for i in positions(student, mask):
        value = one_side(student, teacher, i, mask, temperature, queue)
        if symmetric:
            value += one_side(teacher, student, i, mask, temperature, ())
        values.append(value)
    return mean(values)
