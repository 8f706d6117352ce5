"""Cross-entropy with the labels, or the squared error of one logit."""

from references import log_softmax, mean, positions


def reference(student, teacher, *, mask, labels, **_):
    if student.shape[-1] == 1:
        return mean([(student[i][0] - labels[i]) ** 2 for i in positions(student, mask)])
    return mean([-log_softmax(student[i])[labels[i]] for i in positions(student, mask)])
