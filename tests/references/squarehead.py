"""Kurtic et al. 2023: squared error over the teacher's squared norm, a layer; released: the layers' sum, not mean."""

import math

from references import mean, positions

SETTINGS = [{}, {"epsilon": 2**-7}]
LAYOUTS = [("BD", False), ("BSD", False), ("BSD", True), ("BMSD", False), ("BMSD", True)]


def reference(student, teacher, *, mask, epsilon=0.0, variant="paper", **_):
    where = list(positions(student, mask))
    if not where:
        return 0.0
    values = []
    for layer in range(student.shape[1] if student.ndim == 4 else 1):
        vectors = [i for i in where if len(i) < 3 or i[1] == layer]
        error = math.fsum((s - t) ** 2 for i in vectors for s, t in zip(student[i], teacher[i], strict=True))
        size = math.fsum(t * t for i in vectors for t in teacher[i])
        count = len(vectors) * teacher.shape[-1]
        values.append(error / count / (max(size, 1e-24) / count + epsilon))
    return math.fsum(values) if variant == "released" else mean(values)
