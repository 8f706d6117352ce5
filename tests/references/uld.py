"""Boizard et al. 2024: Σ over ranks of |t - s| of the probabilities, each side's sorted; 0 where one has no more."""

from itertools import zip_longest

from references import mean, positions, softmax

AT_EQUAL = 0.0


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def reference(student, teacher, *, mask, temperature, **_):
    values = []
    for i in positions(student, mask):
        s, t = (sorted(softmax(side[i] / temperature), reverse=True) for side in (student, teacher))
        values.append(sum(abs(a - b) for a, b in zip_longest(s, t, fillvalue=0.0)))
    return mean(values)
