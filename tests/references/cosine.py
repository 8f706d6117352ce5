"""Sanh et al. 2019: the mean of 1 - cos."""

from references import cos, mean, positions

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    return mean([1 - cos(student[i], teacher[i]) for i in positions(student, mask)])
