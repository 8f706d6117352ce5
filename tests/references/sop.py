"""Cross-entropy with the order of the rows that have one."""

from references import log_softmax, mean


def reference(student, teacher, *, labels, **_):
    rows = [i for i in range(len(student)) if labels[i] != -100]
    return mean([-log_softmax(student[i])[labels[i]] for i in rows])
