"""Where a transformers model keeps its parts: layers, widths, embeddings and the classification head."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from kdzoo.errors import KdzooError

_QKV_NAMES = (  # queries, keys and values in the families whose attention does not go through the interface
    ("q", "k", "v"),
    ("query", "key", "value"),
    ("query_proj", "key_proj", "value_proj"),
    ("q_lin", "k_lin", "v_lin"),
)
CAUSAL = ("bloom", "mpt", "openai-gpt")  # of whose layers none says so


def unwrap(model: nn.Module) -> Any:
    """The transformers model inside all wrappers: PEFT's, ``torch.compile``'s, DistributedDataParallel, DataParallel.

    Raises:
        KdzooError: one of the wrappers is DataParallel over several devices, whose replicas cannot be followed, or
            puts tokens of its own before the text (prompt tuning).
    """
    while (inner := _inside(model)) is not None:
        model = inner
    return model


def check_transformers(model: Any) -> None:
    """Refuse what has no configuration of transformers, from which layers and widths are read.

    Raises:
        KdzooError: says what to do with a model of another library.
    """
    if not isinstance(model, nn.Module):
        raise KdzooError(f"a model is a torch.nn.Module, got {type(model).__name__}: {str(model)[:80]!r}")
    if not hasattr(unwrap(model), "config"):
        raise KdzooError(
            f"{type(unwrap(model)).__name__} is no model of transformers: it has no config that says its layers and "
            "widths. Give its tensors to a loss, or to an objective as kdzoo.Activations(...) after "
            "objective.bind(kdzoo.ModelShape(...), kdzoo.ModelShape(...)): docs/own-loop.md has an example"
        )


def savable(model: nn.Module) -> Any:
    """The model inside parallel and compiling wrappers: a transformers model, or PEFT's, which saves its adapters."""
    while not is_peft(model) and (inner := _inside(model)) is not None:
        model = inner
    return model


def is_peft(model: nn.Module) -> bool:
    """Whether this is a ``peft.PeftModel`` itself; a compiled one shows all attributes of what is inside."""
    return (
        "_orig_mod" not in getattr(model, "_modules", {})
        and hasattr(model, "peft_config")
        and callable(getattr(model, "get_base_model", None))
    )


def _inside(model: nn.Module) -> nn.Module | None:
    if isinstance(model, nn.DataParallel):
        if len(model.device_ids) > 1:
            raise KdzooError("activations cannot be captured under DataParallel; start one process a device: torchrun")
        return model.module
    if isinstance(model, nn.parallel.DistributedDataParallel):
        return model.module
    if is_peft(model):
        of: Any = model
        if any(getattr(adapter, "is_prompt_learning", False) for adapter in of.peft_config.values()):
            raise KdzooError(
                "PEFT's prompt methods put tokens of their own before the text, which the teacher does not see; take "
                "adapters that keep the text as it is, such as LoRA"
            )
        return of.get_base_model()
    inner = getattr(model, "_orig_mod", None)
    return inner if isinstance(inner, nn.Module) else None


def num_layers(config: Any) -> int:
    """How many layers a transformers configuration has; hidden states go from 0 to this number."""
    return _size(config, "num_hidden_layers")


def hidden_size(config: Any) -> int:
    """The width D of the hidden states under a transformers configuration."""
    return _size(config, "hidden_size")


def num_heads(config: Any) -> int:
    """The number of attention heads A under a transformers configuration."""
    return _size(config, "num_attention_heads")


def attends(config: Any) -> bool:
    """Whether a configuration's models have attention heads: FNet mixes tokens by Fourier transforms and has none."""
    own = stack_config(config)
    return any(getattr(of, "num_attention_heads", None) is not None for of in (own, type(own)()))


def whole_states(config: Any) -> int | None:
    """The last hidden state with a place for each token; None where all have: Funnel's blocks but the first pool."""
    blocks: Any = getattr(config, "block_sizes", ())
    return int(blocks[0]) if len(blocks) > 1 else None


def states_by_layer(model: nn.Module) -> bool:
    """Whether a model shows one hidden state a layer.

    Not so CANINE's, which have those of three stacks, nor Funnel's that run layers several times or have a decoder.
    """
    inner = unwrap(model)
    of_funnel = hasattr(inner.config, "block_repeats")
    several = of_funnel and (max(inner.config.block_repeats) > 1 or hasattr(inner.base_model, "decoder"))
    return not several and not hasattr(inner.config, "downsampling_rate")


def _size(config: Any, name: str) -> int:
    """A size of a configuration.

    Raises:
        KdzooError: where it is missing, or no number that a model can have.
    """
    value = getattr(stack_config(config), name, None)
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise KdzooError(
            f"the configuration of {getattr(config, 'model_type', type(config).__name__)!r} has "
            f"{name}={value!r}; it must be a whole number of 1 or more"
        )
    return value


def stack_config(config: Any, *, decoder: bool = False) -> Any:
    """The configuration of an encoder, or of a decoder, where it is made of two (EncoderDecoder); else as it is."""
    part = getattr(config, "decoder" if decoder else "encoder", None)
    return part if hasattr(part, "hidden_size") else config


def has_decoder(model: Any) -> bool:
    """Whether this is an encoder-decoder of transformers that predicts words, wrapped or not."""
    inner: Any = unwrap(model) if isinstance(model, nn.Module) else None
    is_one = bool(getattr(getattr(inner, "config", None), "is_encoder_decoder", False))
    return is_one and hasattr(inner, "prepare_decoder_input_ids_from_labels")


def writes_targets(model: Any) -> bool:
    """`has_decoder` of a model, or of a configuration that says which class it is of."""
    if isinstance(model, nn.Module):
        return has_decoder(model)
    heads = ("ForConditionalGeneration", "MTModel", "EncoderDecoderModel")
    named = getattr(model, "architectures", None) or ()
    return bool(getattr(model, "is_encoder_decoder", False)) and any(name.endswith(heads) for name in named)


def vocabulary_size(config: Any) -> int:
    """How many words a configuration's model predicts."""
    return int(stack_config(config, decoder=True).vocab_size)


def embeddings_module(model: nn.Module) -> nn.Module:
    """The module whose output is the embedding output: words, positions and types summed and normalised.

    Its width is the embedding size, which is not the hidden size in ALBERT and ELECTRA. Of an encoder-decoder it is the
    encoder's; of T5, which has no such sum, the word embeddings.
    """
    inner = unwrap(model)
    if has_decoder(inner):
        encoder = inner.get_encoder()
        names = ("embeddings", "layernorm_embedding")
        found = [part for name in names if isinstance(part := getattr(encoder, name, None), nn.Module)]
        return found[0] if found else encoder.get_input_embeddings()
    embeddings = getattr(inner.base_model, "embeddings", None)
    return embeddings if isinstance(embeddings, nn.Module) else inner.get_input_embeddings()


def shows_qkv(model: nn.Module) -> bool:
    """Whether queries, keys and values can be captured: the attention goes through transformers' interface."""
    can = getattr(unwrap(model), "_can_set_attn_implementation", None)
    return can is None or bool(can())


def qkv_layers(model: nn.Module) -> list[tuple[nn.Module, ...]]:
    """The linear layers that make queries, keys and values, by attention layer; none where they are not told apart."""
    found = []
    for part in unwrap(model).modules():
        for names in _QKV_NAMES:
            layers = [layer for name in names if isinstance(layer := getattr(part, name, None), nn.Module)]
            weights = [getattr(layer, "weight", None) for layer in layers]
            of_vectors = all(isinstance(weight, Tensor) and weight.dim() == 2 for weight in weights)  # no convolutions
            if len(layers) == len(names) and of_vectors:
                found.append(tuple(layers))
    return found if len(found) == num_layers(unwrap(model).config) else []


def adds_position_bias(model: nn.Module) -> bool:
    """Whether a bias is added to the scores that queries and keys give (T5)."""
    return any(getattr(part, "has_relative_attention_bias", False) for part in unwrap(model).modules())


def head_positions(model: nn.Module, mask: Tensor) -> Tensor:
    """Which position a model's classification head reads, (B,): that of what is called its CLS state.

    The first real token's; of models whose head reads the last position (XLNet) that one, real or not; and of causal
    ones the last real token's, the only one that has seen the others.

    Args:
        model: wrapped or not.
        mask: (B, S), True where a token is real.
    """
    inner = unwrap(model)
    if getattr(inner.config, "summary_type", None) == "last" and hasattr(inner, "sequence_summary"):
        return torch.full((len(mask),), mask.shape[1] - 1, device=mask.device)
    places = torch.arange(mask.shape[1], device=mask.device)
    if is_causal(inner):
        return (places * mask).argmax(1)
    return mask.to(torch.uint8).argmax(1)


def is_causal(model: nn.Module) -> bool:
    """Whether a model's tokens see those before them alone."""
    inner = unwrap(model)
    flags = [getattr(module, "is_causal", None) for module in inner.modules()]
    said = [flag for flag in flags if flag is not None] or [getattr(inner.config, "model_type", "") in CAUSAL]
    return all(said) and not getattr(inner.config, "is_encoder_decoder", False)


def sees_backwards(model: nn.Module) -> bool:
    """`is_causal`, or made so by its configuration: XLM, XLNet, and encoders that are decoders there (RoFormer)."""
    config = unwrap(model).config
    told = getattr(config, "causal", False) or getattr(config, "is_decoder", False)
    return bool(told) or getattr(config, "attn_type", "bi") == "uni" or is_causal(model)


def batch_dependence(model: nn.Module) -> str | None:
    """Why a model's numbers of a row depend on the rows beside it, in words; None where they do not."""
    if getattr(unwrap(model).config, "attention_type", None) == "block_sparse":
        return "its attention is sparse or full, by the longest row of the batch"
    if "attention_mask" not in inspect.signature(unwrap(model).forward).parameters:  # FNet
        return "it takes no attention mask, so that a row's padding changes it"
    dynamic = [m for m in unwrap(model).modules() if ".quantized.dynamic" in type(m).__module__]
    return "its layers are quantised dynamically, by the range of the whole batch" if dynamic else None


def logits_by_token(model: nn.Module) -> bool:
    """Whether a model's logits are those of single tokens, (B, S, C); of an encoder-decoder of target tokens."""
    heads = ("TokenClassification", "MaskedLM", "CausalLM", "LMHeadModel", "QuestionAnswering", "ForPreTraining")
    return has_decoder(model) or any(head in type(unwrap(model)).__name__ for head in heads)


def answers_spans(model: Any) -> bool:
    """Whether a model's logits are those of starts and ends (question answering)."""
    return "QuestionAnswering" in type(unwrap(model)).__name__


def says_words(model: Any) -> bool:
    """Whether a model's logits are those of a vocabulary's words."""
    inner: Any = unwrap(model)
    return hasattr(inner, "get_output_embeddings") and inner.get_output_embeddings() is not None


def drops_out(model: nn.Module) -> bool:
    """Whether a model, as it stands, drops out at random: by PyTorch's layers, or by a rate of its own (BART)."""
    for part in model.modules():
        rate = part.p if isinstance(part, nn.Dropout) else getattr(part, "dropout", 0)
        if part.training and isinstance(rate, (int, float)) and rate > 0:
            return True
    return False


def order_head(model: Any) -> nn.Module | None:
    """The head that says whether a row's two segments are exchanged, from the pooled output; None without one."""
    inner = unwrap(model)
    found = getattr(inner, "sop_classifier", None) or getattr(getattr(inner, "cls", None), "seq_relationship", None)
    return found if isinstance(found, nn.Module) else None


def in_two_passes(model: Any) -> bool:
    """Whether a model reads a row in two passes (`kdzoo.models.bi_encoder`), so that no state is one of the row."""
    return bool(getattr(unwrap(model), "two_passes", False))


def classes_by_token(model: Any) -> bool:
    """Whether a model's logits are a task's classes token by token, and not words or places."""
    return "TokenClassification" in type(unwrap(model)).__name__


def pooled(model: nn.Module, states: Tensor, mask: Tensor | None) -> Tensor:
    """A model's representation of each row: the mean over its real tokens, unless the model has its own.

    A model that takes something else for a row says so with a method ``pooled(states, mask)`` of these arguments.

    Args:
        model: wrapped or not.
        states: (B, S, D), the hidden states of one layer.
        mask: (B, S), True where a token is real, or None.

    Returns:
        (B, D); zero for a row without a real token.
    """
    own = getattr(unwrap(model), "pooled", None)
    if callable(own):
        return own(states, mask)
    if mask is None:
        return states.mean(1)
    # Filled, so that what lies in padding cannot reach a value or a gradient; summed in float32 or wider, as losses
    # are.
    real = states.to(torch.promote_types(states.dtype, torch.float32)).masked_fill(~mask.unsqueeze(-1), 0.0)
    return (real.sum(1) / mask.sum(1, keepdim=True).clamp_min(1)).to(states.dtype)


def classification_head(model: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a model makes of the CLS state of its last layer, as a function of such states.

    Args:
        model: a transformers sequence classifier whose head looks at the first position.

    Returns:
        A function of (B, D) states that gives (B, C) logits, without dropout. Gradients flow through it.

    Raises:
        KdzooError: for a model that pools otherwise, or has no such head.
    """
    inner = unwrap(model)
    base, name = inner.base_model, type(inner).__name__
    if logits_by_token(inner):
        raise KdzooError(f"{name} has a head on every token, and none on its first position")
    classifier = getattr(inner, "classifier", None)
    if classifier is None or getattr(inner.config, "classifier_pooling", "cls") != "cls":
        raise KdzooError(f"{name} has no classification head on its first position")

    def head(states: Tensor) -> Tensor:
        given, states = states.dtype, states.to(next(classifier.parameters()).dtype)
        if not isinstance(classifier, nn.Linear):  # RoBERTa and ELECTRA keep all of it in one module
            return classifier(states.unsqueeze(1)).to(given)
        if hasattr(inner, "pre_classifier"):
            states = inner.pre_classifier(states).relu()
        elif hasattr(inner, "head"):
            states = inner.head(states)
        elif hasattr(base, "pooler_activation"):
            states = base.pooler_activation(base.pooler(states))
        elif pooler := getattr(inner, "pooler", None) or getattr(base, "pooler", None):
            states = pooler(states.unsqueeze(1))
        return classifier(states).to(given)

    return head


def positions(model: nn.Module) -> int | None:
    """How many tokens a model with a table of positions takes; None where nothing bounds them."""
    if has_decoder(model):
        return _bound(model)
    for name, module in unwrap(model).named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding):
            # RoBERTa's positions begin after the padding's.
            reserved = 0 if module.padding_idx is None else module.padding_idx + 1
            return module.num_embeddings - reserved
    return None


def longest_row(model: nn.Module) -> int | None:
    """The most tokens of a row: what the table of positions takes, or without one, what its configuration says."""
    return positions(model) or _bound(model)


def _bound(model: nn.Module) -> int | None:
    found = getattr(stack_config(unwrap(model).config), "max_position_embeddings", None)
    return found if isinstance(found, int) and found > 0 else None  # XLNet's is -1
