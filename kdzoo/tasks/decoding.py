"""How a model writes text: transformers' ``generate`` by settings that all stand in a record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError, unknown
from kdzoo.tasks.pieces import IGNORED

if TYPE_CHECKING:
    from torch import Tensor

MOST_TARGET = 2**17
MOST_BEAM = 1024  # more is a slip of the hand, and fills the memory


@dataclass(frozen=True)
class Decoding:
    """Beam search, without sampling.

    Attributes:
        beam: hypotheses kept; 1 is greedy search.
        length_penalty: the exponent of the length that a hypothesis' log-probability is divided by; over 0 longer ones
            gain.
        no_repeat_ngram: no n-gram of so many tokens occurs twice; 0 for no such rule.
        min_length: the fewest tokens written, the end not counted.
        max_target: the most tokens of a target, its special tokens among them, and the most written.

    Raises:
        KdzooError: a value is none that a search can have.
    """

    beam: int = 4
    length_penalty: float = 1.0
    no_repeat_ngram: int = 0
    min_length: int = 0
    max_target: int = 128

    def __post_init__(self) -> None:
        least = {"beam": 1, "no_repeat_ngram": 0, "min_length": 0, "max_target": 2}
        for name, low in least.items():
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < low:
                raise KdzooError(f"decoding: {name} is a whole number of {low} or more, got {value!r}")
        if self.beam > MOST_BEAM:
            raise KdzooError(f"decoding: beam is {self.beam}; {MOST_BEAM} hypotheses at most")
        if self.max_target > MOST_TARGET:
            raise KdzooError(f"decoding: max_target is {self.max_target}; {MOST_TARGET} tokens at most")
        penalty = self.length_penalty
        if isinstance(penalty, bool) or not isinstance(penalty, (int, float)) or not -100 <= penalty <= 100:
            raise KdzooError(f"decoding: length_penalty is a number from -100 to 100, got {penalty!r}")
        if self.length_penalty != 1.0 and self.beam == 1:
            raise KdzooError("decoding: length_penalty ranks the hypotheses of a beam, and beam is 1; leave it out")
        if self.min_length >= self.max_target:
            raise KdzooError(f"decoding: min_length {self.min_length} is not below max_target {self.max_target}")

    @classmethod
    def parse(cls, told: str | Mapping[str, Any] | None) -> Decoding:
        """From ``"beam=5,no_repeat_ngram=3"`` or a mapping; the defaults where nothing is told.

        Raises:
            KdzooError: for an unknown name, one that is named twice, or a value that does not fit.
        """
        if told is None:
            return cls()
        if isinstance(told, str):
            pairs = [part.partition("=") for part in told.split(",") if part.strip()]
            names = [name.strip() for name, _, _ in pairs]
            if twice := [name for name in names if names.count(name) > 1]:
                raise KdzooError(f"decoding: {twice[0]} is named twice")
            told = {name.strip(): _number(name.strip(), value.strip()) for name, _, value in pairs}
        known = [field.name for field in fields(cls)]
        if not isinstance(told, Mapping):
            raise KdzooError(f"decoding is {told!r}; give beam=4,max_target=128 or a mapping of such settings")
        for name in told:
            if name not in known:
                raise unknown("setting of decoding", str(name), known)
        return cls(**told)

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in asdict(self).items())

    def generate(self, model: Any, batch: Mapping[str, Any], *, several: bool = False) -> Tensor:
        """What a model writes for the sources of a batch.

        Args:
            model: an encoder-decoder of transformers, without wrappers, in evaluation mode.
            batch: its inputs; what belongs to a target is left out.
            several: all hypotheses of the beam, best first, instead of the best.

        Returns:
            (B, T) token ids with special tokens, or (B · beam, T); -100 behind the end of a text, where a model's own
            token for padding may be a word of the tokenizer's.
        """
        taken = {name: batch[name] for name in ("input_ids", "attention_mask", "token_type_ids") if name in batch}
        if "token_type_ids" in taken and not _takes_types(model):
            del taken["token_type_ids"]
        found: Tensor = model.generate(
            **taken,
            num_beams=self.beam,
            num_return_sequences=self.beam if several else 1,
            length_penalty=float(self.length_penalty) if self.beam > 1 else None,
            early_stopping=self.beam > 1,
            no_repeat_ngram_size=self.no_repeat_ngram,
            # Of the two least lengths that a model may have of its own, this one goes before the other.
            min_new_tokens=self.min_length,
            max_new_tokens=self.max_target,
            # The token that it was trained from; its own rules of writing may name another, or none.
            decoder_start_token_id=model.config.decoder_start_token_id,
            do_sample=False,
            use_cache=True,  # which a model that was trained may have switched off
            return_dict_in_generate=False,
        )
        return _without_padding(found, getattr(model.generation_config, "eos_token_id", None))


def _without_padding(ids: Tensor, ends: Any) -> Tensor:
    """Token ids (N, T) with -100 behind the first end that was written; the first token is a start."""
    if ends is None:
        return ids
    import torch

    is_end = torch.isin(ids[:, 1:], torch.as_tensor(ends, device=ids.device)).long()
    behind = is_end.cumsum(1) - is_end > 0
    return torch.cat([ids[:, :1], ids[:, 1:].masked_fill(behind, IGNORED)], dim=1)


def _takes_types(model: Any) -> bool:
    import inspect

    return "token_type_ids" in inspect.signature(model.get_encoder().forward).parameters


def _number(name: str, value: str) -> int | float:
    try:
        return float(value) if name == "length_penalty" else int(value)
    except ValueError:
        kind = "number" if name == "length_penalty" else "whole number"
        raise KdzooError(
            f"decoding: {name}={value!r} is not a {kind}; write, for example, beam=5,length_penalty=0.6"
        ) from None
