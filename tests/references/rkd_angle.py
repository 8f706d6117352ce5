"""Park et al. 2019, equations 8 and 9: the cosine at the first row of every ordered triplet, smooth-L1."""

from references import cos, mean, slots, smooth_l1

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    values = []
    for slot, rows in slots(student, mask):
        for i in rows:
            for j in rows:
                for k in rows:
                    a, b = (
                        cos(side[(j, *slot)] - side[(i, *slot)], side[(k, *slot)] - side[(i, *slot)])
                        for side in (student, teacher)
                    )
                    values.append(smooth_l1(a, b))
    return mean(values)
