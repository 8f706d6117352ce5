"""ALBERT's size: layers whose parameters are shared, and embeddings in two factors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdzoo.errors import KdzooError

_DEFAULTS = {
    "embedding_size": 128,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "num_hidden_groups": 1,
    "inner_group_num": 1,
}


def albert_parameters(config: Any) -> int:
    """How many parameters an ALBERT encoder has, with its pooler and without any head.

    However many layers there are, each group of shared ones counts once.

    Args:
        config: an ``AlbertConfig``, or anything that has ``vocab_size``, ``hidden_size`` and ``intermediate_size`` as
            attributes or keys; what else it lacks is as in ALBERT-base.

    Raises:
        KdzooError: one of these is missing, or is no whole number of 1 or more.

    Source: Lan et al. (2020), ALBERT, section 3.1 and table 1.
    """
    vocabulary, hidden, inner = (_size(config, name) for name in ("vocab_size", "hidden_size", "intermediate_size"))
    factor, positions, types, groups, repeated = (_size(config, name) for name in _DEFAULTS)
    embeddings = (vocabulary + positions + types + 2) * factor  # 2: the layer norm's scale and shift
    projection = factor * hidden + hidden
    attention = 4 * (hidden * hidden + hidden)
    feed_forward = 2 * hidden * inner + inner + hidden
    norms = 4 * hidden
    pooler = hidden * hidden + hidden
    return embeddings + projection + groups * repeated * (attention + feed_forward + norms) + pooler


def _size(config: Any, name: str) -> int:
    own = config.get(name) if isinstance(config, Mapping) else getattr(config, name, None)
    value = _DEFAULTS.get(name) if own is None else own
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise KdzooError(f"{name} of an ALBERT config must be a whole number of 1 or more, got {value!r}")
    return value
