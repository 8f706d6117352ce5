"""Wu et al. 2024: forward and reverse KL by the share of |t - s| in the head, the likeliest classes that hold μ."""

from references import log_softmax, mean, positions, softmax

AT_EQUAL = 0.0
HOLDS = True  # the weights


def draw_options(rng, student_width, teacher_width, rows):
    return {"temperature": float(rng.uniform(0.5, 5)), "head": float(rng.uniform(0.1, 0.9))}


def head_of(t, mu, released):
    chosen, held = set(), 0.0
    for c in sorted(range(len(t)), key=lambda c: -t[c]):
        if released and chosen and held + t[c] > mu:
            break
        chosen.add(c)
        held += t[c]
        if not released and held >= mu:
            break
    return chosen


def reference(student, teacher, *, mask, temperature, head, variant="paper", held=None, **_):
    held = student if held is None else held
    values = []
    for i in positions(student, mask):
        if student.shape[-1] == 1:
            values.append((student[i][0] - teacher[i][0]) ** 2)
            continue
        t, before = softmax(teacher[i] / temperature), softmax(held[i] / temperature)
        log_s, log_t = log_softmax(student[i] / temperature), log_softmax(teacher[i] / temperature)
        s = softmax(student[i] / temperature)
        chosen = head_of(t, head, variant == "released")
        gaps = [abs(a - b) for a, b in zip(t, before, strict=True)]
        whole = sum(gaps)
        share = sum(gaps[c] for c in chosen) / whole if whole else 0.5
        forward = sum(t[c] * (log_t[c] - log_s[c]) for c in range(len(t)))
        reverse = sum(s[c] * (log_s[c] - log_t[c]) for c in range(len(t)))
        values.append(share * forward + (1 - share) * reverse)
    return mean(values)
