"""Zhang et al. 2024, equation 2: the mean squared difference of the cosines of all pairs of rows."""

from references import cos, mean, slots

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    values = []
    for slot, rows in slots(student, mask):
        for i in rows:
            for j in rows:
                a, b = (cos(side[(i, *slot)], side[(j, *slot)]) for side in (student, teacher))
                values.append((a - b) ** 2)
    return mean(values)
