"""Wang et al. 2025: the α-β divergence term by term; its limits by the formulas of Cichocki et al. 2011."""

import math

from references import log_softmax, mean, positions

AT_EQUAL = 0.0
SETTINGS = [{}] + [{"alpha": a, "beta": b} for a, b in ((0.6, 0.0), (0.0, 0.4), (0.3, -0.3), (0.0, 0.0))]


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5))}


def term(log_p, log_q, alpha, beta, released):
    if alpha == beta == 0:
        return 0.5 * (log_p - log_q) ** 2
    if alpha == 0:
        p, q = math.exp(beta * log_p), math.exp(beta * log_q)
        return (q * beta * (log_q - log_p) - q + p) / beta ** (1 if released else 2)
    if beta == 0:
        p, q = math.exp(alpha * log_p), math.exp(alpha * log_q)
        return (p * alpha * (log_p - log_q) - p + q) / alpha ** (1 if released else 2)
    if alpha + beta == 0:
        apart = alpha * (log_q - log_p)
        return (apart + math.exp(-apart) - 1) / alpha ** (1 if released else 2)
    both = alpha + beta
    p, q = alpha / both * math.exp(both * log_p), beta / both * math.exp(both * log_q)
    return (p + q - math.exp(alpha * log_p + beta * log_q)) / (alpha * beta)


def reference(student, teacher, *, mask, temperature, alpha=0.2, beta=0.7, variant="paper", **_):
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        log_s, log_t = log_softmax(student[i] / temperature), log_softmax(teacher[i] / temperature)
        pairs = zip(log_t, log_s, strict=True)
        values.append(math.fsum(term(p, q, alpha, beta, variant == "released") for p, q in pairs))
    return mean(values)
