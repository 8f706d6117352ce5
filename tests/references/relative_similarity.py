"""Zhang et al. 2024, equation 3: a hinge for every two pairs of rows of which the teacher finds one more alike."""

from itertools import combinations

from references import cos, slots

SETTINGS = [{}, {"margin": 0.5}]


def reference(student, teacher, *, mask, margin=0.015, variant="paper", **_):
    total, count = 0.0, 0
    for slot, rows in slots(student, mask):
        alike = [
            [cos(side[(i, *slot)], side[(j, *slot)]) for side in (student, teacher)] for i, j in combinations(rows, 2)
        ]
        for (s_one, t_one), (s_two, t_two) in combinations(alike, 2):
            count += 1
            if t_one > t_two:
                total += max(0.0, s_two - s_one + margin)
            elif t_two > t_one or variant == "released":
                total += max(0.0, s_one - s_two + margin)
    return total / count if count else 0.0
