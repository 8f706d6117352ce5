"""A bi-encoder of triples: head and relation are read in one pass, the tail in another, and a score is made of both.

So ranking encodes each part once, where a cross-encoder reads each pair of them. Sources: Reimers and Gurevych (2019),
Sentence-BERT, for the two passes of one encoder; Yang et al. (2015), DistMult, for the weighted product.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError
from kdzoo.models.building import fresh_config
from kdzoo.models.heads import hidden_size, pooled
from kdzoo.models.loading import class_of, load_model
from kdzoo.models.seeding import seeded
from kdzoo.tasks.candidates import QUERY_PART, TAIL_PART, TAIL_START

if TYPE_CHECKING:
    from datasets import Dataset

    from kdzoo.models.spec import ModelSpec
    from kdzoo.tasks import Task

WEIGHTS = "model.safetensors"
MARK = "bi_encoder"  # in a configuration


class BiEncoder(nn.Module):
    """One encoder for both parts of a triple's row; two classes from the product of their representations.

    The query is the row up to its tail, ``[CLS] head [SEP] relation [SEP]``; the tail is read as ``[CLS] tail [SEP]``.
    Each is represented by the mean of its last hidden states, and the logits are a linear layer of the product.

    Args:
        encoder: a transformers encoder without a head.
        num_labels: of the logits.

    Raises:
        KdzooError: another number of labels than two, for a product does not tell which part is which.
    """

    two_passes = True

    def __init__(self, encoder: Any, num_labels: int = 2) -> None:
        super().__init__()
        if num_labels != 2:
            raise KdzooError(f"a bi-encoder says whether a triple is true, so it has 2 classes, not {num_labels}")
        self.config = encoder.config
        setattr(self.config, MARK, True)
        self.config.num_labels = num_labels
        self.base_model_prefix = encoder.base_model_prefix or "encoder"
        if isinstance(getattr(encoder, "pooler", None), nn.Module):
            encoder.pooler = None  # the mean is taken
        setattr(self, self.base_model_prefix, encoder)
        self.pair_scores = nn.Linear(hidden_size(self.config), num_labels)
        nn.init.normal_(self.pair_scores.weight, std=getattr(self.config, "initializer_range", 0.02))
        nn.init.zeros_(self.pair_scores.bias)

    @property
    def base_model(self) -> Any:
        """The encoder."""
        return getattr(self, self.base_model_prefix)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return self.pair_scores.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """Of its weights."""
        return self.pair_scores.weight.dtype

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        found: nn.Module = self.base_model.get_input_embeddings()
        return found

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        tail_start: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: Any = None,
    ) -> Any:
        """The logits of rows.

        Args:
            input_ids, attention_mask, token_type_ids: (B, S), as a cross-encoder's; padded on the right.
            tail_start: (B,), where the tail begins.
            labels: (B,), for the loss.
            output_hidden_states: what a loss on hidden states asks for.

        Returns:
            transformers' ``SequenceClassifierOutput``.

        Raises:
            KdzooError: hidden states are asked for, which of two passes are none of the row; or nothing says where the
                tails begin.
        """
        from transformers.modeling_outputs import SequenceClassifierOutput

        if output_hidden_states:
            raise KdzooError(
                "a bi-encoder reads a row in two passes, so it has no hidden states of the row; take losses on logits, "
                "such as kd"
            )
        if tail_start is None:
            raise KdzooError(f"a bi-encoder needs {TAIL_START}, (B,), the place where each row's tail begins")
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        sizes, starts = mask.sum(1), tail_start
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        wide = int(starts.max())
        query = (places[:wide] < starts.unsqueeze(1)).to(mask.dtype)
        types = None if token_type_ids is None else token_type_ids[:, :wide]
        ahead = self.encode(input_ids[:, :wide], query, types)
        count = sizes - starts
        at = (starts.unsqueeze(1) + places[: max(int(count.max()), 1)]).clamp_max(input_ids.shape[1] - 1)
        tail = torch.cat([input_ids[:, :1], input_ids.gather(1, at)], dim=1)
        kept = (places[: tail.shape[1]] <= count.unsqueeze(1)).to(mask.dtype)
        logits = self.pair_scores(ahead * self.encode(tail, kept))
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)

    def example(self, length: int) -> dict[str, Tensor]:
        """The inputs of one row of so many tokens, half of them the tail's, to measure with."""
        ids = torch.ones(1, length, dtype=torch.long, device=self.device)
        return {"input_ids": ids, TAIL_START: torch.tensor([(length + 1) // 2], device=self.device)}

    def encode(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None) -> Tensor:
        """The representations of parts, (B, D)."""
        given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
        states = self.base_model(input_ids=input_ids, attention_mask=attention_mask, **given).last_hidden_state
        return pooled(self.base_model, states, attention_mask != 0)

    @torch.no_grad()
    def outputs_of(
        self, rows: Dataset, batch_size: int, autocast: Callable[[], AbstractContextManager[Any]] = nullcontext
    ) -> np.ndarray:
        """The logits (N, 2) of encoded rows; each part that they share is read once.

        Args:
            rows: with the numbers of their parts (`kdzoo.tasks.candidates.candidate_rows`), or without.
            batch_size: parts at a time.
            autocast: the context that it runs in.
        """
        training = self.training
        self.eval()
        try:
            with autocast():
                queries, query_of = self._parts(rows, QUERY_PART, batch_size)
                tails, tail_of = self._parts(rows, TAIL_PART, batch_size)
            weight, bias = self.pair_scores.weight.float(), self.pair_scores.bias.float()
            found = [
                (queries[query_of[at : at + 65536]] * tails[tail_of[at : at + 65536]]) @ weight.T + bias
                for at in range(0, len(rows), 65536)
            ]
            return torch.cat(found).cpu().numpy()
        finally:
            self.train(training)

    def _parts(self, rows: Dataset, column: str, batch_size: int) -> tuple[Tensor, Tensor]:
        """The representations of the different parts, and which of them each row has."""
        count = len(rows)
        numbers = np.asarray(rows[column][:]) if column in rows.column_names else np.arange(count)
        _, first, of = np.unique(numbers, return_index=True, return_inverse=True)
        types = ["token_type_ids"] if "token_type_ids" in rows.column_names else []
        own = rows.select_columns(["input_ids", TAIL_START, *types]).select(first)[:]
        ids, kinds = [], []
        for row, start in enumerate(own[TAIL_START]):
            whole = own["input_ids"][row]
            ids.append(whole[:start] if column == QUERY_PART else [whole[0], *whole[start:]])
            kinds.append(own["token_type_ids"][row][:start] if types and column == QUERY_PART else [0] * len(ids[-1]))
        order = np.argsort([-len(part) for part in ids], kind="stable")
        found = torch.empty(len(ids), hidden_size(self.config), device=self.device)
        for at in range(0, len(order), batch_size):
            places = order[at : at + batch_size]
            batch = [torch.nn.utils.rnn.pad_sequence([torch.tensor(v[p]) for p in places], True) for v in (ids, kinds)]
            sizes = torch.tensor([len(ids[place]) for place in places])
            mask = (torch.arange(batch[0].shape[1]) < sizes.unsqueeze(1)).long()
            given = [part.to(self.device) for part in (batch[0], mask, batch[1])]
            own_types = given[2] if types and column == QUERY_PART else None
            found[torch.from_numpy(places)] = self.encode(given[0], given[1], own_types).float()
        return found, torch.from_numpy(of.ravel()).to(self.device)

    def save_pretrained(self, folder: str | Path, **_: Any) -> None:
        """Write the encoder as a plain transformers model, with the weights of the scores beside its own."""
        from safetensors.torch import save_file

        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        self.config.architectures = [type(self.base_model).__name__]
        self.config.save_pretrained(folder)
        weights = {name: value.detach().cpu().contiguous() for name, value in self.state_dict().items()}
        save_file(weights, folder / WEIGHTS, metadata={"format": "pt"})


def load_bi_encoder(folder: str | Path) -> BiEncoder:
    """A bi-encoder from the folder that it was written to, in evaluation mode.

    Raises:
        KdzooError: there is none.
    """
    from safetensors.torch import load_file

    encoder = load_model(folder, head="none")
    if not getattr(encoder.config, MARK, False):
        raise KdzooError(f"{folder} holds no bi-encoder; distil one with --student bi:4x312")
    model = BiEncoder(encoder)
    wanted = {"weight": "pair_scores.weight", "bias": "pair_scores.bias"}
    found = load_file(Path(folder) / WEIGHTS)
    try:
        model.pair_scores.load_state_dict({name: found[key] for name, key in wanted.items()})
    except (KeyError, RuntimeError) as error:
        raise KdzooError(f"{Path(folder) / WEIGHTS} has no scores of a bi-encoder: {error}") from None
    return model.eval()


def bi_encoder_of(
    spec: ModelSpec, task: Task, teacher: nn.Module | None, tokenizer: Any, positions: int, seed: int
) -> BiEncoder:
    """The bi-encoder that a description names; see `ModelSpec.build`.

    Raises:
        KdzooError: the task's rows have no two parts, or there is no such model.
    """
    if not task.parts:
        raise KdzooError(
            f"{spec.text!r} is a bi-encoder, and {task.name}'s rows are not made of a query and a tail; take it "
            "for classifying or ranking triples"
        )
    head = task.head().config
    plain = replace(spec, two_passes=False)
    if spec.path is not None:
        if getattr(spec.config, MARK, False):
            return load_bi_encoder(spec.path)
        encoder = load_model(spec.path, head="none", seed=seed)
        for name, value in head.items():
            setattr(encoder.config, name, value)
    elif teacher is not None:
        encoder = plain.student_of(teacher, class_of("none"), seed)
    elif spec.is_size:
        with seeded(seed):
            encoder = class_of("none").from_config(
                fresh_config(plain, tokenizer, head, positions), trust_remote_code=False
            )
    else:
        raise KdzooError(f"{spec.text!r} is made of a teacher's layers, and there is no teacher")
    with seeded(seed):
        return BiEncoder(encoder)
