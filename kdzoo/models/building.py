"""Configurations and weights of models that are made from sizes or from a teacher's layers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from kdzoo.errors import KdzooError
from kdzoo.models.albert_students import albert_config
from kdzoo.models.heads import attends, hidden_size, num_heads, num_layers, whole_states
from kdzoo.models.loading import check_fits

if TYPE_CHECKING:
    from kdzoo.models.spec import ModelSpec

POSITIONS = 128  # of a BERT made from a size, where its rows are not longer


def student_config(spec: ModelSpec, teacher_config: Any) -> Any:
    """The configuration of an encoder as a student: a fresh one, or one made from teacher layers.

    Everything but the sizes is the teacher's: architecture, vocabulary, positions, dropout, labels. A
    factorised embedding (ALBERT, ELECTRA) keeps the teacher's embedding size. ModernBERT's pattern of local
    and global layers is the teacher's first layers', or that of the copied layers.

    Raises:
        KdzooError: a layer the teacher does not have, layers that are shared (ALBERT) or pool tokens (Funnel), or a
            spec that is a path.
    """
    if whole_states(teacher_config) is not None:
        raise KdzooError(
            f"a {teacher_config.model_type} has its layers in blocks that pool tokens, so no student is made in its "
            "form; name a student's folder or hub name"
        )
    if spec.decoder is not None or spec.teacher_decoder is not None or spec.reads:
        kind = teacher_config.model_type
        raise KdzooError(f"{spec.text!r} is of a model with a decoder, and the teacher ({kind}) has none")
    old = teacher_config.to_dict()
    layers = num_layers(teacher_config)
    if spec.teacher_layers is not None:
        if "num_hidden_groups" in old:
            raise KdzooError(
                f"{teacher_config.model_type} shares one set of weights among its layers, so none can be "
                "chosen; give a size such as 4x312"
            )
        if wrong := [i for i in spec.teacher_layers if i >= layers]:
            raise KdzooError(f"the teacher has {layers} layers: layer {wrong[0]} is not in 0 to {layers - 1}")
        chosen, sizes = spec.teacher_layers, {"num_hidden_layers": len(spec.teacher_layers)}
    elif spec.layers is not None and spec.width is not None:
        width, heads = spec.width, _heads_of(spec, teacher_config)
        sizes = {
            "num_hidden_layers": spec.layers,
            "hidden_size": width,
            **({} if heads is None else {"num_attention_heads": heads}),
            "hidden_dim" if "hidden_dim" in old else "intermediate_size": spec.feed_forward or 4 * width,
        }
        chosen = tuple(i % layers for i in range(spec.layers))
        # fields that follow from the sizes, in the architectures that have them
        follow = {
            "pooler_hidden_size": width,
            "embedding_size": width if old.get("embedding_size") == hidden_size(teacher_config) else None,
            "num_hidden_groups": min(old.get("num_hidden_groups") or 1, spec.layers),
            "num_key_value_heads": heads,
            "head_dim": width // (heads or 1),
        }
        sizes |= {name: value for name, value in follow.items() if name in old and value is not None}
    else:
        raise KdzooError(f"{spec.path!r} is a path, whose configuration is in its own config.json")
    new = old | {teacher_config.attribute_map.get(name, name): value for name, value in sizes.items()}
    if old.get("layer_types"):
        new["layer_types"] = [old["layer_types"][i] for i in chosen]
    config = type(teacher_config).from_dict(new)
    config.name_or_path = ""
    return config


def _heads_of(spec: ModelSpec, teacher_config: Any) -> int | None:
    """The heads of a student of a size: as many as the teacher, or the next smaller number that divides its width."""
    assert spec.width is not None
    if not attends(teacher_config):
        if spec.heads is not None:
            raise KdzooError(f"{spec.text!r}: the teacher ({teacher_config.model_type}) has no heads; leave heads= out")
        return None
    return spec.heads or most_heads(spec.width, num_heads(teacher_config))


def most_heads(width: int, most: int) -> int:
    """The largest number of heads, ``most`` or fewer, that divides a width."""
    return max(heads for heads in range(1, most + 1) if width % heads == 0)


def copy_layers(teacher: Any, student: Any, layers: tuple[int, ...]) -> None:
    count = num_layers(teacher.config)
    lists = [n for n, m in teacher.named_modules() if isinstance(m, nn.ModuleList) and len(m) == count]
    if not lists:
        raise KdzooError(
            f"{type(teacher).__name__} keeps its {count} layers in no list, so none can be chosen; give a size"
        )
    prefix, place = f"{lists[0]}.", {str(layer): str(i) for i, layer in enumerate(layers)}
    copied = {}
    for key, value in teacher.state_dict().items():
        if key.startswith(prefix):
            layer, _, rest = key.removeprefix(prefix).partition(".")
            if layer not in place:
                continue
            key = f"{prefix}{place[layer]}.{rest}"
        copied[key] = value
    student.load_state_dict(copied, strict=False)  # not strict for ModernBERT's first layer


def fresh_config(spec: ModelSpec, tokenizer: Any, head: dict[str, Any], positions: int = POSITIONS) -> Any:
    """The configuration of a BERT (or an ALBERT) of a size, to be trained from scratch on a tokenizer's vocabulary.

    Args:
        spec: a size.
        tokenizer: whose tokens it reads.
        head: fields of the configuration that a task decides.
        positions: the most tokens a row has.
    """
    from transformers import BertConfig

    assert spec.layers is not None and spec.width is not None
    heads = spec.heads or most_heads(spec.width, 4)
    like: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": max(POSITIONS, positions),
        "pad_token_id": tokenizer.pad_token_id,
        # A model this narrow learns from scratch in a few hundred steps only with larger first weights and without
        # dropout; its students inherit both.
        "initializer_range": 0.1,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **head,
    }
    if spec.sharing is not None:
        return albert_config(spec, like | {"classifier_dropout_prob": 0.0}, heads)
    return BertConfig(
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=heads,
        intermediate_size=spec.feed_forward or 4 * spec.width,
        **like,
    )


def parse_layers(spec: str) -> tuple[int, ...]:
    """The teacher's layers that ``teacher:1,3,5`` names.

    Raises:
        KdzooError: it names none, something else, or one twice.
    """
    listed = [part.strip() for part in spec.removeprefix("teacher:").split(",")]
    if listed == [""]:
        raise KdzooError("'teacher:' names no layers; list them, counted from 0, as in teacher:1,3,5")
    if wrong := [part for part in listed if not part.isdecimal() or len(part) > 9]:
        raise KdzooError(f"{spec!r}: {wrong[0]!r} is not a layer; layers are counted from 0: teacher:1,3,5")
    layers = tuple(int(part) for part in listed)
    if repeated := [i for i in layers if layers.count(i) > 1]:
        raise KdzooError(f"{spec!r} repeats layer {repeated[0]}; name each layer once")
    return layers


def check_sizes(spec: ModelSpec) -> None:
    """Refuse sizes that no model has, or that this machine cannot hold.

    Raises:
        KdzooError: names the size.
    """
    sizes = {
        "number of layers": spec.layers,
        "width": spec.width,
        "number of heads": spec.heads,
        "number of decoder layers": spec.decoder,
        "feed-forward width": spec.feed_forward,
    }
    for name, size in sizes.items():
        if size is not None and size < 1:
            raise KdzooError(f"a model's {name} is at least 1, not {size}")
    if spec.layers and spec.width:
        layers = spec.layers + (spec.decoder or 0)
        weights = layers * spec.width * (4 * spec.width + 2 * (spec.feed_forward or 4 * spec.width))
        check_fits(f"the model {spec.text!r}", layers, spec.width, weights)
    if spec.heads and spec.width and spec.width % spec.heads:
        raise KdzooError(f"{spec.heads} heads do not divide a model's width of {spec.width}")
