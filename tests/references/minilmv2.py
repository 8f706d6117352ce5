"""Wang et al. 2021, equations 5 to 8: KL of relations among the vectors of relation heads, real queries and keys."""

import math

from references import log_softmax, mean

AT_EQUAL = 0.0
LAYOUTS = [("QKV", False), ("QKV", True)]
SETTINGS = [{}, {"relations": ("qk", "vv")}]


def draw_options(rng, student_width, teacher_width, rows):
    # The head count is drawn apart from the widths, so only their common divisors are sure to divide.
    fitting = [n for n in range(1, 8) if student_width % n == 0 and teacher_width % n == 0]
    return {"relation_heads": int(rng.choice(fitting))}


def joined(vectors, b, position):
    """One position's vectors of all heads, one after the other."""
    return [x for head in range(vectors.shape[1]) for x in vectors[b, head, position]]


def scores(left, right, b, query, head, count, valid, length):
    """The scaled products of one query with all keys in one relation head."""
    one = joined(left, b, query)
    width = len(one) // count
    part = slice(head * width, (head + 1) * width)
    products = [math.nan] * length
    for k in valid:
        other = joined(right, b, k)
        products[k] = math.fsum(x * y for x, y in zip(one[part], other[part], strict=True)) / math.sqrt(width)
    return products


def reference(student, teacher, *, mask, relation_heads, relations=("qq", "kk", "vv"), **_):
    rows, _, length, _ = student.query.shape
    value = 0.0
    for name in relations:
        left, right = ("qkv".index(letter) for letter in name)
        divergences = []
        for b in range(rows):
            valid = [k for k in range(length) if mask is None or mask[b, k]]
            for r in range(relation_heads):
                for q in valid:
                    ours, theirs = (
                        log_softmax(scores(side[left], side[right], b, q, r, relation_heads, valid, length), valid)
                        for side in (student, teacher)
                    )
                    divergences.append(sum(math.exp(theirs[k]) * (theirs[k] - ours[k]) for k in valid))
        value += mean(divergences)
    return value
