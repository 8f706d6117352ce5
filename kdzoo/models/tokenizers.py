"""The tokenizers of models that are loaded, and of those whose stacks read pretrained ones."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kdzoo.errors import KdzooError
from kdzoo.models.heads import vocabulary_size
from kdzoo.models.loading import load_tokenizer
from kdzoo.models.vocabulary import with_end
from kdzoo.tasks.source_target import SourceTargetTokenizer, source_part

if TYPE_CHECKING:
    from kdzoo.models.spec import ModelSpec

# One of these holds a vocabulary.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
    "spm.model",
)


def has_tokenizer(spec: ModelSpec) -> bool:
    """Whether a model's folder, or all that it reads, holds a tokenizer's vocabulary; a hub name is taken to."""
    if spec.reads:
        return all(has_tokenizer(type(spec)(read.path, path=read.path)) for read in spec.reads)
    return spec.path is not None and (
        spec.folder is None or any((spec.folder / name).is_file() for name in TOKENIZER_FILES)
    )


def tokenizer_of(spec: ModelSpec) -> Any:
    """The tokenizer of a model that is loaded, or of the pretrained ones that a model of a size reads.

    Raises:
        KdzooError: it has none, or one that does not fit its weights; the pretrained models that it reads have
            different ones, or one that cannot end a text.
    """
    if spec.reads:
        parts = (type(spec)(read.path, path=read.path) for read in spec.reads)
        first, *others = (source_part(tokenizer_of(part)) for part in parts)
        if others and others[0].get_vocab() != first.get_vocab():
            raise KdzooError(
                f"{spec.text!r}: the pretrained models of encoder and decoder have different vocabularies, and a "
                "model reads and writes one; take two with the same tokenizer"
            )
        return with_end(first, spec.text)
    assert spec.path is not None
    if spec.folder is not None and not has_tokenizer(spec):
        raise KdzooError(
            f"{spec.path!r} has no tokenizer files ({', '.join(TOKENIZER_FILES[:4])} ...); copy those it was "
            "trained with into it, with tokenizer.save_pretrained"
        )
    known = hasattr(spec.config, "vocab_size") or spec.config.is_encoder_decoder
    separate = bool(getattr(spec.config, "separate_targets", False))
    tokenizer = load_tokenizer(spec.path, separate_targets=separate or None)
    if isinstance(tokenizer, SourceTargetTokenizer) and not separate:
        raise KdzooError(
            f"{spec.path!r} has a tokenizer for targets, and its config.json is of a model that writes the tokens that "
            "it reads (separate_targets); put back the files that the model was saved with"
        )
    _check_entries(spec.path, tokenizer, vocabulary_size(spec.config) if known else None)
    if separate:
        _check_entries(spec.path, source_part(tokenizer), (spec.config.source or {}).get("vocab_size"))
    return tokenizer


def told_of_targets(*models: ModelSpec | None) -> dict[str, bool]:
    """What a configuration says of models that write other words than they read; nothing where there is none.

    Before this was said, such a model wrote the words that it read; its records do not go together with those of now.
    """
    return {"separate_targets": True} if any(model is not None and model.separate_targets for model in models) else {}


def _check_entries(path: str, tokenizer: Any, entries: int | None) -> None:
    """Refuse a tokenizer with tokens that a model has no embeddings for.

    Raises:
        KdzooError: names both numbers.
    """
    if entries is not None and len(tokenizer) > entries:
        raise KdzooError(
            f"the tokenizer at {path!r} has {len(tokenizer)} tokens and its model embeddings for {entries}; "
            "take the tokenizer that the model was trained with"
        )
