"""Encoder-decoders that are made: from scratch, from sizes, or from a teacher's layers, of each stack by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.building import POSITIONS, student_config
from kdzoo.models.decoders import decoder_sizes
from kdzoo.models.heads import longest_row, num_layers, stack_config
from kdzoo.models.vocabulary import end_of_texts
from kdzoo.tasks.source_target import SourceTargetTokenizer

if TYPE_CHECKING:
    from kdzoo.models.spec import ModelSpec


def fresh_stacks(spec: ModelSpec, tokenizer: Any, positions: int = POSITIONS) -> Any:
    """The configuration of a BART of a size, to be trained from scratch on a tokenizer's vocabulary.

    The embeddings of source and target and the output layer are one table, of the target's words where a stack reads a
    pretrained model instead.

    Args:
        spec: a size; its decoder is as deep as its encoder where it does not say.
        tokenizer: whose tokens it reads and writes; of two parts where its encoder alone reads a pretrained model.
        positions: the most tokens a row has.
    """
    kind, read, most = _represented(spec)
    if isinstance(tokenizer, SourceTargetTokenizer):
        assert spec.separate_targets
        read["separate_targets"] = True
    wanted = max(POSITIONS, positions)
    assert spec.layers is not None and spec.width is not None
    heads = spec.heads or max(h for h in range(1, 5) if spec.width % h == 0)
    inner = spec.feed_forward or 4 * spec.width
    return kind(
        **_words(tokenizer),
        d_model=spec.width,
        encoder_layers=spec.layers,
        decoder_layers=spec.decoder or spec.layers,
        encoder_attention_heads=heads,
        decoder_attention_heads=heads,
        encoder_ffn_dim=inner,
        decoder_ffn_dim=inner,
        max_position_embeddings=wanted if most is None else min(wanted, most),
        forced_eos_token_id=None,
        # A model this narrow learns from scratch in a few hundred steps only with larger first weights and without
        # dropout; its students inherit both.
        init_std=0.1,
        dropout=0.0,
        attention_dropout=0.0,
        activation_dropout=0.0,
        **read,
    )


def _words(tokenizer: Any) -> dict[str, Any]:
    """What a configuration says of a tokenizer's vocabulary."""
    last = end_of_texts(tokenizer)
    end = _first(tokenizer, "eos", "sep") if last is None else last
    begin = _first(tokenizer, "bos", "cls")
    # A text begins after the end of another, as in BART, and as a language model has read them.
    own = {"bos_token_id": begin, "eos_token_id": end, "decoder_start_token_id": end}
    return {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id, **own}


def _represented(spec: ModelSpec) -> tuple[Any, dict[str, Any], int | None]:
    """The kind of configuration that reads the pretrained models of a size, what it says of them, and their positions.

    Of plain sizes, which read none, a BART's. The positions are None where nothing bounds them.

    Raises:
        KdzooError: one of them has two stacks itself.
    """
    from transformers import BartConfig

    if not spec.reads:
        return BartConfig, {}, None
    from kdzoo.models.representations import RepresentedConfig

    told: dict[str, Any] = {}
    most: list[int] = []
    for read in spec.reads:
        config = type(spec)(read.path, path=read.path).config
        if getattr(config, "is_encoder_decoder", False):
            raise KdzooError(
                f"{read.option}={read.path}: a {config.model_type} is an encoder-decoder, and a stack reads one stack; "
                f"take {'a causal model such as GPT-2' if read.stack == 'decoder' else 'an encoder such as BERT'}"
            )
        told |= read.told(config)
        found = _positions(config)
        most += [found] if isinstance(found, int) and found > 0 else []
    return RepresentedConfig, told, min(most, default=None)


def _positions(config: Any) -> Any:
    """The most tokens that a pretrained model takes; RoBERTa leaves the first of its table of positions unused."""
    from transformers import AutoModel

    try:
        with torch.device("meta"):
            return longest_row(AutoModel.from_config(config, trust_remote_code=False))
    except Exception:  # of any kind; that it makes no model is said where one is made
        return getattr(config, "max_position_embeddings", None)


def _first(tokenizer: Any, *names: str) -> int | None:
    return next((found for name in names if (found := getattr(tokenizer, f"{name}_token_id")) is not None), None)


def student_stacks(spec: ModelSpec, teacher: Any) -> Any:
    """The configuration of a student of an encoder-decoder; everything but the sizes is the teacher's.

    Args:
        spec: a size, or a teacher's layers.
        teacher: its configuration.

    Raises:
        KdzooError: a layer that the teacher does not have.
    """
    depths = num_layers(teacher), _decoder_layers(teacher)
    own = spec.teacher_layers, spec.teacher_decoder or spec.teacher_layers
    for layers, depth, stack in zip(own, depths, ("encoder", "decoder"), strict=True):
        if wrong := [layer for layer in layers or () if layer >= depth]:
            told = spec.teacher_decoder or stack == "encoder"
            raise KdzooError(
                f"the teacher's {stack} has {depth} layers: layer {wrong[0]} is not in 0 to {depth - 1}"
                + ("" if told else "; name its layers after a slash: teacher:1,3/0")
            )
    if stack_config(teacher) is not teacher:
        parts = {
            "encoder": replace(spec, decoder=None, teacher_decoder=None),
            "decoder": replace(
                spec, layers=spec.decoder or spec.layers, teacher_layers=own[1], decoder=None, teacher_decoder=None
            ),
        }
        made = {name: student_config(part, getattr(teacher, name)).to_dict() for name, part in parts.items()}
        return _configured(teacher, made)
    if spec.reads or (spec.layers is not None and "source" in teacher.to_dict()):
        teacher = _reading(spec, teacher)
    old = teacher.to_dict()
    if spec.layers is None or spec.width is None:
        assert own[0] is not None and own[1] is not None
        sizes = _by_stack(old, len(own[0]), len(own[1]), "layers")
    else:
        most = old.get("encoder_attention_heads") or teacher.num_attention_heads
        heads = spec.heads or max(h for h in range(1, min(most, spec.width) + 1) if spec.width % h == 0)
        inner = spec.feed_forward or 4 * spec.width
        sizes = {
            "d_model": spec.width,
            **_by_stack(old, spec.layers, spec.decoder or spec.layers, "layers"),
            **_by_stack(old, heads, heads, "heads"),
            **_by_stack(old, inner, inner, "inner"),
            **({"d_kv": spec.width // heads} if "d_kv" in old else {}),
        }
    return _configured(teacher, sizes)


def _reading(spec: ModelSpec, teacher: Any) -> Any:
    """A teacher's configuration with the pretrained models that the student is to read, or without any."""
    from transformers import BartConfig

    if not isinstance(teacher, BartConfig):
        raise KdzooError(
            f"{spec.text!r}: only a BART can read pretrained models, and the teacher is {teacher.model_type}"
        )
    kind, read, most = _represented(spec)
    said = ("model_type", "source", "arm", "decoder_source", "decoder_arm", "separate_targets")
    plain = {name: value for name, value in teacher.to_dict().items() if name not in said}
    if most is not None:
        plain["max_position_embeddings"] = min(most, plain["max_position_embeddings"])
    if spec.separate_targets:
        read["separate_targets"] = True  # it writes the teacher's words
    elif spec.reads:
        own = _words(spec.tokenizer)
        if own["vocab_size"] > teacher.vocab_size or own["eos_token_id"] != teacher.eos_token_id:
            plain |= own  # it reads and writes other words than the teacher
    return kind.from_dict(plain | read)


# How flat configurations call the sizes of their encoder and decoder; T5 tells its decoder apart by its layers alone.
_NAMES = {
    "layers": (("encoder_layers", "num_layers"), ("decoder_layers", "num_decoder_layers")),
    "heads": (("encoder_attention_heads", "num_heads"), ("decoder_attention_heads",)),
    "inner": (("encoder_ffn_dim", "d_ff"), ("decoder_ffn_dim",)),
}


def _by_stack(old: dict[str, Any], encoder: int, decoder: int, what: str) -> dict[str, int]:
    """The fields of a size, of those that a configuration has."""
    both = zip(_NAMES[what], (encoder, decoder), strict=True)
    return {name: value for names, value in both for name in names if name in old}


def _configured(teacher: Any, changed: dict[str, Any]) -> Any:
    old = teacher.to_dict()
    if "num_hidden_layers" in old and "encoder_layers" in changed:  # BART's files say it twice
        changed = {**changed, "num_hidden_layers": changed["encoder_layers"]}
    config = type(teacher).from_dict(old | changed)
    config.name_or_path = ""
    return config


def _decoder_layers(config: Any) -> int:
    sizes = decoder_sizes(config)
    assert sizes is not None
    return sizes[0]


def copy_stacks(teacher: Any, student: Any, encoder: tuple[int, ...], decoder: tuple[int, ...]) -> None:
    """Copy a teacher's weights into a student that has some of its encoder's and decoder's layers.

    Args:
        teacher: an encoder-decoder.
        student: of the same kind, with as many layers as are chosen.
        encoder, decoder: the teacher's layers, from 0.
    """
    depths = num_layers(teacher.config), _decoder_layers(teacher.config)
    stacks = (teacher.get_encoder(), teacher.get_decoder())
    place: dict[str, dict[str, str]] = {}
    for stack, depth, chosen in zip(stacks, depths, (encoder, decoder), strict=True):
        lists = [part for part in stack.modules() if isinstance(part, nn.ModuleList) and len(part) == depth]
        names = [name for name, part in teacher.named_modules() if lists and part is lists[0]]
        if not names:
            raise KdzooError(
                f"{type(teacher).__name__} keeps its layers in no list, so none can be chosen; give a size"
            )
        place[f"{names[0]}."] = {str(layer): str(at) for at, layer in enumerate(chosen)}
    weights, wanted = teacher.state_dict(), student.state_dict()
    copied = {}
    for key, value in weights.items():
        prefix = next((prefix for prefix in place if key.startswith(prefix)), None)
        if prefix is not None:
            layer, _, rest = key.removeprefix(prefix).partition(".")
            if layer not in place[prefix]:
                continue
            key = f"{prefix}{place[prefix][layer]}.{rest}"
        if key in wanted:
            copied[key] = value
    # T5's first layer alone holds the positions' bias, which is that of all layers.
    copied |= {key: weights[key] for key in wanted.keys() - copied.keys() if key in weights}
    student.load_state_dict(copied, strict=False)
