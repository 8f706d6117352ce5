"""Labels by name: a model whose head has the task's labels in another order is read in its order."""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.heads import answers_spans, says_words, unwrap

if TYPE_CHECKING:
    from kdzoo.tasks import Head


def unnamed(found: dict[Any, str] | None) -> bool:
    """Whether a model's labels have no names: transformers' own ``LABEL_0`` and so on, where nobody gave any."""
    return not found or all(re.fullmatch(r"LABEL_\d+", str(name)) for name in found.values())


def label_order(found: dict[Any, str] | None, head: Head | SimpleNamespace, model: str, task: str) -> list[int] | None:
    """Where each of the task's labels stands among a model's; None where the model's have no names.

    Names are compared without regard to case, and with blanks and hyphens as underscores.

    Args:
        found: the model's ``id2label``.
        head: the task's.
        model, task: how they are called in messages.

    Raises:
        KdzooError: the model's names are others; both lists are given.
    """
    wanted = head.config.get("id2label")
    if not wanted or not found or unnamed(found):
        return None
    theirs = [str(found[key]) for key in sorted(found, key=int)]
    ours = [str(wanted[index]) for index in range(len(wanted))]
    if theirs == ours:  # names may differ in case alone, and then the places would not be found
        return list(range(len(ours)))
    places = {_plain(name): index for index, name in enumerate(theirs)}
    if set(places) != set(map(_plain, ours)) or len(places) < len(theirs):
        raise KdzooError(
            f"the model {model} has the labels {', '.join(theirs)} and {task} has {', '.join(ours)}; take a model for "
            f"{task}'s labels, or set its id2label to their names"
        )
    return [places[_plain(name)] for name in ours]


def order_between(student: nn.Module, teacher: nn.Module) -> list[int] | None:
    """Where each of a student's labels stands among a teacher's; None for the same places, or where one has no names.

    Words, starts and ends have none, whatever the configuration of such a model says. One logit has no order.

    Args:
        student, teacher: transformers models, wrapped or not.

    Raises:
        KdzooError: the labels have other names; both lists are given.
    """
    if any(answers_spans(model) or says_words(model) for model in (student, teacher)):
        return None
    ours, theirs = (getattr(unwrap(model).config, "id2label", None) for model in (student, teacher))
    if unnamed(ours) or unnamed(theirs) or not ours or not theirs or len(ours) != len(theirs) or len(ours) == 1:
        return None
    places = sorted(ours, key=int)
    head = SimpleNamespace(config={"id2label": {place: str(ours[key]) for place, key in enumerate(places)}})
    order = label_order(theirs, head, "that teaches", "the student")
    return None if order is None or order == sorted(order) else order


def check_config(config: Any, head: Head, name: str, task: str) -> list[int] | None:
    """Refuse a model with a head that is for something else than a task; its labels' order, see `label_order`.

    Args:
        config: the model's.
        head: the task's.
        name, task: how the model and the task are called in messages.

    Raises:
        KdzooError: it is for another number of labels, for another kind of problem, or its labels have other names.
    """
    labels = head.config.get("num_labels")
    if labels is not None and config.num_labels != labels:
        theirs = "" if unnamed(config.id2label) else f" ({', '.join(map(str, config.id2label.values()))})"
        ours = ", ".join(head.config.get("id2label", {}).values())
        raise KdzooError(
            f"the model {name} has a head for {config.num_labels} labels{theirs} and {task} has {labels}"
            f"{f' ({ours})' if ours and theirs else ''}; take one fine-tuned on {task}, or a pretrained one without a "
            "head"
        )
    wanted, has = head.config.get("problem_type"), getattr(config, "problem_type", None)
    if wanted is not None and has is not None and has != wanted:
        raise KdzooError(
            f"the model {name} is for {has} (its problem_type) and {task} is {wanted}; take one for {task}"
        )
    return label_order(config.id2label, head, name, task)


def in_task_order(model: Any, head: Head, order: list[int] | None, name: str) -> Any:
    """The model with its head's rows in the order of the task's labels, which its configuration then says.

    Args:
        model: a transformers model with the task's head.
        head: the task's.
        order: where each of the task's labels stands among the model's; None for the same places.
        name: how the model is called in messages.

    Raises:
        KdzooError: its head has no layer that could be put in order.
    """
    config = model.config
    if order is not None and order != sorted(order):
        last = _last_layer(model, len(order), name)
        with torch.no_grad():
            for parameter in (last.weight, last.bias):
                if parameter is not None:
                    parameter.copy_(parameter[order].clone())
    for field, value in head.config.items():
        setattr(config, field, value)
    return model


def _last_layer(model: Any, labels: int, name: str) -> nn.Linear:
    """The layer of the head whose outputs are the labels' logits."""
    base = {id(module) for module in model.base_model.modules()}
    found = [m for m in model.modules() if isinstance(m, nn.Linear) and id(m) not in base and m.out_features == labels]
    if not found:
        raise KdzooError(
            f"the head of {name} has its labels in another order than the task, and no last layer whose rows could be "
            "reordered; take a model trained with the task's order"
        )
    return found[-1]


def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().casefold())
