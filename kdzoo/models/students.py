"""Students to distil into: fresh from a size, from chosen teacher layers, from a folder or the hub."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.building import check_sizes
from kdzoo.models.heads import check_transformers, unwrap
from kdzoo.models.loading import HEAD_NAMES, auto_class, class_of, load_model
from kdzoo.models.spec import ModelSpec

LABELLED = ("SequenceClassification", "TokenClassification", "PreTraining")  # heads with the teacher's number of labels


def make_student(
    spec: str | ModelSpec,
    teacher: nn.Module,
    *,
    num_labels: int | None = None,
    heads: int | None = None,
    feed_forward: int | None = None,
    head: str | None = None,
    seed: int = 0,
) -> Any:
    """A student for a teacher, as a transformers model in float32 and training mode.

    Sizes as published: TinyBERT and LRC-BERT are ``"4x312,heads=12,ffn=1200"``, 14.5 M parameters with BERT's
    vocabulary; DistilBERT takes every other teacher layer, BERT-PKD the first ones.

    Args:
        spec: see `ModelSpec.parse`. ``"teacher:..."`` also copies the embeddings, the pooler, and the head where the
            teacher has the same. (ModernBERT's first layer has no attention norm: the layer copied to that place goes
            without, and the teacher's first layer gets a new one anywhere else.)
        teacher: a transformers encoder.
        num_labels: the task's labels, the teacher's by default; 1 is regression.
        heads, feed_forward: override those of a fresh student's ``spec``.
        head: what the student has on top: ``"classifier"``, ``"token_classifier"``, ``"question_answering"``,
            ``"seq2seq_lm"``, ``"masked_lm"``, ``"pretraining"`` (words and the order of two segments) or ``"none"``.
            By default the teacher's, where that tags words, answers questions or writes, and else a classifier.
        seed: for every weight that is not copied or loaded. The caller's random state is left alone.

    Raises:
        KdzooError: the spec is malformed or does not fit the teacher; a folder is missing or broken;
            the label count differs from the teacher's.
    """
    if isinstance(spec, nn.Module) or not isinstance(teacher, nn.Module):
        raise KdzooError(
            "make_student takes what the student is to be first, and then the teacher: make_student('4x312', teacher); "
            f"got {type(spec).__name__} and {type(teacher).__name__}"
        )
    check_transformers(teacher)
    parsed, teacher_model = ModelSpec.parse(spec), unwrap(teacher)
    if head is None:
        own = auto_class(teacher_model).__name__
        head = own if own in HEAD_NAMES else "classifier"
    wanted = teacher_model.config
    if num_labels is not None and num_labels != wanted.num_labels:
        raise KdzooError(f"the teacher has {wanted.num_labels} labels, the student is to have {num_labels}")
    if heads is not None or feed_forward is not None:
        if parsed.layers is None:
            raise KdzooError(f"heads and feed-forward width are for students from a size, not for {parsed.text!r}")
        parsed = replace(
            parsed,
            heads=parsed.heads if heads is None else heads,
            feed_forward=parsed.feed_forward if feed_forward is None else feed_forward,
        )
        check_sizes(parsed)
    if parsed.path is not None:
        labels = wanted.num_labels if class_of(head).__name__.endswith(LABELLED) else None
        return load_model(parsed.path, labels, head=head, seed=seed).train()
    return parsed.student_of(teacher_model, class_of(head), seed).train()
