"""Tiny randomly initialised encoders of every family that capture and students are tested on."""

from __future__ import annotations

from typing import Any

import torch

LAYERS, WIDTH, HEADS, VOCABULARY, LABELS = 3, 32, 4, 99, 3
SEQUENCE = 13  # shared with no other dimension, so that an (S, S) tensor can be told by its shape

_SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "num_labels": LABELS,
    "pad_token_id": 0,
}
_FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "bert": ("Bert", {}),
    "albert": ("Albert", {"embedding_size": 16}),
    "distilbert": ("DistilBert", {}),
    "roberta": ("Roberta", {}),
    "electra": ("Electra", {"embedding_size": 16}),
    # a window of two tokens to either side, in layers 1 and 2
    "modernbert": (
        "ModernBert",
        {"local_attention": 4, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2},
    ),
    "deberta": (
        "DebertaV2",
        {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_buckets": 8},
    ),
    # grouped queries: two heads share one key
    "eurobert": ("EuroBert", {"num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2}),
}
FAMILIES = [*_FAMILIES]
ATTENTION_INTERFACE = [name for name in FAMILIES if name != "deberta"]


def tiny(family: str, seed: int = 0, **options: Any) -> Any:
    """A classifier of the family in evaluation mode, its weights large enough for uneven attention."""
    import transformers

    prefix, extra = _FAMILIES[family]
    sizes = _SIZES | extra | options
    if family == "distilbert":
        sizes = {k: v for k, v in sizes.items() if k != "intermediate_size"} | {"hidden_dim": 48}
    config = getattr(transformers, f"{prefix}Config")(**sizes, initializer_range=0.3)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return getattr(transformers, f"{prefix}ForSequenceClassification")(config).eval()


def batch(rows: int = 4, padded: bool = True) -> dict[str, torch.Tensor]:
    """Token ids and a mask, with rows of different lengths padded on the right."""
    generator = torch.Generator().manual_seed(1)
    ids = torch.randint(5, VOCABULARY, (rows, SEQUENCE), generator=generator)
    mask = torch.ones_like(ids)
    if padded:
        lengths = torch.tensor([SEQUENCE, 7, 10, 3])[torch.arange(rows) % 4]
        mask = (torch.arange(SEQUENCE) < lengths[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}
