"""What of an objective cannot work on a task's rows: refused before any training."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.models.features import FEATURES, LOGITS, ORDER, features_of
from kdzoo.models.heads import (
    answers_spans,
    classes_by_token,
    has_decoder,
    in_two_passes,
    logits_by_token,
    order_head,
    unwrap,
)
from kdzoo.models.shape import ModelShape

if TYPE_CHECKING:
    from kdzoo.objectives.objective import Objective
    from kdzoo.objectives.term import Term

LAYERDROP = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop")  # as transformers' configurations call it


def check_places(term: Term, student: Any) -> None:
    """Refuse a term that cannot work on logits of tokens or places, on their labels, or on a bi-encoder.

    Raises:
        KdzooError: names the term.
    """
    if term.feature != LOGITS and in_two_passes(student):
        raise KdzooError(
            f"the term {term.name!r} is on {term.feature}, which a bi-encoder does not have: it reads a row in two "
            "passes; take losses on logits, such as kd"
        )
    if term.feature == ORDER and order_head(student) is None:
        raise KdzooError(
            f"the term {term.name!r} is taken on what a head says of two segments' order, and {type(student).__name__} "
            "has no such head; BERT and ALBERT have one before a task, in kdzoo pretrain"
        )
    spans = answers_spans(student)
    if term.feature.of_decoder and not has_decoder(student):
        raise KdzooError(f"the term {term.name!r} is taken on a decoder ({term.feature}), and the student has none")
    dropped = [name for name in LAYERDROP if getattr(unwrap(student).config, name, 0)]
    if term.feature.by_layer and dropped:
        raise KdzooError(
            f"the term {term.name!r} compares layers, and the student leaves some out at random while it trains "
            f"({dropped[0]}); set that to 0 in its config.json"
        )
    by_token = spans or classes_by_token(student) or has_decoder(student)
    if term.feature not in (LOGITS, ORDER) and "labels" in term.loss_class.needs and by_token:
        raise KdzooError(
            f"the term {term.name!r} needs one label a row, and the rows have "
            f"{'a start and an end' if spans else 'one a token'}"
        )
    smoothed = term.options.get("label_smoothing", 0.0) != 0.0  # it spreads over places of no probability, too
    if spans and term.feature == LOGITS and (term.loss_class.every_class or smoothed):
        raise KdzooError(
            f"the term {term.name!r} compares all classes, and as a start or an end the places outside the "
            "paragraph do not count; take a loss on a row's probabilities, such as kd"
        )


def check_attends(term: Term, student: ModelShape, teacher: ModelShape) -> None:
    """Refuse a term on a decoder's attention that one of the models does not show, or that its loss does not take.

    Raises:
        KdzooError: names the term.
    """
    if not (term.feature.attention and term.feature.of_decoder):
        return
    for side, shape in (("student", student), ("teacher", teacher)):
        if not shape.shows_qkv:
            raise KdzooError(
                f"the term {term.name!r} compares the attention of decoders, and the {side} hides its queries and "
                "keys; take a loss on decoder"
            )
    chosen = term.options if term.module is None else vars(term.module)
    if chosen.get("variant") in term.loss_class.counts_padding:
        raise KdzooError(
            f"the term {term.name!r} counts padding (variant={chosen['variant']!r}), as its authors' code does of an "
            "encoder's attention; leave that out for a decoder's"
        )
    if term.feature.cross and chosen.get("backend") == "triton":
        raise KdzooError(
            f"the term {term.name!r}: no Triton kernel takes attention to the source, which has as many queries as the "
            "target has tokens, and other keys; leave out backend"
        )


def check_classes(student: ModelShape, teacher: ModelShape) -> None:
    """Refuse two models whose logits are compared class by class and are not of the same number of classes.

    Raises:
        KdzooError: names both numbers.
    """
    if student.num_labels != teacher.num_labels:
        raise KdzooError(
            f"the student has {student.num_labels} classes and the teacher {teacher.num_labels}; "
            "they must be trained for the same task"
        )


def of_one_kind(student: ModelShape, teacher: ModelShape) -> ModelShape:
    """The student's shape, its logits of the kind that the teacher's are said to be where it does not say itself.

    One logit is compared as a number whatever it is called, so that two models of one may say different things.

    Raises:
        KdzooError: they are said to be of two kinds.
    """
    ours, theirs = student.problem_type, teacher.problem_type
    if ours is not None and student.num_labels == 1:
        return student
    if ours is not None and theirs is not None and ours != theirs:
        raise KdzooError(
            f"the student is for {ours} (its problem_type) and the teacher for {theirs}; take two models for one kind "
            "of task, or set the right problem_type in their configurations"
        )
    return student if theirs is None else replace(student, problem_type=theirs)


def check_separate_tokens(objective: Objective, student: Any, *, same_targets: bool) -> None:
    """Refuse terms on single tokens, where teacher and student read tokens of their own.

    Args:
        objective: its terms.
        student: the model.
        same_targets: of encoder-decoders, whether both write the same tokens, so that terms on those work.

    Raises:
        KdzooError: names the term, and what works.
    """
    writes = has_decoder(student)
    for term in objective.terms:
        if term.loss_class.needs_teacher and writes and not same_targets:
            raise KdzooError(
                f"the term {term.name!r} compares what student and teacher make of a target, and their vocabularies "
                "differ; take a student with the teacher's tokenizer, or a method that trains on the teacher's texts "
                "alone (seq_kd, seq_inter)"
            )
        by_token = term.feature.by_token or (term.feature == LOGITS and logits_by_token(student))
        if writes:  # of the source's tokens
            by_token = term.feature.by_token and (term.feature.cross or not term.feature.of_decoder)
        if not term.loss_class.needs_teacher or not by_token:
            continue
        if term.feature == LOGITS:
            raise KdzooError(
                f"the term {term.name!r} compares the logits of single tokens, and the teacher has a tokenizer of its "
                "own, so its tokens differ from the student's; take a loss on cls or pooled"
            )
        others = [
            name
            for name, of in features_of(term.loss_class.features, term.loss_class.extras).items()
            if not of.by_token
        ]
        rows = [name for name, of in FEATURES.items() if not of.by_token and of != ORDER]
        instead = f"take feature={' or '.join(others)}" if others else "take kd, pkd or another loss on one of these"
        raise KdzooError(
            f"the term {term.name!r} compares single tokens ({term.feature}), and the teacher has a tokenizer of its "
            f"own, so its tokens differ from the student's; {', '.join(rows)} work: {instead}"
        )


def check_labels(objective: Objective) -> None:
    """Refuse a loss on masked words or on the order of segments, which a task's rows do not have.

    Raises:
        KdzooError: names its term.
    """
    for term in objective.terms:
        if (labels := term.loss_class.text_labels) is not None:
            needed = "masked words" if labels == "words" else "two segments of a document"
            raise KdzooError(f"the term {term.name!r} needs {needed}, which only text has: kdzoo pretrain")
