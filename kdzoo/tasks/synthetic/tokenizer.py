"""The vocabulary of the synthetic sentences, and a tokenizer over it."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from kdzoo.tasks.pieces import BERT_SPECIAL, as_bert
from kdzoo.tasks.registry import get_task
from kdzoo.tasks.synthetic import lexicon
from kdzoo.tasks.synthetic.grammar import GRAMMARS, generate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def _words(value: Any) -> set[str]:
    """The words in any nesting of dicts and tuples of text."""
    if isinstance(value, str):
        return set(value.split())
    parts = (*value.keys(), *value.values()) if isinstance(value, dict) else value
    return set().union(*map(_words, parts))


@cache
def vocabulary() -> tuple[str, ...]:
    """Every word of the grammar, sorted: the lexicon's, and those that the sentence patterns hold."""
    words = _words(tuple(value for name, value in vars(lexicon).items() if name.isupper()))
    for task in GRAMMARS:
        for split in ("train", *get_task(task).validation_splits):
            rows = generate(task, split, 200)
            words |= _words(tuple(tuple(texts) for name, texts in rows.items() if name != "label"))
    return tuple(sorted(words))


def synthetic_tokenizer() -> PreTrainedTokenizerFast:
    """A word-level tokenizer over the grammar's vocabulary, for models trained on synthetic data alone.

    Lower-cases, adds ``[CLS]`` and ``[SEP]``, gives token type ids, pads on the right; other words are ``[UNK]``.
    """
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    ids = {word: index for index, word in enumerate((*BERT_SPECIAL, *vocabulary()))}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return as_bert(tokenizer)
