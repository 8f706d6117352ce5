"""ALBERTs made from sizes: layers that share their weights, and embeddings in two factors, begun from a teacher's.

Source: Lan et al. (2020), ALBERT, section 3.1, for the architecture; what they begin from is ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError, unknown
from kdzoo.models.heads import hidden_size, num_heads, num_layers
from kdzoo.models.seeding import seeded

if TYPE_CHECKING:
    from kdzoo.models.spec import ModelSpec

STARTS = ("mean", "middle", "none")
# A layer's parts in ALBERT and in BERT, whose arithmetic is the same.
PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.LayerNorm": "attention.output.LayerNorm",
    "ffn": "intermediate.dense",
    "ffn_output": "output.dense",
    "full_layer_layer_norm": "output.LayerNorm",
}
KEPT = (  # of a teacher's configuration
    "vocab_size",
    "max_position_embeddings",
    "type_vocab_size",
    "pad_token_id",
    "bos_token_id",
    "eos_token_id",
    "hidden_act",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
    "initializer_range",
    "layer_norm_eps",
    "id2label",
    "label2id",
    "problem_type",
)


@dataclass(frozen=True)
class Sharing:
    """What a description of an ALBERT says beside its size.

    Attributes:
        embedding: E, the width of the embeddings.
        groups: how many sets of weights the layers share.
        start: what the shared layers begin from: the ``"mean"`` of a teacher's layers, the ``"middle"`` one, or
            ``"none"``, new weights; by default the mean where the teacher's layers have the same sizes.
    """

    embedding: int = 128
    groups: int = 1
    start: str | None = None

    @classmethod
    def parse(cls, text: str) -> tuple[str, Sharing]:
        """The size in a description ``4x312,heads=12,embedding=64,groups=2,from=middle``, and the rest.

        Raises:
            KdzooError: a number that is none, or another thing to begin from.
        """
        size: list[str] = []
        found: dict[str, Any] = {}
        for option in text.split(","):
            name, _, value = (part.strip() for part in option.partition("="))
            if name in ("embedding", "groups"):
                if not value.isdecimal() or not 1 <= int(value) < 10**6:
                    raise KdzooError(f"'albert:{text}': {name}={value!r} is not a whole number of 1 or more")
                found[name] = int(value)
            elif name == "from":
                if value not in STARTS:
                    raise unknown("start of an ALBERT's layers", value, STARTS)
                found["start"] = value
            else:
                size.append(option)
        return ",".join(size), cls(**found)


def albert_config(spec: ModelSpec, like: dict[str, Any], heads: int) -> Any:
    """The configuration of an ALBERT of a size; its other fields are those given.

    Raises:
        KdzooError: there are more groups than layers.
    """
    from transformers import AlbertConfig

    assert spec.sharing is not None and spec.layers is not None and spec.width is not None
    if spec.sharing.groups > spec.layers:
        raise KdzooError(
            f"{spec.text!r}: {spec.layers} layers make at most that many groups, not {spec.sharing.groups}"
        )
    return AlbertConfig(
        num_hidden_layers=spec.layers,
        hidden_size=spec.width,
        num_attention_heads=heads,
        intermediate_size=spec.feed_forward or 4 * spec.width,
        embedding_size=spec.sharing.embedding,
        num_hidden_groups=spec.sharing.groups,
        **like,
    )


def albert_student(spec: ModelSpec, teacher: Any, kind: Any, seed: int) -> Any:
    """An ALBERT begun from a teacher of BERT's form.

    Its word embeddings are a factor of the teacher's in a truncated SVD; where the widths are equal, the other
    factor is the map to the hidden states, its layers begin from the teacher's as `Sharing` says, and the pooler and
    the head are the teacher's where they have one.

    Args:
        spec: with its ``sharing``.
        teacher: the model.
        kind: the class of transformers that makes it.
        seed: of what is not begun from the teacher.

    Raises:
        KdzooError: the teacher is of another form, or its sizes do not allow what is asked for.
    """
    source = teacher.config
    if "num_hidden_groups" in source.to_dict():
        raise KdzooError(f"{spec.text!r}: the teacher shares its layers already; a size such as 4x312 does too")
    assert spec.sharing is not None and spec.width is not None
    like = {name: getattr(source, name) for name in KEPT if getattr(source, name, None) is not None}
    most = num_heads(source)
    heads = spec.heads or max(h for h in range(1, min(most, spec.width) + 1) if spec.width % h == 0)
    weights = teacher.base_model.state_dict()
    words = weights.get("embeddings.word_embeddings.weight")
    if words is None or words.shape[1] != hidden_size(source):
        raise KdzooError(f"{spec.text!r}: {type(teacher).__name__} has no word embeddings of its width to factorise")
    offset = _first_position(teacher)
    like["max_position_embeddings"] = source.max_position_embeddings - offset
    if spec.sharing.embedding > words.shape[1]:
        raise KdzooError(
            f"{spec.text!r}: embedding={spec.sharing.embedding} is more than the teacher's {words.shape[1]}; an "
            "ALBERT's embeddings are narrower"
        )
    with seeded(seed):
        student = kind.from_config(albert_config(spec, like, heads), trust_remote_code=False).float()
    layers = _shared_layers(spec, student, weights, source)
    if words.is_meta:
        return student
    state = dict(layers)
    if spec.width == words.shape[1] and "pooler.dense.weight" in weights:
        state |= {f"pooler.{part}": weights[f"pooler.dense.{part}"] for part in ("weight", "bias")}
    state |= _embeddings(weights, spec.sharing.embedding, offset, to_width=spec.width == words.shape[1])
    student.base_model.load_state_dict(state, strict=False)
    own, theirs = getattr(student, "classifier", None), getattr(teacher, "classifier", None)
    if isinstance(own, nn.Linear) and isinstance(theirs, nn.Linear) and own.weight.shape == theirs.weight.shape:
        own.load_state_dict(theirs.state_dict())
    return student


def factorised(matrix: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """The truncated SVD of a matrix (V, D) as two factors (V, E) and (E, D), whose product is nearest to it."""
    wide = matrix.double()
    # Of the small Gram matrix: V is some ten thousands, D some hundreds.
    _, vectors = torch.linalg.eigh(wide.mT @ wide)
    right = vectors[:, -rank:].flip(-1)
    return (wide @ right).to(matrix.dtype), right.mT.to(matrix.dtype)


def _embeddings(weights: dict[str, Tensor], rank: int, offset: int, *, to_width: bool) -> dict[str, Tensor]:
    """The embeddings' weights: words, positions and types in the SVD's coordinates, and the way back.

    What BERT's norm takes off, the mean over D, is left out before. ALBERT's takes off the mean over E: so coordinates
    are turned until that is the direction of the least singular value.
    """
    tables = {"word": 0, "position": offset, "token_type": 0}
    there = {
        n: t[at:] for n, at in tables.items() if (t := weights.get(f"embeddings.{n}_embeddings.weight")) is not None
    }
    centred = {name: table - table.mean(1, keepdim=True) for name, table in there.items()}
    _, right = factorised(centred["word"], rank)
    across = torch.full((rank,), rank**-0.5, dtype=right.dtype)
    across[-1] -= 1
    if across.norm() > 0:  # a reflection, which exchanges the last coordinate and the mean
        across = across / across.norm()
        right = right - 2 * torch.outer(across, across @ right)
    found = {f"embeddings.{name}_embeddings.weight": table @ right.mT for name, table in centred.items()}
    scale, shift = (weights.get(f"embeddings.LayerNorm.{part}") for part in ("weight", "bias"))
    if to_width and scale is not None and shift is not None:
        # ALBERT normalises E coordinates, BERT all D: what comes out is longer by the root of D / E.
        longer = (right.shape[1] / rank) ** 0.5
        found["encoder.embedding_hidden_mapping_in.weight"] = scale.unsqueeze(1) * right.mT * longer
        found["encoder.embedding_hidden_mapping_in.bias"] = shift
    return found


def _shared_layers(spec: ModelSpec, student: Any, weights: dict[str, Tensor], source: Any) -> dict[str, Tensor]:
    """The weights of the shared layers, from the teacher's.

    Raises:
        KdzooError: they are asked for, and the teacher's are of other sizes.
    """
    assert spec.sharing is not None
    layer, wanted = "encoder.albert_layer_groups.{}.albert_layers.0.{}.{}", spec.sharing.start
    there = student.base_model.state_dict()
    fits = all(
        there[layer.format(0, own, part)].shape == getattr(weights.get(f"encoder.layer.0.{of}.{part}"), "shape", None)
        for own, of in PARTS.items()
        for part in ("weight", "bias")
    ) and student.config.num_attention_heads == num_heads(source)
    if not fits:
        if wanted in ("mean", "middle"):
            raise KdzooError(
                f"{spec.text!r}: the layers begin from the teacher's where width, heads and feed-forward width are "
                f"equal ({hidden_size(source)}, {num_heads(source)}); leave from={wanted} out for new ones"
            )
        return {}
    if wanted == "none":
        return {}
    found, count = {}, num_layers(source)
    for group in range(spec.sharing.groups):
        first = group * count // spec.sharing.groups
        last = max((group + 1) * count // spec.sharing.groups, first + 1)
        taken = [(first + last - 1) // 2] if wanted == "middle" else [*range(first, last)]
        for own, of in PARTS.items():
            for part in ("weight", "bias"):
                all_of = torch.stack([weights[f"encoder.layer.{at}.{of}.{part}"] for at in taken])
                found[layer.format(group, own, part)] = all_of.mean(0)
    return found


def _first_position(teacher: Any) -> int:
    """The place of the first token in the table of positions: RoBERTa's begin after the padding's."""
    table = getattr(getattr(teacher.base_model, "embeddings", None), "position_embeddings", None)
    padding = getattr(table, "padding_idx", None)
    return 0 if padding is None else int(padding) + 1
