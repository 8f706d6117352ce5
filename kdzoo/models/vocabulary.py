"""A WordPiece vocabulary learned from texts, for models that are trained from scratch."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SIZE = 8000  # word pieces at most
MIN_FREQUENCY = 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")


def learned_tokenizer(texts: Iterable[str], *, size: int = SIZE) -> PreTrainedTokenizerBase:
    """An uncased WordPiece tokenizer with BERT's special tokens, learned from texts: the same texts give the same one.

    Args:
        texts: to learn from.
        size: the most word pieces.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

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
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in within)],
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    # Here the letters are no special tokens.
    tokenizer = Tokenizer(models.WordPiece(learner.get_vocab(), unk_token="[UNK]"))
    tokenizer.normalizer, tokenizer.pre_tokenizer = normalizer, splitter
    tokenizer.add_special_tokens([*SPECIAL])
    ids = {token: tokenizer.token_to_id(token) for token in SPECIAL}
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", ids["[CLS]"]), ("[SEP]", ids["[SEP]"])],
    )
    tokenizer.decoder = decoders.WordPiece()
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
