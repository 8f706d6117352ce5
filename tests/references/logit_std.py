"""Sun et al. 2024, algorithm 1: KD on logits less their mean, over their unbiased deviation + 1e-7."""

import math

import numpy as np

from references import log_softmax, mean, positions

AT_EQUAL = 0.0
FEWEST_CLASSES = 3


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def standardised(logits):
    middle = math.fsum(logits) / len(logits)
    spread = math.sqrt(math.fsum((z - middle) ** 2 for z in logits) / (len(logits) - 1))
    return np.array([(z - middle) / (spread + 1e-7) for z in logits])


def reference(student, teacher, *, mask, temperature, **_):
    values = []
    for i in positions(student, mask):
        log_s, log_t = (log_softmax(standardised(side[i]) / temperature) for side in (student, teacher))
        values.append(temperature**2 * sum(math.exp(t) * (t - s) for s, t in zip(log_s, log_t, strict=True)))
    return mean(values)
