"""Hofstätter et al. 2020: the mean squared difference of the margins between a row's first score and its others."""

from references import mean, positions

AT_EQUAL = 0.0


def reference(student, teacher, *, mask, **_):
    return mean(
        [
            ((student[i][0] - student[i][k]) - (teacher[i][0] - teacher[i][k])) ** 2
            for i in positions(student, mask)
            for k in range(1, student.shape[-1])
        ]
    )
