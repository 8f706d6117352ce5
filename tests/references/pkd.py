"""Sun et al. 2019, equation 7: squared distance of normalised CLS states; released: the mean over the width too."""

from references import mean, normalised, positions

AT_EQUAL = 0.0


def reference(student, teacher, *, variant="paper", **_):
    values = []
    for i in positions(student, None):
        squares = [(s - t) ** 2 for s, t in zip(normalised(student[i]), normalised(teacher[i]), strict=True)]
        values += squares if variant == "released" else [sum(squares)]
    return mean(values)
