"""Kurtic et al. 2023: squared error over the teacher's squared norm, a layer; released: of means, with 2⁻⁷ added."""

import math

from references import mean, positions

LAYOUTS = [("BD", False), ("BSD", False), ("BSD", True), ("BMSD", False), ("BMSD", True)]


def reference(student, teacher, *, mask, variant="paper", **_):
    where = list(positions(student, mask))
    if not where:
        return 0.0
    values = []
    for layer in range(student.shape[1] if student.ndim == 4 else 1):
        vectors = [i for i in where if len(i) < 3 or i[1] == layer]
        error = math.fsum((s - t) ** 2 for i in vectors for s, t in zip(student[i], teacher[i], strict=True))
        size = math.fsum(t * t for i in vectors for t in teacher[i])
        size = max(size, 1e-24)
        if variant == "released":
            count = len(vectors) * teacher.shape[-1]
            error, size = error / count, size / count + 0.0078125
        values.append(error / size)
    return mean(values)
