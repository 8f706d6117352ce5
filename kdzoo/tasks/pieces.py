"""What every encoder here shares: words into pieces, the special tokens by name, and the one rule of truncation.

Encoders name the special tokens as BERT does, whatever the tokenizer calls them; ``token_ids`` translates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

from kdzoo.errors import KdzooError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

Pieces = Callable[[str], list[str]]
T = TypeVar("T")

CLS, SEP = "[CLS]", "[SEP]"
BERT_SPECIAL = ("[PAD]", "[UNK]", CLS, SEP, "[MASK]")  # in the order in which a vocabulary begins with them
IGNORED = -100  # the label of what does not count, as in PyTorch
# One unit each, never split, never looked up: BERT's, those of K-BERT and RoBERTa's.
SPECIAL = frozenset({*BERT_SPECIAL, "[ENT]", "[SUB]", "[PRE]", "[OBJ]"}) | frozenset(
    {"<s>", "</s>", "<pad>", "<unk>", "<mask>"}
)


def text_pieces(text: str, pieces: Pieces) -> list[str]:
    """The pieces of the words of a text, cut at white space."""
    return [piece for word in text.split() for piece in pieces(word)]


def cut_longest(parts: Sequence[list[T]], room: int, max_length: int) -> None:
    """Shorten the parts, in place, until together they hold at most ``room``: the longest one loses its last item.

    Among equally long ones it is the last of them, as in BERT's pairs.

    Args:
        parts: what is cut.
        room: how much may stay.
        max_length: what messages name.

    Raises:
        KdzooError: a part would lose all that it has.
    """
    total = sum(len(part) for part in parts)
    if total <= room:
        return
    filled = sum(bool(part) for part in parts)
    if room < filled:
        raise KdzooError(
            f"max_length {max_length} leaves no room for text; {max_length - room + filled} or more are needed here"
        )
    while total > room:
        # max gives the first of equals, so it looks from the back.
        max(reversed(parts), key=len).pop()
        total -= 1


def whole(max_length: int, least: int) -> None:
    """Refuse a ``max_length`` that holds the special tokens and nothing else."""
    if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < least:
        raise KdzooError(f"max_length must be a whole number of {least} or more, got {max_length!r}")


def tokenizer_pieces(tokenizer: PreTrainedTokenizerBase) -> Pieces:
    """The word → pieces function of a transformers tokenizer, remembered by word.

    Where a word's pieces depend on the space before it (byte-level BPE), every word gets one.
    """
    spaced = tokenizer.tokenize("a a")
    lead = " " if len(spaced) == 2 and spaced[0] != spaced[1] else ""

    @lru_cache(maxsize=1 << 16)
    def cut(word: str) -> tuple[str, ...]:
        return tuple(tokenizer.tokenize(lead + word))

    return lambda word: list(cut(word))


def token_ids(tokens: Iterable[str], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """The ids of an encoder's tokens; ``[CLS]`` and ``[SEP]`` are the tokenizer's own special tokens.

    Raises:
        KdzooError: the tokenizer has no such special token.
    """
    own: dict[str, Any] = {CLS: tokenizer.cls_token_id, SEP: tokenizer.sep_token_id}
    for name, there in own.items():
        if there is None:
            raise KdzooError(f"this tokenizer has no {name} token, and the encoding needs one")
    tokens = list(tokens)
    ids = cast("list[int]", tokenizer.convert_tokens_to_ids(tokens))
    return [own.get(token, number) for token, number in zip(tokens, ids, strict=True)]


def as_bert(tokenizer: Any) -> PreTrainedTokenizerFast:
    """A tokenizer of the library `tokenizers` as transformers has one, with BERT's special tokens around its texts."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    ids = {token: tokenizer.token_to_id(token) for token in BERT_SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        padding_side="right",
        model_input_names=["input_ids", "token_type_ids", "attention_mask"],
        model_max_length=512,
    )
