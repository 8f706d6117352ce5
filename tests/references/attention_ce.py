"""Yang et al. 2020: the cross-entropy of the student's attention with the teacher's, over real queries and keys."""

from references import attention_scores, log_softmax, mean, softmax


def reference(student, teacher, *, mask, **_):
    ours, theirs = attention_scores(student), attention_scores(teacher)
    rows, heads, length, _ = ours.shape
    values = []
    for b in range(rows):
        valid = [k for k in range(length) if mask is None or mask[b, k]]
        for a in range(heads):
            for q in valid:
                targets, logs = softmax(theirs[b, a, q], valid), log_softmax(ours[b, a, q], valid)
                values.append(-sum(targets[k] * logs[k] for k in valid))
    return mean(values)
