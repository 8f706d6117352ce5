"""Tiny encoder-decoders, and the synthetic task's rows and vocabulary."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from torch import Tensor

from kdzoo.models.decoders import teacher_forced
from kdzoo.models.spec import ModelSpec
from kdzoo.models.vocabulary import reversible_tokenizer
from kdzoo.tasks import get_task, load


def made(train: int = 24) -> tuple[Any, Any, Any, Any]:
    """The synthetic task, its training rows as they are and encoded, and a tokenizer learned from them."""
    from datasets.utils.logging import disable_progress_bar

    disable_progress_bar()
    task = get_task("transduction")
    data = load(task, "synthetic", train_rows=train, validation_rows=8)
    tokenizer = reversible_tokenizer(task.texts(data["train"]), size=300)
    return task, data["train"], task.encode(data["train"], tokenizer, 64), tokenizer


def model(task: Any, tokenizer: Any, size: str = "2x16,heads=2", seed: int = 0) -> Any:
    built = ModelSpec.parse(size).build(task, tokenizer=tokenizer, positions=64, seed=seed)
    with torch.no_grad():
        for parameter in built.parameters():
            parameter.mul_(3 if parameter.dim() > 1 else 1)
    return built.eval()


def family(name: str, vocabulary: int) -> Any:
    """An encoder-decoder of three and two layers."""
    ids = {"pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 2}
    sizes = {"d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "max_position_embeddings": 64, **ids}
    sizes |= dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 24)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        if name in ("Bart", "Marian"):
            suffix = {"Bart": "ForConditionalGeneration", "Marian": "MTModel"}[name]
            config = getattr(transformers, f"{name}Config")(vocab_size=vocabulary, **sizes)
            return getattr(transformers, f"{name}{suffix}")(config).eval()
        if name == "T5":
            told = {"d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 2}
            return transformers.T5ForConditionalGeneration(
                transformers.T5Config(vocab_size=vocabulary, **told, **ids)
            ).eval()
        own = {"vocab_size": vocabulary, "hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 24}
        stacks = (transformers.BertConfig(num_hidden_layers=depth, **own) for depth in (3, 2))
        config = transformers.EncoderDecoderConfig.from_encoder_decoder_configs(*stacks, **ids)
        return transformers.EncoderDecoderModel(config).eval()


def inputs(batch: dict[str, Any], of: Any) -> dict[str, Tensor]:
    return teacher_forced(of, {name: batch[name] for name in ("input_ids", "attention_mask")}, batch["labels"])
