"""Whether student, teacher, objective and training rows go together; what does not is refused before any training."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.models.features import LOGITS
from kdzoo.models.heads import (
    answers_spans,
    logits_by_token,
    positions,
    unwrap,
    vocabulary_size,
)
from kdzoo.objectives.objective import Objective
from kdzoo.training.cache import TEACHER_PREFIX
from kdzoo.training.collated import Collate, given, lengths, same_numbers
from kdzoo.training.labels import SPAN

LABELS = ("labels", "label", "label_ids")  # which transformers' collators rename to the first


def accepted_inputs(model: nn.Module) -> frozenset[str]:
    """The names of a model's tensor inputs, its labels left out; of one with a single token type, the types too."""
    inner = unwrap(model)
    # A subclass that hands all on, forward(*args, **kwargs), takes what the class above it does.
    forwards = (inner.forward, *(vars(kind)["forward"] for kind in type(inner).__mro__ if "forward" in vars(kind)))
    named = (_named(forward) for forward in forwards)
    names = next((names for names in named if names), frozenset()) - {"labels", *SPAN}
    return names - {"token_type_ids"} if getattr(inner.config, "type_vocab_size", None) == 1 else names


def _named(function: Any) -> frozenset[str]:
    """A function's parameters that have names of their own."""
    parameters = inspect.signature(function).parameters.items()
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return frozenset(name for name, parameter in parameters if parameter.kind not in several and name != "self")


def columns_of(dataset: Any) -> list[str]:
    """The names of a training set's columns, read off its first row where it does not say; empty where unknown."""
    names = getattr(dataset, "column_names", None)
    if names is None and hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and len(dataset):
        row = dataset[0]
        names = list(row) if isinstance(row, Mapping) else None
    return list(names or ())


def has_own_columns(teacher: nn.Module, dataset: Any) -> bool:
    """Whether a training set holds inputs for the teacher alone, ``teacher_input_ids`` and such.

    Raises:
        KdzooError: for prefixed columns without the tokens.
    """
    own = [name for name in columns_of(dataset) if name.startswith(TEACHER_PREFIX)]
    taken = [name for name in own if name.removeprefix(TEACHER_PREFIX) in accepted_inputs(teacher)]
    if taken and TEACHER_PREFIX + "input_ids" not in taken:
        raise KdzooError(
            f"the training set has {', '.join(taken)} for the teacher alone and no {TEACHER_PREFIX}input_ids; give "
            "the teacher all of its inputs with the prefix, or none"
        )
    return bool(taken)


def check_vocabularies(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse models that cannot read the same tokens.

    Raises:
        KdzooError: names both sizes.
    """
    sizes = vocabulary_size(unwrap(student).config), vocabulary_size(unwrap(teacher).config)
    if sizes[0] != sizes[1]:
        raise KdzooError(
            f"the student's vocabulary has {sizes[0]} entries and the teacher's {sizes[1]}; both read the same tokens, "
            "so take a student made for the teacher's vocabulary (such as 4x312 or teacher:0,2), or give the teacher "
            f"columns of its own ({TEACHER_PREFIX}input_ids, ...)"
        )


def check_columns(objective: Objective, dataset: Any) -> None:
    """Refuse a training set without what the losses need.

    Raises:
        KdzooError: names the column.
    """
    names = columns_of(dataset)
    if not names:
        return
    for term in objective.terms:
        loss: Any = next(objective.losses[term.name].children())
        for need in sorted(loss.needs):
            named = any(name in names for name in LABELS) or all(name in names for name in SPAN)
            there = need in names or (need == "labels" and named)
            if not there and not (need == "labels" and loss.text_labels):  # which the collator makes
                raise KdzooError(
                    f"the term {term.name!r} needs the column {need!r}; the training set has {', '.join(names)}"
                )


def check_heads(objective: Objective, student: nn.Module, teacher: nn.Module | None) -> None:
    """Refuse heads whose logits are none, or are of something else than those that they are compared with.

    Raises:
        KdzooError: names the term and the models.
    """
    for term in objective.terms:
        if term.feature != LOGITS:
            continue
        compared = [("student", student)]
        if teacher is not None and term.loss_class.needs_teacher:
            compared.append(("teacher", teacher))
        for who, model in compared:
            inner = unwrap(model)
            name, own = type(inner).__name__, type(inner).__module__.startswith("transformers.")
            # An EncoderDecoderModel is its own base, and has its decoder's head.
            if own and name.endswith("Model") and inner.base_model is inner and inner.get_output_embeddings() is None:
                raise KdzooError(
                    f"the term {term.name!r} is taken on logits, and the {who} is a {name}, which has no head; take "
                    "one with the head of your task, such as AutoModelForSequenceClassification's"
                )
            if "MultipleChoice" in name:
                raise KdzooError(f"the {who} is a {name}, and kdzoo does not distil multiple-choice models")
        if len({_of(model) for _, model in compared}) > 1:
            raise KdzooError(
                f"the term {term.name!r} compares logits, and the student's are those of {_of(student)} and the "
                f"teacher's of {_of(teacher)}; take two models for one kind of task, or a loss on cls or hidden"
            )


def _of(model: Any) -> str:
    """What a model gives logits of, in words."""
    return "starts and ends" if answers_spans(model) else "single tokens" if logits_by_token(model) else "whole rows"


def check_length(what: str, most: int | None, taken: Mapping[str, Tensor]) -> None:
    """Refuse a batch longer than a model has positions for.

    Args:
        what: the model, in words.
        most: its `positions`.
        taken: what it is given.

    Raises:
        KdzooError: names both lengths.
    """
    ids = taken.get("input_ids")
    if ids is not None and most is not None and ids.dim() == 2 and ids.shape[1] > most:
        raise KdzooError(f"a row has {ids.shape[1]} tokens, and {what} has positions for {most}; cut the rows to that")


def check_longest(what: str, model: nn.Module, dataset: Any, collate: Collate, prefix: str = "") -> None:
    """Refuse a training set whose longest row, as the collator makes it, is longer than a model has positions for.

    Args:
        what: the model, in words.
        model: the student or the teacher.
        dataset: the rows; those that do not say what columns they have are looked at when they come.
        collate: makes a batch of rows.
        prefix: of the model's columns.

    Raises:
        KdzooError: names both lengths.
    """
    most = positions(model)
    names = getattr(dataset, "column_names", None) or ()
    if most is None or not hasattr(dataset, "with_format") or not hasattr(dataset, "__len__"):
        return
    if prefix + "input_ids" not in names:
        return
    found = lengths(dataset, prefix)
    if len(found) and found.max() > most:
        with same_numbers():
            batch = collate([dataset[int(found.argmax())]])
        check_length(what, most, given(model, batch, accepted_inputs(model), prefix))


def check_sharing(student: nn.Module, teacher: nn.Module) -> None:
    """Refuse a teacher that the training would change.

    Raises:
        KdzooError: the teacher is the student, or what both hold is trained.
    """
    if unwrap(student) is unwrap(teacher):
        raise KdzooError("the teacher is the student itself; give a copy of it, copy.deepcopy(model), as the teacher")
    held = {place for parameter in teacher.parameters() for place in _places(parameter)}
    own = unwrap(student).named_parameters()
    both = [name for name, p in own if p.requires_grad and not held.isdisjoint(_places(p))]
    if both:
        raise KdzooError(
            f"student and teacher share {both[0]} (and {len(both) - 1} others), and training the student would change "
            "the teacher; freeze them in the student, requires_grad_(False), or give it copies"
        )


def _places(parameter: nn.Parameter) -> Iterator[tuple[str, int]]:
    """By what a parameter is known again: itself, and its memory, which two parameters can have in common."""
    yield "parameter", id(parameter)
    if parameter.numel() and not parameter.is_meta and (address := parameter.data_ptr()):
        yield "memory", address


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A model in evaluation mode; its modules, which another may share, are left as they were."""
    training = [module for module in model.modules() if module.training]
    for module in training:
        module.training = False
    try:
        yield
    finally:
        for module in training:
            module.training = True


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters that collect no gradients meanwhile, and do as before afterwards."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
