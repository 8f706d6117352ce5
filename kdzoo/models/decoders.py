"""What an encoder-decoder has beside an encoder: a stack of its own, a token to start from, inputs made of targets."""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, KdzooWarning
from kdzoo.models.heads import has_decoder, stack_config, unwrap, vocabulary_size
from kdzoo.models.vocabulary import end_of_texts
from kdzoo.tasks.pieces import IGNORED
from kdzoo.tasks.source_target import target_part


def teacher_forced(model: nn.Module, inputs: dict[str, Tensor], labels: Any) -> dict[str, Tensor]:
    """A model's inputs with the target before each of its words, where it is an encoder-decoder.

    Args:
        model: wrapped or not.
        inputs: what it is given; with ``decoder_input_ids`` among them they stay as they are.
        labels: (B, T) token ids, -100 in padding; None where there are none.

    Returns:
        The inputs, of an encoder-decoder with ``decoder_input_ids`` (B, T), the labels after the token that it starts
        from, and ``decoder_attention_mask`` (B, T).
    """
    if not isinstance(labels, Tensor) or "decoder_input_ids" in inputs or not has_decoder(model):
        return inputs
    before = unwrap(model).prepare_decoder_input_ids_from_labels(labels)
    return {**inputs, "decoder_input_ids": before, "decoder_attention_mask": (labels != IGNORED).long()}


def check_decoder(model: Any, what: str, longest: int | None, tokenizer: Any = None) -> None:
    """Refuse a model that cannot write a target.

    Args:
        model: it may have no weights.
        what: how it is called in messages.
        longest: the most tokens of a target; None where none is written.
        tokenizer: whose targets it writes; None where it is not known.

    Raises:
        KdzooError: it has no decoder, nothing to start from or to pad with, or fewer positions; it takes another token
            for the start of a text than it is trained from, or for the end than the tokenizer does.
    """
    if longest is None:
        return
    inner = unwrap(model)
    if not has_decoder(inner):
        raise KdzooError(
            f"{what} ({type(inner).__name__}) has no decoder; take an encoder-decoder such as BART, T5 or Marian"
        )
    config, words = inner.config, vocabulary_size(inner.config)
    for name in ("decoder_start_token_id", "pad_token_id"):
        token = getattr(config, name, None)
        if token is None:
            raise KdzooError(
                f"{what} ({type(inner).__name__}) has no {name}, without which it cannot write; set it in config.json "
                "to the token that its decoder was trained with"
            )
        if not isinstance(token, int) or not 0 <= token < words:
            raise KdzooError(
                f"{what} ({type(inner).__name__}) has {name}={token!r}, and its decoder's vocabulary has {words} "
                "tokens; set it in config.json to the token that its decoder was trained with (where it says none, "
                "transformers' own for this kind of model is taken)"
            )
    if tokenizer is not None:
        _check_start(inner, what, tokenizer)
        _check_first(inner, what, tokenizer)
        _check_end(inner, what, tokenizer)
    most = decoder_positions(inner)
    if most is not None and longest > most:
        raise KdzooError(
            f"{what}'s decoder has {most} positions, and max_target is {longest}; take max_target={most} or less"
        )


def _check_start(model: Any, what: str, tokenizer: Any) -> None:
    """Refuse a model that is trained from another token than it writes from: mBART is from the last of a target."""
    target = torch.tensor([tokenizer(text_target="a")["input_ids"]], device="cpu")
    first, own = int(model.prepare_decoder_input_ids_from_labels(target)[0, 0]), model.config.decoder_start_token_id
    if first != own:
        raise KdzooError(
            f"{what} ({type(model).__name__}) is trained from {first}, the last token of a target, and would write "
            f"from decoder_start_token_id={own}; set it to {first} in config.json, or have the tokenizer write "
            "targets in the language that it names (tgt_lang)"
        )


def _check_first(model: Any, what: str, tokenizer: Any) -> None:
    """Refuse a model that writes another first token than it learns to; warn of one that is told no language."""
    tokenizer = target_part(tokenizer)
    first = int(tokenizer(text_target="a")["input_ids"][0])
    word = tokenizer.convert_ids_to_tokens(first)
    told = getattr(getattr(model, "generation_config", None), "forced_bos_token_id", None)
    if told is not None and told != first:
        raise KdzooError(
            f"{what} ({type(model).__name__}) writes forced_bos_token_id={told!r} first, and its tokenizer's targets "
            f"begin with {first}, {word!r}; set it to {first} in its generation_config.json, leave it out, or have "
            "the tokenizer write targets in the language that it names (tgt_lang)"
        )
    usual = {getattr(tokenizer, f"{name}_token_id") for name in ("bos", "cls", "eos", "sep", "pad", "unk", "mask")}
    if told is None and first in {*tokenizer.all_special_ids} - usual:
        warnings.warn(
            f"{what} ({type(model).__name__}) is not told in which language to write: its tokenizer's targets begin "
            f"with {word!r}; unless it is trained on such, set forced_bos_token_id to {first} in its "
            "generation_config.json",
            KdzooWarning,
            stacklevel=3,
        )


def _check_end(model: Any, what: str, tokenizer: Any) -> None:
    """Refuse a model that would write on behind what it learns to be the end of a text."""
    end = end_of_texts(tokenizer)
    told = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if end is None or end in (told if isinstance(told, (list, tuple)) else [told]):
        return
    raise KdzooError(
        f"{what} ({type(model).__name__}) has eos_token_id={told!r}, and its tokenizer ends targets with {end}: it "
        f"would find no end; set eos_token_id to {end} in its generation_config.json, or in config.json where it "
        "has no such file"
    )


def decoder_positions(model: Any) -> int | None:
    """How many target tokens a model with a table of positions takes; None where nothing bounds them."""
    config = stack_config(unwrap(model).config, decoder=True)
    found = getattr(config, "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None


def decoder_sizes(config: Any) -> tuple[int, int, int] | None:
    """A decoder's layers, width and heads; None of a configuration without one."""
    if not getattr(config, "is_encoder_decoder", False):
        return None
    own = stack_config(config, decoder=True)
    names = (
        ("decoder_layers", "num_decoder_layers", "num_hidden_layers"),
        ("hidden_size",),
        ("decoder_attention_heads", "num_attention_heads"),
    )
    layers, width, heads = (next(getattr(own, name) for name in of if hasattr(own, name)) for of in names)
    return layers, width, heads


def use_cache(model: Any, told: bool | None) -> None:
    """Have a model keep of each word it writes what the next ones need, or not; None for what says nothing about it.

    transformers' Trainer switches it off, for the passes that train need none, and off it would be saved.
    """
    config, writing = (getattr(model, name, None) for name in ("config", "generation_config"))
    if config is not None and told is None:
        vars(config).pop("use_cache", None)
    elif config is not None:
        config.use_cache = told
    if writing is not None:
        writing.use_cache = told is not False
