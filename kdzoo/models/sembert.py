"""A classifier that joins an encoder's words with semantic roles (SemBERT), as a transformers model of its own.

Source: Zhang et al. (2020), SemBERT, section 3. Importing this file makes ``AutoConfig`` and
``AutoModelForSequenceClassification`` know it; no code comes from a checkpoint.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers.modeling_outputs import SequenceClassifierOutput

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.seeding import seeded
from kdzoo.models.shape import LABELS, NUMBERS

FAMILIES = ("bert", "albert", "electra", "distilbert", "roberta", "xlm-roberta", "camembert")  # of the encoder
VARIANTS = ("paper", "released")
KERNEL = 3  # pieces that the convolution sees at once
SIZES = ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")


class SemBertConfig(PretrainedConfig):
    """The configuration of `SemBertForSequenceClassification`.

    Args:
        encoder: the encoder's configuration as a mapping.
        roles: how many tags there are, that of padding (0) among them.
        role_rows: how many rows of tags a sentence has.
        role_width: of a tag's vector, and of what all rows together become.
        variant: ``"paper"``: a bidirectional GRU over each row, and the head reads the first word; ``"released"``:
            layer norm and a linear layer, and the head reads the maximum over all words.
        dropout: of words and of what the head reads; the encoder's own when None.
    """

    model_type = "sembert"

    def __init__(
        self,
        encoder: dict[str, Any] | None = None,
        roles: int = 22,
        role_rows: int = 3,
        role_width: int = 10,
        variant: str = "paper",
        dropout: float | None = None,
        **more: Any,
    ) -> None:
        self.encoder = encoder or {"model_type": "bert"}
        self.roles, self.role_rows, self.role_width, self.variant = roles, role_rows, role_width, variant
        if variant not in VARIANTS:
            raise unknown("variant of SemBERT", variant, VARIANTS)
        of = self.of_encoder()
        if of.model_type not in FAMILIES:
            raise KdzooError(f"roles are joined with {', '.join(FAMILIES)}; got {of.model_type}")
        for name in (*SIZES, "type_vocab_size", "pad_token_id"):
            more[name] = getattr(of, name, None)
        self.dropout = getattr(of, "hidden_dropout_prob", getattr(of, "dropout", 0.1)) if dropout is None else dropout
        super().__init__(**more)

    def of_encoder(self) -> Any:
        """The encoder's configuration."""
        known = {name: value for name, value in self.encoder.items() if name != "model_type"}
        return AutoConfig.for_model(self.encoder["model_type"], **known)


class WordVectors(nn.Module):
    """Pieces to words: a convolution over the pieces of a word, ReLU and the maximum over them.

    A word of fewer than three pieces is filled with zeros to three; what lies beyond it, which other words of the batch
    have, does not count. (In the released code it does, so that a row's logits depend on the rows beside it.)

    Args:
        width: H.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.convolution = nn.Conv1d(width, width, KERNEL)

    def forward(self, hidden: Tensor, spans: Tensor) -> Tensor:
        """Pool.

        Args:
            hidden: (B, S, H).
            spans: (B, W, 2), the first and the last token of each word, both inclusive; -1 for no word.

        Returns:
            (B, W, H); zero where there is no word.
        """
        rows, words = spans.shape[:2]
        sizes = (spans[..., 1] - spans[..., 0] + 1) * (spans[..., 0] >= 0)
        longest = max(int(sizes.max()), KERNEL) if sizes.numel() else KERNEL
        offsets = torch.arange(longest, device=spans.device)
        places = (spans[..., :1].clamp_min(0) + offsets).clamp_max(hidden.shape[1] - 1)
        there = offsets < sizes.unsqueeze(-1)
        index = places.view(rows, -1, 1).expand(-1, -1, hidden.shape[-1])
        pieces = hidden.gather(1, index).view(rows, words, longest, -1) * there.unsqueeze(-1)
        found = self.convolution(pieces.flatten(0, 1).transpose(1, 2)).relu().view(rows, words, hidden.shape[-1], -1)
        windows = torch.arange(found.shape[-1], device=spans.device) <= (sizes - KERNEL).clamp_min(0).unsqueeze(-1)
        # What ReLU leaves is not negative, so that zero is less than any window's maximum.
        return (found * windows.unsqueeze(2)).amax(-1) * (sizes > 0).unsqueeze(-1)


class RoleVectors(nn.Module):
    """Rows of tags to one vector a word."""

    def __init__(self, config: SemBertConfig) -> None:
        super().__init__()
        width, self.rows = config.role_width, config.role_rows
        self.embedding = nn.Embedding(config.roles, width, padding_idx=0)
        self.dropout = nn.Dropout(config.dropout)
        self.gru: nn.GRU | None = None
        if config.variant == "paper":
            self.gru = nn.GRU(width, width, batch_first=True, bidirectional=True)
            self.join = nn.Linear(2 * width * self.rows, width)
        else:
            self.norm, self.of_row = nn.LayerNorm(width), nn.Linear(width, width)
            self.join = nn.Linear(width * self.rows, width)

    def forward(self, tags: Tensor, lengths: Tensor) -> Tensor:
        """Embed.

        Args:
            tags: (B, m, W) ids, 0 for padding.
            lengths: (B,), how many words each row has.

        Returns:
            (B, W, width).
        """
        if tags.shape[1] != self.rows:
            raise KdzooError(f"a sentence has {tags.shape[1]} rows of tags and the model takes {self.rows}")
        embedded = self.embedding(tags)
        if self.gru is None:
            each = self.of_row(self.dropout(self.norm(embedded)))
        else:
            # Packed, so that the backward direction begins at a sentence's own end.
            flat = embedded.flatten(0, 1)
            counts = lengths.clamp_min(1).repeat_interleave(self.rows).cpu()
            packed = nn.utils.rnn.pack_padded_sequence(flat, counts, batch_first=True, enforce_sorted=False)
            states, _ = nn.utils.rnn.pad_packed_sequence(
                self.gru(packed)[0], batch_first=True, total_length=tags.shape[2]
            )
            each = states.view(*tags.shape, -1)
        joined: Tensor = self.join(each.transpose(1, 2).flatten(2))
        return joined


class SemBertForSequenceClassification(PreTrainedModel):
    """An encoder whose words are joined with their roles before they are classified.

    Hidden states and attention are the encoder's, below the roles; the first is what losses compare.

    Args:
        config: see `SemBertConfig`.
    """

    config_class = SemBertConfig
    base_model_prefix = "encoder"
    _supports_sdpa = True

    def __init__(self, config: SemBertConfig) -> None:
        super().__init__(config)
        of, width = config.of_encoder(), config.hidden_size
        self.encoder = AutoModel.from_config(of, trust_remote_code=False)
        if hasattr(self.encoder, "pooler"):
            self.encoder.pooler = None  # nobody reads it
        self.num_labels = config.num_labels
        self.words = WordVectors(width)
        self.role_vectors = RoleVectors(config)
        self.dropout = nn.Dropout(config.dropout)
        self.dense = nn.Linear(width + config.role_width, width)
        self.out = nn.Linear(width, int(config.num_labels or 0))
        self._typed = "token_type_ids" in inspect.signature(self.encoder.forward).parameters
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        """The encoder's parts as transformers has them; those above it as PyTorch has them.

        At a deviation of 0.02 the pieces' convolution and the tags' vectors say next to nothing at first, and a model
        from scratch does not learn.
        """
        if any(module is part for part in self.encoder.modules()):
            super()._init_weights(module)
            return
        own = [*module.parameters(recurse=False)]
        if own and not any(getattr(parameter, "_is_hf_initialized", False) for parameter in own):  # of a loaded one
            module.reset_parameters()  # type: ignore[operator]

    def plain_config(self) -> Any:
        """The encoder's configuration with the task's labels: of a student that reads words alone."""
        found = self.config.of_encoder()
        for name in ("num_labels", "id2label", "label2id", "problem_type"):
            setattr(found, name, getattr(self.config, name))
        return found

    def example(self, length: int) -> dict[str, Tensor]:
        """A row of so many tokens, each a word."""
        places = torch.arange(length, device=self.device).view(1, -1, 1)
        tags = torch.ones(1, self.config.role_rows, length, dtype=torch.long, device=self.device)
        ids = torch.ones(1, length, dtype=torch.long, device=self.device)
        return {"input_ids": ids, "word_spans": places.expand(-1, -1, 2), "role_tags": tags}

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's."""
        found: nn.Module = self.encoder.get_input_embeddings()
        return found

    @classmethod
    def around(cls, encoder: nn.Module, head: dict[str, Any], seed: int = 0, **told: Any) -> Any:
        """A classifier around an encoder that is there, with new weights above it.

        Args:
            encoder: a transformers encoder without a head.
            head: fields of the configuration that the task decides.
            seed: of the new weights.
            told: fields of `SemBertConfig`.

        Raises:
            KdzooError: the encoder is of another family.
        """
        of: Any = encoder
        config = SemBertConfig(encoder=of.config.to_dict(), **told, **head)
        with seeded(seed):
            model = cls(config).float()
        kept = {name: value for name, value in of.state_dict().items() if not name.startswith("pooler.")}
        model.encoder.load_state_dict(kept)
        return model.eval()

    def forward(
        self,
        input_ids: Tensor,
        word_spans: Tensor,
        role_tags: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        output_hidden_states: Any = None,
        return_dict: bool | None = None,
    ) -> SequenceClassifierOutput:
        """Classify.

        Args:
            input_ids, attention_mask, token_type_ids: (B, S), the encoder's.
            word_spans: (B, W, 2), see `WordVectors`.
            role_tags: (B, m, W) ids of tags.
            labels: (B,), or (B, C).
            output_hidden_states: as the encoder takes it.
            return_dict: of no account: what comes back has names.
        """
        taken = {"attention_mask": attention_mask, "output_hidden_states": output_hidden_states}
        if self._typed:
            taken["token_type_ids"] = token_type_ids
        outputs = self.encoder(input_ids, **taken)
        counts = (word_spans[..., 0] >= 0).sum(1)
        most = max(int(counts.max()), 1)  # rows may be padded further, which costs time here and changes nothing
        spans, tags = word_spans[:, :most], role_tags[:, :, :most]
        words = self.dropout(self.words(outputs.last_hidden_state, spans))
        joined = torch.cat([words, self.role_vectors(tags, counts)], dim=-1)
        if self.config.variant == "paper":
            read = joined[:, 0]
        else:
            there = (spans[..., 0] >= 0).unsqueeze(-1)
            read = joined.masked_fill(~there, torch.finfo(joined.dtype).min).amax(1)
        logits = self.out(self.dropout(self.dense(read).tanh()))
        loss = None if labels is None else self._loss(logits, labels)
        return SequenceClassifierOutput(loss=loss, logits=logits, hidden_states=outputs.hidden_states)

    def _loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        kind = self.config.problem_type or (NUMBERS if self.num_labels == 1 else "")
        if kind == NUMBERS:
            return nn.functional.mse_loss(logits.view_as(labels.to(logits.dtype)), labels.to(logits.dtype))
        if kind == LABELS:
            return nn.functional.binary_cross_entropy_with_logits(logits, labels.to(logits.dtype))
        return nn.functional.cross_entropy(logits, labels)


AutoConfig.register(SemBertConfig.model_type, SemBertConfig, exist_ok=True)
AutoModelForSequenceClassification.register(SemBertConfig, SemBertForSequenceClassification, exist_ok=True)
