"""Li et al. 2023: T² KL(teacher ‖ student) at the temperature of one number, whose gradient is no value's."""

import math

from references import log_softmax, mean, positions, softmax

AT_EQUAL = 0.0
HOLDS = True  # the temperature, whose gradient is not that of the value


def draw_options(rng, student_width, teacher_width, rows):
    least = float(rng.uniform(0.5, 3))
    return {
        "min_temperature": least,
        "max_temperature": least + float(rng.uniform(0.5, 10)),
        "max_reversal": float(rng.uniform(0, 2)),
        "rise": float(rng.uniform(0.01, 1)),
    }


def draw_extras(rng, student, teacher, options):
    return {"progress": float(rng.choice([0.0, 1.0, rng.random()]))} if rng.random() < 0.8 else {}


def reference(student, teacher, *, mask, state, min_temperature, max_temperature, **_):
    share = 1 / (1 + math.exp(-float(state["raw_temperature"])))
    temperature = min_temperature + (max_temperature - min_temperature) * share
    values = []
    for i in positions(student, mask):
        t = softmax(teacher[i] / temperature)
        log_s, log_t = log_softmax(student[i] / temperature), log_softmax(teacher[i] / temperature)
        values.append(temperature**2 * math.fsum(t * (log_t - log_s)))
    return mean(values)
