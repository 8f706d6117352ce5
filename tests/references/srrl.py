"""Yang et al. 2021: squared distances of features and of what the teacher's head makes of them."""

import numpy as np
import torch

from references import mean


class Head:
    """A small head, tanh(x A) C, that the loss sees as a function and the reference as two matrices."""

    def __init__(self, rng, width, classes):
        self.inner, self.outer = rng.normal(size=(width, width)), rng.normal(size=(width, classes))
        self.matrices = [torch.from_numpy(matrix) for matrix in (self.inner, self.outer)]

    def __call__(self, states):
        inner, outer = (matrix.to(states.dtype) for matrix in self.matrices)
        return (states @ inner).tanh() @ outer


def draw_options(rng, student_width, teacher_width, rows):
    return {"alpha": float(rng.uniform(0, 2)), "beta": float(rng.uniform(0, 2))}


def draw_extras(rng, student, teacher, options):
    return {"teacher_head": Head(rng, teacher.shape[-1], int(rng.integers(1, 5)))}


LAYOUTS = [("BD", False)]


def reference(student, teacher, *, teacher_head, alpha, beta, variant="paper", **_):
    values = []
    for s, t in zip(student, teacher, strict=True):
        features = (s - t) ** 2
        logits = (
            np.tanh(s @ teacher_head.inner) @ teacher_head.outer - np.tanh(t @ teacher_head.inner) @ teacher_head.outer
        ) ** 2
        reduce = np.mean if variant == "released" else np.sum
        values.append(alpha * reduce(features) + beta * reduce(logits))
    return mean(values)


AT_EQUAL = 0.0
