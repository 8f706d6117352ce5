"""A vocabulary learned from texts, for models that are trained from scratch: word pieces, or bytes where they write."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.tasks.pieces import BERT_SPECIAL, as_bert

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIZE = 8000  # word pieces at most
MIN_FREQUENCY = 2


def learned_tokenizer(texts: Iterable[str], *, size: int = SIZE) -> PreTrainedTokenizerBase:
    """An uncased WordPiece tokenizer with BERT's special tokens, learned from texts: the same texts give the same one.

    Args:
        texts: to learn from.
        size: the most word pieces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    texts = [*texts]
    normalizer, splitter = normalizers.BertNormalizer(lowercase=True), pre_tokenizers.BertPreTokenizer()
    # The trainer numbers the letters within words as it meets the words, in an order that changes from run to run, and
    # what is learned from equal counts depends on these numbers; so they are given.
    words = (splitter.pre_tokenize_str(normalizer.normalize_str(text)) for text in texts)
    within = sorted({letter for found in words for word, _ in found for letter in word[1:]})
    learner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    learner.normalizer, learner.pre_tokenizer = normalizer, splitter
    trainer = trainers.WordPieceTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*BERT_SPECIAL, *(f"##{letter}" for letter in within)],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    # Here the letters are no special tokens.
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens([*BERT_SPECIAL])
    tokenizer.decoder = decoders.WordPiece()
    return as_bert(tokenizer)


def reversible_tokenizer(texts: Iterable[str], *, size: int | None = None) -> PreTrainedTokenizerBase:
    """A byte-level BPE with BERT's special tokens, learned from texts, which gives back every text as it was.

    Args:
        texts: to learn from; the same texts give the same one.
        size: the most pieces; the 256 bytes are among them always. By default half as many more as there are words,
            so that words of few texts keep parts to learn from, and at most `SIZE`.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    texts = [*texts]
    if size is None:
        words = len({word for text in texts for word in text.split()})
        size = min(SIZE, 256 + len(BERT_SPECIAL) + words // 2)
    tokenizer = Tokenizer(models.BPE(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=MIN_FREQUENCY,
        special_tokens=[*BERT_SPECIAL],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.decoder = decoders.ByteLevel()
    return as_bert(tokenizer)


def with_end(tokenizer: Any, name: str) -> Any:
    """A tokenizer whose texts end with a token that says so, and that can pad: a language model's (GPT-2) gets both.

    Where it begins texts with the token that ends them (OPT's), it no longer does: a model that is trained on such
    texts would write that token first, and stop.

    Args:
        tokenizer: transformers' one; it is changed in place.
        name: of the model, for messages.

    Raises:
        KdzooError: it has no token for an end, or cannot be told to write one.
    """
    from tokenizers import processors

    end = tokenizer.eos_token or tokenizer.sep_token
    if end is None:
        raise KdzooError(
            f"the tokenizer of {name!r} has no token that ends a text (eos_token), so none would be learnt"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = end
    if ends_texts(tokenizer):
        return tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise KdzooError(f"the tokenizer of {name!r} ends no text with {end!r}, and cannot be told to; take a fast one")
    last = processors.TemplateProcessing(
        single=f"$A {end}",
        pair=f"$A {end} $B:1 {end}:1",
        special_tokens=[(end, tokenizer.convert_tokens_to_ids(end))],
    )
    own = backend.post_processor
    begins = tokenizer("a")["input_ids"][:1] == tokenizer.convert_tokens_to_ids([end])
    backend.post_processor = last if own is None or begins else processors.Sequence([own, last])
    return tokenizer


def ends_texts(tokenizer: Any) -> bool:
    """Whether the last tokens of a text, of which one may say its language, say that it ends."""
    return end_of_texts(tokenizer) is not None


def end_of_texts(tokenizer: Any) -> int | None:
    """The token that says so; None where there is none."""
    ends = {tokenizer.eos_token_id, tokenizer.sep_token_id} - {None}
    behind = tokenizer(text_target="a")["input_ids"][1:]  # the first may be a start, which some call by the same name
    return next((token for token in behind[-2:] if token in ends), None)
