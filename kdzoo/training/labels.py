"""What the labels of a batch say to the losses on logits: a class a row, one a token, or a start and an end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.models.activations import Activations
from kdzoo.models.heads import answers_spans
from kdzoo.models.masks import real_tokens
from kdzoo.tasks.candidates import LIST
from kdzoo.tasks.pieces import IGNORED
from kdzoo.tasks.segments import ORDER_LABELS

SPAN = ("start_positions", "end_positions")
COUNTED = "counted"  # the column of the places that may be a start or an end


def label_names(model: nn.Module) -> list[str]:
    """The names of a batch's labels, as the model's forward pass calls them."""
    return [*SPAN] if answers_spans(model) else ["labels"]


def check_spans(student: nn.Module, columns: Sequence[str]) -> None:
    """Refuse a student that answers questions for rows that say no start and no end.

    Args:
        student: wrapped or not.
        columns: of the training set; none where they are not known.

    Raises:
        KdzooError: names the column.
    """
    lacking = [name for name in SPAN if name not in columns] if columns and answers_spans(student) else []
    if lacking:
        raise KdzooError(
            f"the student answers questions, which is learnt from {' and '.join(SPAN)}, and the training set has no "
            f"{lacking[0]}; take a student with the head of your task, such as AutoModelForSequenceClassification's"
        )


class Labels(NamedTuple):
    """A batch's labels.

    Attributes:
        values: (B,), (B, S), or of spans (B, 2), the places of the start and the end; None where there are none.
        counted: which of a span's two values count, (B, 2), and so the logits beside them; None without spans.
        places: (B, S), True where a start or an end may be; None where the labels are none of spans.
        order: (B,), of text whether its two segments are exchanged; None where rows have no segments.
        lists: (Q, K), the rows of each query's candidates, the true one first; None where rows stand alone.
    """

    values: Tensor | None
    counted: Tensor | None = None
    places: Tensor | None = None
    order: Tensor | None = None
    lists: Tensor | None = None

    @classmethod
    def of(cls, model: nn.Module, batch: Mapping[str, Any]) -> Labels:
        """Those of a batch for a student.

        Without a column ``counted`` a start and an end may be at any real token, as in BERT's released code.

        Raises:
            KdzooError: a start or an end is missing, or a list of candidates is not whole.
        """
        if not answers_spans(model):
            return cls(batch.get("labels"), order=batch.get(ORDER_LABELS), lists=_lists(batch))
        missing = [name for name in SPAN if batch.get(name) is None]
        if missing:
            raise KdzooError(f"question answering is learnt from {' and '.join(SPAN)}; the batch has no {missing[0]}")
        values = torch.stack([batch[name] for name in SPAN], dim=1)
        places = batch.get(COUNTED)
        real = real_tokens(batch.get("attention_mask"))
        places = real if places is None else places != 0
        if places is None:
            places = torch.ones_like(batch["input_ids"], dtype=torch.bool)
        return cls(values, values != IGNORED, places)

    def read(self, activations: Activations | None) -> Activations | None:
        """Activations with the logits that are compared: of spans (B, 2, S), -inf where no start or end may be."""
        if activations is None or activations.logits is None or self.places is None:
            return activations
        logits = activations.logits.transpose(1, 2).masked_fill(~self.places.unsqueeze(1), -torch.inf)
        return replace(activations, logits=logits)


def _lists(batch: Mapping[str, Any]) -> Tensor | None:
    """The rows of each query's candidates, the true one first; None where rows are of no query."""
    queries, labels = batch.get(LIST), batch.get("labels")
    if queries is None or labels is None:
        return None
    found, counts = torch.unique(queries, return_counts=True)
    size = len(queries) // len(found)
    order = torch.argsort(2 * queries + (labels != 1).long(), stable=True)
    if bool((counts == size).all()) and size > 1:
        lists = order.reshape(-1, size)
        if bool(((labels[lists] == 1).long().cumsum(1) == 1).all() and (labels[lists[:, 0]] == 1).all()):
            return lists
    raise KdzooError(
        f"a batch has to hold whole lists of candidates, each of one true row and equally many false ones (its column "
        f"{LIST!r}); take a batch size that is a multiple of a list's, and train_sampling_strategy='group_by_length'"
    )
